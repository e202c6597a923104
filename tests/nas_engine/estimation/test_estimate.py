"""A job says beforehand what it needs, and what cannot fit is refused with the figures and a way out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
from transformers import BertForSequenceClassification
from typer.testing import CliRunner

from nas_engine.cli import app
from nas_engine.errors import EstimateError, SettingsError, TaskError
from nas_engine.estimation.tensor_bytes import bytes_of_model
from nas_engine.jobs.job import run_job
from nas_engine.jobs.job_estimate import estimate_search
from nas_engine.jobs.job_settings import JobSettings
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer

SMALL = {"train": 40, "validation": 4, "selection": 4, "test": 4, "lora_steps": 1, "heal_steps": 1, "evaluations": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("base")
    tiny_llama().save_pretrained(made)
    tiny_tokenizer().save_pretrained(made)
    return made


def free(monkeypatch, count: int) -> None:
    """As if the machine had so many bytes left."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))


def settings(folder, tmp_path, **changed) -> JobSettings:
    return JobSettings(folder=tmp_path / "run", model=str(folder), **{"task": "chain_sum"} | SMALL | changed)


def test_estimate_is_printed_and_nothing_is_done(folder, tmp_path) -> None:
    options = [word for name, value in SMALL.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    run = tmp_path / "run"
    command = ["search", "--model", str(folder), "--task", "chain_sum", "--folder", str(run), *options, "--estimate"]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    for stage in ("load", "plain LoRA", "order and fit", "sensitivity", "search", "healing", "extraction and saving"):
        assert stage in done.output
    assert "MB" in done.output
    assert not run.exists()


def test_a_classifier_is_estimated_with_the_head_that_its_labels_need(tmp_path) -> None:
    bert = tiny_bert()
    bert.bert.save_pretrained(tmp_path / "model")  # without a head
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"text": f"the cat on stone {i}", "label": ("warm", "cold", "wet")[i % 3]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked = settings(tmp_path / "model", tmp_path, task=str(tmp_path / "rows.jsonl"), tokens=8)
    made = {stage.name: stage for stage in estimate_search(asked, timed=False).stages}
    assert {"plain LoRA", "order and fit", "search", "healing", "extraction and saving"} <= set(made)
    classifier = bert.config
    classifier.num_labels = 3
    whole = BertForSequenceClassification(classifier)
    # The head is new, and trained with the adapters.
    assert made["load"].bytes == bytes_of_model(whole) - bytes_of_model(whole.classifier)
    assert made["healing"].bytes > made["load"].bytes
    with pytest.raises(SettingsError, match="llama.cpp is a target of language models"):
        estimate_search(replace(asked, target="llama.cpp"), timed=False)


@pytest.mark.slow
def test_job_that_cannot_fit_is_refused_before_anything_is_trained(folder, tmp_path, monkeypatch) -> None:
    free(monkeypatch, 200_000)
    with pytest.raises(
        EstimateError, match=r"needs \d+\.\d MB of memory, and 0\.\d MB are free on cpu.*--no-check-memory"
    ):
        run_job(settings(folder, tmp_path), progress=False)
    assert not (tmp_path / "run" / "lora").exists()
    free(monkeypatch, 1000)
    with pytest.raises(EstimateError, match="alone needs"):
        run_job(settings(folder, tmp_path), progress=False)


def test_memory_is_not_checked_where_that_is_said(folder, tmp_path, monkeypatch) -> None:
    free(monkeypatch, 1000)
    asked = settings(folder, tmp_path, task=str(tmp_path / "nowhere.jsonl"))
    with pytest.raises(EstimateError, match="alone needs"):
        run_job(asked, progress=False)
    with pytest.raises(TaskError, match="nowhere"):  # which comes after that check
        run_job(replace(asked, check_memory=False), progress=False)
