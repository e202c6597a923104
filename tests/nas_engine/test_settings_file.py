"""A settings file says what its command takes: read with lines, written with meanings, checked before work begins."""

import json
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from typer.testing import CliRunner

from evaluators import Energy, cost_model
from nas_engine.cli import app
from nas_engine.errors import SettingsError
from nas_engine.execution.pool import WorkerPool
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.recipe_job import ShearsSettings, SqftSettings
from nas_engine.settings_file import as_yaml, read_settings, schema, write_settings

HERE = "tests.nas_engine.test_settings_file"
ALL = (JobSettings, ShearsSettings, SqftSettings)


@cost_model(unit="J", direction="minimize")
def joules(subnet) -> float:
    return 2.0


def watts(of: float):
    return Energy(device="raspberry-pi-5", name=f"watts_{of:g}")


def number(text: str) -> float:
    return float(text)


def read(tmp_path: Path, text: str, kind=JobSettings, **over):
    file = tmp_path / "job.yaml"
    file.write_text(text, encoding="utf-8")
    return read_settings(file, kind, over)


@pytest.mark.parametrize("kind", ALL)
def test_what_is_written_reads_back(tmp_path, kind) -> None:
    write_settings(kind(), tmp_path / "a.yaml")
    assert read_settings(tmp_path / "a.yaml", kind) == kind()


@given(
    steps=st.integers(0, 10**6),
    rate=st.floats(1e-8, 1.0),
    widths=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4),
    task=st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=30),
)
def test_any_settings_that_are_written_read_back(tmp_path_factory, steps, rate, widths, task) -> None:
    made = JobSettings(steps=steps, learning_rate=rate, widths=tuple(widths), task=task)
    file = tmp_path_factory.mktemp("settings") / "job.yaml"
    write_settings(made, file)
    assert read_settings(file, JobSettings) == made


def test_numbers_are_written_as_people_write_them(tmp_path) -> None:
    made = read(
        tmp_path, "learning_rate: 5e-4\nwidths: [1, 0.5]\nfolder: runs/a\nskip: no\nadapter: ~\n".replace("no", "false")
    )
    assert (made.learning_rate, made.widths, made.folder) == (5e-4, (1.0, 0.5), Path("runs/a"))
    assert made.skip is False
    assert read(tmp_path, "") == JobSettings()


