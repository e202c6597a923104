"""Full disks, folders that cannot be written, and two processes at once: nothing that was complete is lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from evaluators import ParameterCount, save_questions
from evaluators.whole_file import WritingError, replacing, temporary_folder
from nas_engine import SuperNetwork, search, train
from nas_engine.cli import app
from nas_engine.data.made import chain_sum
from nas_engine.errors import LedgerError
from tests.supernets import SPACE, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

QUESTIONS = chain_sum(60, seed=0)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of its own, of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system cannot be mounted here; that needs root on Linux")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def leave(folder: Path, kilobytes: int) -> Path:
    """Fill the file system of `folder` but for so much; the file that fills it."""
    filler = folder / "filler"
    filler.unlink(missing_ok=True)
    free = os.statvfs(folder)
    filler.write_bytes(b"\0" * max(0, free.f_bavail * free.f_frsize - 1024 * kilobytes))
    return filler


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_save_on_a_full_disk_says_so_and_leaves_the_older_save_whole(small_disk, tmp_path) -> None:
    first, second = (random_adapters(supernetwork(tiny_llama()), seed) for seed in (0, 1))
    smallest = [net.subnetwork(net.space.configuration(net.space.smallest)) for net in (first, second)]
    saves = {
        "supernet": [net.save for net in (first, second)],
        "subnet": [subnet.save_pretrained for subnet in smallest],
        "adapter": [net.largest.save_adapter for net in (first, second)],
    }
    expected = {name: contents(new(tmp_path / name)) for name, (_, new) in saves.items()}
    for name, (old, new) in saves.items():
        place = small_disk / name
        old(place)
        before, refused = contents(place), 0
        leave(small_disk, 4)
        with pytest.raises(WritingError, match="cannot be written.*No space left"):
            new(place)
        for kilobytes in range(0, 260, 13):
            filler = leave(small_disk, kilobytes)
            with suppress(WritingError):
                new(place)
            after = contents(place)
            refused += after == before
            assert after in (before, expected[name]), f"{name} with {kilobytes} kB left"
            filler.unlink()
            assert {entry.name for entry in small_disk.iterdir()} <= set(saves), "nothing unfinished stays"
        assert refused


def trained(folder: Path, steps: int = 6) -> SuperNetwork:
    supernet = SuperNetwork.from_pretrained(tiny_llama(), SPACE, tiny_tokenizer())
    train(supernet, QUESTIONS, steps=steps, batch_size=4, checkpoint=folder, checkpoint_every=1, progress=False)
    return supernet


def test_training_on_a_full_disk_goes_on_once_there_is_room(small_disk, tmp_path) -> None:
    expected = trained(tmp_path / "other").fingerprint()
    leave(small_disk, 40)
    with pytest.raises(WritingError, match="No space left"):
        trained(small_disk / "training")
    (small_disk / "filler").unlink()
    assert trained(small_disk / "training").fingerprint() == expected


def test_finished_training_removes_what_a_kill_after_its_last_step_has_left(tmp_path) -> None:
    trained(tmp_path, steps=1)
    (tmp_path / ".unfinished-x").mkdir()
    trained(tmp_path, steps=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["training.safetensors"]


def test_search_on_a_full_disk_keeps_its_records_and_goes_on(small_disk) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))

    def found(storage=None):
        return search(
            supernet,
            [ParameterCount()],
            driver="random",
            evaluations=30,
            population=10,
            storage=storage,
            progress=False,
        ).frame

    leave(small_disk, 16)
    with pytest.raises(LedgerError, match="cannot be written"):
        found(small_disk)
    kept = (small_disk / "ledger.log").read_bytes()
    (small_disk / "filler").unlink()
    assert found(small_disk).equals(found())
    assert (small_disk / "ledger.log").read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])


@pytest.fixture
def command(tmp_path) -> list[str]:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    save_questions(QUESTIONS, tmp_path / "questions.jsonl")
    sizes = {"validation": 8, "selection": 8, "test": 8, "lora-steps": 2, "heal-steps": 2, "finalists": 2, "rank": 4}
    sizes |= {"batch-size": 4, "evaluations": 4, "population": 4, "tokens": 8, "sensitivity": 2}
    flags = [f"--{name}={value}" for name, value in sizes.items()]
    return ["search", f"--model={tmp_path / 'model'}", f"--task={tmp_path / 'questions.jsonl'}", "--no-skip", *flags]


def test_command_on_a_full_disk_ends_with_a_sentence_and_goes_on(small_disk, command) -> None:
    for kilobytes in (8, 300):
        leave(small_disk, kilobytes)
        done = CliRunner().invoke(app, [*command, f"--folder={small_disk / 'run'}"], env={"COLUMNS": "200"})
        assert done.exit_code == 1, done.output
        assert "cannot be written" in done.output
        assert "Traceback" not in done.output
    (small_disk / "filler").unlink()
    done = CliRunner().invoke(app, [*command, f"--folder={small_disk / 'run'}"])
    assert done.exit_code == 0, done.output
    AutoModelForCausalLM.from_pretrained(small_disk / "run" / "compressed", trust_remote_code=True)
    assert not list((small_disk / "run").rglob(".unfinished-*"))


def test_folder_that_cannot_be_written_is_refused_with_a_sentence(small_disk, command) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    supernet = supernetwork(tiny_llama())
    with pytest.raises(WritingError, match="Read-only file system"):
        supernet.save(small_disk / "supernet")
    with pytest.raises(WritingError, match="Read-only file system"):
        supernet.save(small_disk)
    with pytest.raises(WritingError, match="Read-only file system"):
        trained(small_disk / "training", steps=1)
    done = CliRunner().invoke(app, [*command, f"--folder={small_disk / 'run'}"])
    assert done.exit_code == 1
    assert "cannot be written" in done.output


def test_mounted_folder_is_saved_into_and_keeps_what_else_is_there(small_disk) -> None:
    (small_disk / "notes.txt").write_text("mine")
    supernet = random_adapters(supernetwork(tiny_llama()))
    supernet.save(small_disk)
    assert SuperNetwork.load(small_disk).fingerprint() == supernet.fingerprint()
    assert (small_disk / "notes.txt").read_text() == "mine"
    assert not list(small_disk.glob(".unfinished-*"))


def test_save_replaces_the_weights_of_an_older_one_and_leaves_other_files(tmp_path) -> None:
    (tmp_path / "saved" / "base").mkdir(parents=True)
    for name in ("notes.txt", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "grids.safetensors"):
        (tmp_path / "saved" / name).write_text("old")
    supernet = random_adapters(supernetwork(tiny_llama()))
    supernet.subnetwork(supernet.space.configuration(supernet.space.smallest)).save_pretrained(tmp_path / "saved")
    left = {entry.name for entry in (tmp_path / "saved").iterdir()}
    assert "notes.txt" in left
    assert not left & {"model-00001-of-00002.safetensors", "model.safetensors.index.json", "grids.safetensors"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["saved"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "saved", trust_remote_code=True)


def test_unfinished_work_of_killed_processes_is_removed_and_that_of_living_ones_left(tmp_path) -> None:
    script = (
        "import sys, time; from evaluators.whole_file import replacing\n"
        "with replacing(sys.argv[1]) as file: file.write_text('half'); print('begun', flush=True); time.sleep(600)"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path / "file")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": os.getcwd()}) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        with replacing(tmp_path / "file") as file:
            file.write_text("whole")
        assert len(list(tmp_path.glob(".unfinished-*"))) == 1  # which is still being written
        writer.kill()
    with replacing(tmp_path / "file") as file:
        assert (tmp_path / "file").read_text() == "whole"
        file.write_text("new")
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"file": "new"}


def test_error_while_writing_leaves_the_old_file(tmp_path) -> None:
    (tmp_path / "file").write_text("old")

    def interrupted() -> None:
        with replacing(tmp_path / "file") as file:
            file.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {entry.name: entry.read_text() for entry in tmp_path.iterdir()} == {"file": "old"}


def test_link_to_a_folder_stays_a_link(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replacing(tmp_path / "link") as folder:
        folder.mkdir()
        (folder / "file").write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "file").read_text() == "new"


def test_place_for_temporary_files_that_cannot_be_written_is_named(tmp_path) -> None:
    with (
        pytest.raises(WritingError, match="no folder can be made in .*nowhere"),
        temporary_folder("x-", tmp_path / "nowhere"),
    ):
        pass


@pytest.mark.slow
def test_two_processes_on_one_checkpoint_and_one_folder_both_end_right(tmp_path) -> None:
    expected = trained(tmp_path / "other").fingerprint()
    script = (
        "import sys; from pathlib import Path; from tests.nas_engine.test_disk import trained\n"
        "net = trained(Path(sys.argv[1]) / 'training'); net.save(Path(sys.argv[1]) / 'saved'); print(net.fingerprint())"
    )
    arguments = [sys.executable, "-c", script, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment, text=True) for _ in range(2)]
    assert [process.communicate()[0].split()[-1] for process in both] == [expected] * 2
    assert json.loads((tmp_path / "saved" / "supernet.json").read_text())["format"] == 4
    assert not list(tmp_path.rglob(".unfinished-*"))
