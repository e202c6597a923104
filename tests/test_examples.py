"""The files of examples/: all are read and checked, and two run whole on a tiny model."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM

from nas_engine.jobs.job import run_job
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.settings_file import read_settings, schema
from tests.tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_example_is_read_and_says_how_it_is_run(file: Path) -> None:
    settings = read_settings(file, JobSettings)
    assert settings.folder == Path("runs") / file.stem
    assert f"nas-engine search examples/{file.name}" in file.read_text()
    assert f"`examples/{file.name}`" in (ROOT / "docs" / "jobs.md").read_text()
    if os.sep in settings.task:
        assert Path(settings.task).is_file()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_editor_finds_nothing_wrong_with_an_example(file: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(YAML(typ="safe").load(file), schema(JobSettings))


@pytest.mark.parametrize("name", ["perplexity", "energy"])
def test_an_example_runs_on_a_tiny_model(tmp_path, name: str) -> None:
    model = tiny_llama(max_position_embeddings=1024)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    given = read_settings(ROOT / "examples" / f"{name}.yaml", JobSettings)
    small = {"train": 40, "validation": 12, "selection": 12, "test": 12, "batch_size": 4, "tokens": 16}
    steps = {"lora_steps": min(given.lora_steps, 3), "heal_steps": min(given.heal_steps, 2)}
    settings = replace(
        given, folder=tmp_path / "run", model=str(tmp_path / "model"), evaluations=6, population=4, driver="nsga2",
        skip=given.skip if given.space else False, **small, **steps,
    )  # fmt: skip
    done = run_job(settings, progress=False)
    quality = done.summary["quality"]
    assert quality == {"perplexity": "perplexity", "energy": "accuracy"}[name]
    assert {quality, "latency", "parameters"} <= {o.name for o in done.search.objectives}
    assert done.summary["chosen"][quality]["n"] == 12
    assert read_settings(tmp_path / "run" / "job.yaml", JobSettings) == settings
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "compressed", trust_remote_code=True)
    page = (tmp_path / "run" / "report.html").read_text()
    assert quality in page
    if name == "energy":
        assert {o.name for o in done.search.objectives if o.optimized} == {"accuracy", "latency", "battery"}
        kept = done.search.frame[done.search.frame["feasible"]]
        assert (kept["battery"] <= 0.8 * done.search.reference["battery"] + 1e-9).all()
    else:
        assert done.summary["perplexity_rise"] == pytest.approx(
            done.summary["chosen"]["perplexity"]["value"] / done.summary["reference"]["perplexity"]["value"] - 1,
            abs=1e-3,
        )
        assert json.loads((tmp_path / "run" / "data.json").read_text())["kind"] == "text"