def test_options_count_instead_of_the_file(tmp_path) -> None:
    assert read(tmp_path, "steps: 3\nseed: 2\n", steps=4) == JobSettings(steps=4, seed=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: a\nstepz: 3\n", "line 2: there is no setting 'stepz'; did you mean steps\\?"),
        ("seed: 1\n\nsteps: '3'\n", "line 3: steps is '3'; it should be a whole number"),
        ("seed: yes\n", "line 1: seed is 'yes'; it should be a whole number"),
        ("seed: true\n", "line 1: seed is True; it should be a whole number"),
        ("widths:\n  - 1.0\n  - half\n", "line 3: widths is .*; it should be a number"),
        ("ranks: 3\n", "line 1: ranks is 3; it should be a list"),
        ("strategy: greedy\n", "line 1: strategy is 'greedy'; it should be 'uniform', 'sandwich', 'cycle' or"),
        ("seed: 0\ntolerance: 2\n", "line 2: tolerance is 2.0; give a fraction"),
        ("model: a\nmodel: b\n", "line 2: found duplicate key"),
        ("widths: [1.0\nseed: 1\n", "line 2: "),
        ("- model\n", "holds list; write settings as name: value"),
        ("space:\n  - mlp_width: {widths: [1.0]}\n  - mlp_widht: {}\n", "line 3: there is no 'mlp_widht'; did you"),
        ("space:\n- mlp_width: {width: 1}\n", "line 2: mlp_width: missing .*; it takes widths, multiple_of"),
        ("space:\n- mlp_width:\n    widths: [2.5]\n", "line 2: mlp_width: widths are \\(2.5,\\); give fractions"),
        ("space:\n- mlp_width:\n    multiple_of: 8\n    widths: 0.5\n", "line 4: mlp_width: widths is 0.5; it should "),
        ("space:\n- mlp_width:\n    widths:\n    - 1.0\n    - half\n", "line 5: mlp_width: widths is .*; it should "),
        ("space:\n- lora_rank: {ranks: [4], targets: q}\n", "line 2: lora_rank: targets is 'q'; it should be a list"),
        ("space:\n- lora_rank: {ranks: [4], share: all}\n", "line 2: lora_rank: share is 'all'; it should be 'layer'"),
        ("evaluators:\n- roofline: {device: raspberry-pi-5, tokens: many}\n", "line 2: .*tokens is 'many'; it sho"),
        ("seed:\n", "line 1: seed is empty; it should be a whole number"),
        ("space:\n- {lora_rank: {ranks: [4]}, layer_skip: {}}\n", "line 2: .* is no name; write one name"),
        (f"space:\n- {HERE}:number: {{text: '3'}}\n", "line 2: .* gives float, not a space's"),
        ("evaluators: [energi]\n", "line 1: there is no 'energi'; did you mean energy"),
        ("evaluators:\n- energy: {device: abacus}\n", "line 2: energy: .*abacus"),
        (f"evaluators:\n- {HERE}:jules\n", "line 2: .* cannot be imported: .*jules"),
        (f"evaluators:\n- {HERE}:joules: {{of: 3}}\n", "line 2: .*takes no arguments"),
        (f"evaluators:\n- {HERE}:number: {{text: '3'}}\n", "line 2: .* gives no evaluator: float cannot be called"),
        ("executor: {pool: {workers: 0}}\n", "line 1: pool: workers is 0"),
        ("space: [layer_skip]\nskip: false\n", "line 2: space is given, so that skip has no meaning"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(tmp_path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"job.yaml,? ?{message}"):
        read(tmp_path, text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere.yaml cannot be read"):
        read_settings(tmp_path / "nowhere.yaml", JobSettings)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"b.yaml"):
        read_settings(tmp_path / "b.yaml", JobSettings)


def test_parts_are_named_with_their_arguments(tmp_path) -> None:
    text = """
space:
  - lora_rank: {ranks: [8, 4], targets: [q, v]}
  - mlp_width: {widths: [1.0, 0.5], multiple_of: 32}
  - layer_skip
evaluators:
  - weight_bytes
  - energy: {device: raspberry-pi-5}
  - tests.nas_engine.test_settings_file:joules
  - tests.nas_engine.test_settings_file:watts: {of: 3}
executor: {pool: {workers: 2}}
"""
    made = read(tmp_path, text)
    assert len(made.template.dimensions) == 3
    assert [e.name for e in made.more_evaluators] == ["weight_bytes", "energy", "joules", "watts_3"]
    assert made.workplace == WorkerPool(2)
    assert read(tmp_path, as_yaml(made)) == made


def test_modules_beside_the_working_directory_are_found(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_costs_of_test.py").write_text(
        "from evaluators import cost_model\n\n\n"
        "@cost_model(unit='$', direction='minimize')\ndef dollars(subnet) -> float:\n    return 1.0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in __import__("sys").path if entry])
    assert read(tmp_path, "evaluators: ['my_costs_of_test:dollars']\n").more_evaluators[0].name == "dollars"


@pytest.mark.parametrize("kind", ALL)
def test_the_schema_describes_every_setting_and_the_printed_file_keeps_it(kind) -> None:
    made = schema(kind)
    assert set(made["properties"]) == {f.name for f in fields(kind)}
    assert all(entry["description"] for entry in made["properties"].values())
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(YAML(typ="safe").load(as_yaml(kind())), made)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"stepz": 1}, made)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ({"driver": "nsga9"}, {"driver": "nsga3"}),
        ({"target": "llamacpp"}, {"target": "llama.cpp"}),
        ({"kind": "chats"}, {"kind": "chat"}),
        ({"metric": "f2"}, {"metric": "f1"}),
        ({"space": ["layer_skipp"]}, {"space": ["layer_skip", {"mlp_width": {"widths": [1.0]}}, {"mine:space": None}]}),
        ({"evaluators": [{"energi": {}}]}, {"evaluators": ["weight_bytes", {"energy": {"device": "a"}}, "my_costs:x"]}),
        ({"executor": "pol"}, {"executor": {"ray": {"workers": 2}}}),
        ({"executor": {"pool": {}, "ray": {}}}, {"executor": None}),
    ],
)  # fmt: skip
def test_the_schema_knows_the_names_that_there_are(wrong: dict, right: dict) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(right, schema(JobSettings))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema(JobSettings))


def run(*arguments: str):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})


def test_a_command_prints_its_settings_and_its_schema(tmp_path) -> None:
    (tmp_path / "job.yaml").write_text("seed: 7\n")
    done = run(
        "search", str(tmp_path / "job.yaml"), "--print-config", "--evaluator", "{energy: {device: raspberry-pi-5}}"
    )
    assert done.exit_code == 0, done.output
    assert "# Of everything random.\nseed: 7\n" in done.output
    assert read(tmp_path, done.output) == JobSettings(seed=7, evaluators=({"energy": {"device": "raspberry-pi-5"}},))
    assert json.loads(run("schema", "sqft").output)["title"] == "SqftSettings"
    assert "did you mean search?" in run("schema", "serch").output


def test_a_wrong_file_ends_a_command_with_a_sentence(tmp_path) -> None:
    (tmp_path / "job.yaml").write_text("sede: 7\n")
    done = run("search", str(tmp_path / "job.yaml"))
    assert done.exit_code == 1
    assert "line 1: there is no setting 'sede'; did you mean seed?" in done.output
