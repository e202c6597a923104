"""Two processes of torch.distributed train to one process's weights, skipped blocks and all."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.processes import free_port, started, together
from tests.ranks import everything, one_of, refused
from tests.shards import killed_in_the_third_step


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """What one process left, and what two did."""
    alone, both = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("both")
    everything(alone)
    together(one_of, 2, free_port(), both)
    return alone, both


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory) -> Path:
    """What two processes left that shared the base: killed in the third step, and begun again."""
    folder = tmp_path_factory.mktemp("parts")
    port = free_port()
    killed = [started(killed_in_the_third_step, rank, port, folder) for rank in range(2)]
    for process in killed:
        process.join(300)
    assert all(process.exitcode for process in killed)
    assert (folder / "training" / "training.safetensors").exists()
    together(one_of, 2, free_port(), folder, True)
    return folder


# Of adapters that move by 1e-2 a step. Fitted weights are held in half precision, which a rounding in another order may
# round to the next number; and where a gradient is nearly none, its sign decides which way AdamW goes: hence of 99 %.
TOLERANCE = 2e-3


def differing(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """By how much 99 % of all numbers differ at most."""
    assert ours.keys() == theirs.keys()
    apart = torch.cat([(ours[name].double() - theirs[name].double()).abs().flatten() for name in ours])
    return float(apart.quantile(0.99))


@pytest.mark.parametrize("what", ["supernet", "healed"])
def test_two_processes_train_to_the_weights_of_one(runs, what: str) -> None:
    alone, both = (load_file(folder / f"{what}-0.safetensors") for folder in runs)
    assert differing(alone, both) < TOLERANCE
    other = load_file(runs[1] / f"{what}-1.safetensors")
    assert all(torch.equal(both[name], other[name]) for name in both)


@pytest.mark.parametrize("what", ["training", "healing"])
def test_checkpoint_of_two_processes_is_that_of_one(runs, what: str) -> None:
    alone, both = (load_file(folder / what / "training.safetensors") for folder in runs)
    assert differing(alone, both) < TOLERANCE
    # An adapter that a step's sub-network skips takes no step, as in one process.
    steps = [alone[name] for name in alone if name.endswith("/step")]
    assert what == "healing" or len({int(step) for step in steps}) > 1
    assert all(torch.equal(both[name], alone[name]) for name in alone if name.endswith("/step"))


def test_losses_are_those_of_whole_batches_in_every_process(runs) -> None:
    alone, both = (json.loads((folder / "losses-0.json").read_text()) for folder in runs)
    for ours, theirs in zip(alone, both, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-3)
    assert (runs[1] / "losses-1.json").read_text() == (runs[1] / "losses-0.json").read_text()


@pytest.mark.parametrize(
    "file",
    ["supernet-0", "supernet-1", "healed-0", "healed-1", "training/training", "healing/training"],
)
def test_sharded_processes_end_with_exactly_the_numbers_of_whole_ones(runs, in_parts, file: str) -> None:
    whole, parts = (load_file(folder / f"{file}.safetensors") for folder in (runs[1], in_parts))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(tensor, parts[name]) for name, tensor in whole.items())
    assert (in_parts / "losses-0.json").read_text() == (runs[1] / "losses-0.json").read_text()


@pytest.mark.parametrize(
    ("other_examples", "message"),
    [(True, "train_set is .* all processes must train"), (False, "batch_size is 1, for 2 processes")],
)
def test_processes_that_cannot_train_together_are_refused(tmp_path, other_examples: bool, message: str) -> None:
    together(refused, free_port(), tmp_path, other_examples)
    said = [(tmp_path / f"error-{rank}.txt").read_text() for rank in range(2)]
    for text in said:
        assert re.search(message, text)


@pytest.mark.slow
def test_torchrun_starts_processes_that_train_together(runs, tmp_path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        f"from pathlib import Path\nfrom tests.ranks import everything\neverything(Path({str(tmp_path)!r}))\n"
    )
    arguments = ["--nproc-per-node=2", f"--master-port={free_port()}", str(script)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    alone, both = (load_file(folder / "supernet-0.safetensors") for folder in (runs[0], tmp_path))
    assert differing(alone, both) < TOLERANCE
