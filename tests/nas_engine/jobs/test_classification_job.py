"""examples/bert_classification.yaml on a tiny encoder, in a process of its own, whose standard error is read."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from evaluators import Classification
from nas_engine import SuperNetwork, load_data
from nas_engine.errors import NasEngineError
from nas_engine.jobs.job import run_job
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.settings_file import read_settings
from tests.processes import started
from tests.talkative import FOREIGN
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[3]
SIZES = {"train": 40, "validation": 12, "selection": 12, "test": 24}


def small(folder: Path, **changes) -> JobSettings:
    """The example's job on an encoder without a head, of two layers."""
    given = read_settings(ROOT / "examples" / "bert_classification.yaml", JobSettings)
    return replace(
        given, folder=folder / "run", model=str(folder / "model"), tokens=8, batch_size=4,
        lora_steps=2, steps=2, heal_steps=2, finalists=2, evaluations=5, population=4, driver="nsga2",
        evaluators=("tests.talkative:chatter",), **SIZES | changes,
    )  # fmt: skip


def with_model(folder: Path) -> None:
    tiny_bert(num_hidden_layers=2).bert.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")


def run(folder: Path, changes: dict) -> None:
    """The job, its standard error in a file, and beside it what was printed on purpose."""
    os.dup2(os.open(folder / "stderr", os.O_CREAT | os.O_WRONLY), 2)
    spoken, printed = [], Console.print

    def heard(console: Console, message: str, **how) -> None:
        spoken.append(message)
        printed(console, message, **how)

    Console.print = heard
    os.chdir(ROOT)
    run_job(small(folder, **changes))
    (folder / "spoken.json").write_text(json.dumps(spoken))


def ran(folder: Path, **changes) -> Path:
    with_model(folder)
    process = started(run, folder, changes)
    process.join()
    assert process.exitcode == 0, (folder / "stderr").read_text()
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    return ran(tmp_path_factory.mktemp("classification"))


def only_ours(folder: Path) -> None:
    assert (folder / "stderr").read_text().splitlines() == json.loads((folder / "spoken.json").read_text())
    assert FOREIGN not in (folder / "stderr").read_text()


def test_a_classifier_is_searched_healed_and_saved(done: Path) -> None:
    summary = json.loads((done / "run" / "summary.json").read_text())
    assert summary["quality"] == "accuracy"
    assert summary["chosen"]["accuracy"]["n"] == 24
    assert summary["loads_with"] == "AutoModelForSequenceClassification"
    assert "answers" not in summary
    model = AutoModelForSequenceClassification.from_pretrained(done / "run" / "compressed", trust_remote_code=True)
    assert model.config.id2label == {0: "numpy", 1: "pandas", 2: "scipy", 3: "torch"}
    data = load_data(small(done).task, tiny_tokenizer(), max_tokens=256, **SIZES)
    held_out = Classification(data.test, max_tokens=256).measure(model, tiny_tokenizer())
    assert held_out.value == pytest.approx(summary["chosen"]["accuracy"]["value"], abs=1e-3)
    assert "accuracy" in (done / "run" / "report.html").read_text()


def test_it_tells_by_which_texts_heads_and_widths_were_ordered(done: Path) -> None:
    told = json.loads((done / "run" / "summary.json").read_text())["calibration"]
    assert told == {
        "kind": "classification",
        "texts": 40,
        "tokens": told["tokens"],
        "generated": 0,
        "scripts": {"Latin": 1.0},
    }
    said = f"the first 40 texts that are learned (classification), {told['tokens']} tokens; letters: 100 % Latin"
    assert f"calibration: {said}\n" in (done / "stderr").read_text()
    page = (done / "run" / "report.html").read_text()
    assert "told by the first 40 texts" in page
    assert "llama.cpp" not in page  # it writes no text


def test_its_super_network_is_loaded_with_its_head(done: Path) -> None:
    supernet = SuperNetwork.load(done / "run" / "supernet")
    assert isinstance(supernet.model, BertForSequenceClassification)
    assert supernet.model.config.num_labels == 4


def test_nothing_but_its_own_lines_are_on_standard_error(done: Path) -> None:
    only_ours(done)
    lines = (done / "stderr").read_text()
    assert "train: 40 examples" in lines
    assert "10 numpy" in lines
    assert "Searching 5/5, in 0:" in lines


def test_what_libraries_say_is_kept_in_the_run_folder(done: Path) -> None:
    kept = (done / "run" / "messages.log").read_text()
    for name in ("warnings", "a.library", "transformers.models"):
        assert f"{name} WARNING: " in kept
    assert kept.count(FOREIGN) >= 3
    assert "classifier.weight" in kept  # which transformers tells to be new


@pytest.mark.slow
def test_workers_are_as_quiet(tmp_path: Path) -> None:
    only_ours(ran(tmp_path, executor={"pool": {"workers": 1}}))


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    with pytest.raises(NasEngineError, match="models of type 'llama' are no classifiers here; give one of type bert"):
        run_job(small(tmp_path), progress=False)
    with_model(tmp_path)
    with pytest.raises(NasEngineError, match="llama.cpp is a target of language models here"):
        run_job(small(tmp_path, target="llama.cpp", space=()), progress=False)
    with pytest.raises(NasEngineError, match="metric is 'pearson' with data of the kind classification"):
        run_job(small(tmp_path, metric="pearson"), progress=False)
