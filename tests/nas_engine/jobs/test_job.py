"""The whole job on a tiny model, from the command line to a compressed model on disk."""

import html
import json
import math
import sys

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from evaluators import Question, save_questions
from nas_engine.cli import app
from nas_engine.data.made import chain_sum
from nas_engine.errors import SearchError, SettingsError
from nas_engine.jobs.job import run_job
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.preparations import require_driver
from nas_engine.jobs.recipe_job import ShearsSettings, run_recipe
from nas_engine.jobs.report import mcnemar
from nas_engine.page.run import read_run
from nas_engine.supernet import SuperNetwork
from tests.ordered import space_of
from tests.tiny import tiny_llama, tiny_tokenizer

BEHAVIOUR = {"prompts": ["What is 3 + 4?", "8 + 8"], "max_new_tokens": 4}


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    save_questions(chain_sum(120, seed=0), tmp_path / "questions.jsonl")
    given = {
        "model": tmp_path / "model",
        "task": tmp_path / "questions.jsonl",
        "folder": tmp_path / "run",
        "validation": 20,
        "selection": 20,
        "test": 20,
        "lora-steps": 4,
        "steps": 5,
        "heal-steps": 4,
        "finalists": 3,
        "batch-size": 4,
        "evaluations": 12,
        "population": 6,
        "layers-per-gene": 1,
        "tokens": 16,
        "tolerance": 0.2,
    }
    ranks = ["--rank", "32", "--rank", "16"]
    # In a tiny random model blocks are worth nothing, and the fastest has none that could be healed.
    return [
        "search",
        *ranks,
        "--no-skip",
        *(part for name, value in given.items() for part in (f"--{name}", str(value))),
    ]


def run(arguments: list[str]):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})


def test_command_leaves_front_figure_model_and_summary(arguments: list[str], tmp_path) -> None:
    done = run(arguments)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run"
    table, summary = pd.read_csv(folder / "front.csv"), json.loads((folder / "summary.json").read_text())
    space = SuperNetwork.load(folder / "supernet").space
    assert {*space.names, "accuracy", "latency", "parameters"} <= set(table.columns)
    assert (folder / "front.png").stat().st_size > 10_000
    assert {"reference", "chosen", "speedup", "accuracy_drop", "evaluations", "seconds"} <= set(summary)
    assert summary["evaluations"] == 12
    assert summary["settings"] | {"lora_steps": 4, "steps": 5, "heal_steps": 4, "seed": 0} == summary["settings"]
    assert summary["chosen"]["heal_steps"] == (4 if summary["finalists"][0]["leaves"] == "healed" else 0)
    assert len(summary["finalists"]) <= 3
    assert len(summary["answers"]) == 5
    for name in ("exact_match", "answers_ended"):
        assert (summary[name]["chosen"]["n"], summary[name]["reference"]["n"]) == (20, 20)
        assert 0 <= summary[name]["p_value"] <= 1
    assert "plain LoRA" in done.output
    assert "in its own words" in done.output
    drop = summary["reference"]["accuracy"]["value"] - summary["chosen"]["accuracy"]["value"]
    assert summary["accuracy_drop"] == pytest.approx(drop, abs=1e-3)
    model = AutoModelForCausalLM.from_pretrained(folder / "compressed", trust_remote_code=True)
    assert sum(p.numel() for p in model.parameters()) == summary["chosen"]["parameters"]
    assert "speed-up" in done.output
    assert "compressed/" in done.output
    again = run(["search", str(folder / "job.yaml"), "--print-config"])
    assert again.output == (folder / "job.yaml").read_text()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "report.html" in done.output
    assert "Confirmed on held-out data" in page
    assert read_run(folder).searches[0].result.frame["accuracy"].tolist() == pytest.approx(
        pd.read_csv(folder / "evaluations.csv")["accuracy"].tolist()
    )
    assert html.escape(json.loads((folder / "page.json").read_text())["command"]) in page
    assert "accuracy \\u003e= 0.6 * reference" in page
    assert '"name":"plain LoRA"' in page
    # In four steps a random model has learned nothing.
    (warning,) = summary["warnings"]
    assert "plain LoRA on the whole model has learned nothing that shows" in warning
    assert html.escape(warning[1:]) in page
    assert done.output.index(warning) < done.output.index("Search")


def test_job_stops_before_the_search_where_the_reference_learned_nothing_if_it_is_told_to(
    arguments: list[str], tmp_path
) -> None:
    done = run([*arguments, "--stop-unlearned"])
    assert done.exit_code == 1
    assert "has learned nothing that shows: its accuracy on 20 validation examples" in done.stderr
    assert "as stop_unlearned says" in done.stderr
    assert not (tmp_path / "run" / "ledger.log").exists()


def test_job_without_plotly_leaves_out_the_page_and_says_how_to_get_it(
    arguments: list[str], tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)  # as where it is not installed
    done = run([*arguments, "--heal-steps", "0", "--evaluations", "6"])
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "run" / "report.html").exists()
    assert "report.html is left out" in done.stderr
    assert 'pip install "nas-engine[report]"' in done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


def test_job_without_training_is_compared_with_the_model_as_it_is(arguments: list[str], tmp_path) -> None:
    untrained = ["--lora-steps", "0", "--steps", "0", "--heal-steps", "0", "--evaluations", "8"]
    done = run([*arguments, *untrained])
    assert done.exit_code == 0, done.output
    assert "against the model as it is;" in done.output
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8").partition("<script")[0]
    assert "the model as it is" in page
    for told in (done.output, page, json.dumps(read_run(tmp_path / "run").about.reference_name)):
        assert "plain LoRA" not in told
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["reference_name"] == "the model as it is"


def test_sensitivity_is_measured_once_and_kept(arguments: list[str], tmp_path) -> None:
    hinted = [*arguments, "--sensitivity", "4", "--driver", "surrogate"]
    assert run(hinted).exit_code == 0
    folder = tmp_path / "run"
    genes = json.loads((folder / "sensitivity.json").read_text())["genes"]
    assert set(genes) == set(SuperNetwork.load(folder / "supernet").space.names)
    before = [(folder / name).read_bytes() for name in ("sensitivity.json", "ledger.log", "evaluations.csv")]
    assert run(hinted).exit_code == 0
    assert before == [(folder / name).read_bytes() for name in ("sensitivity.json", "ledger.log", "evaluations.csv")]


@pytest.mark.slow
def test_job_with_exact_proposals_runs_whole_and_again_for_nothing(arguments: list[str], tmp_path) -> None:
    exact = [*arguments, "--sensitivity", "4", "--driver", "milp"]
    done = run(exact)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run"
    assert (folder / "compressed" / "model.safetensors").exists()
    assert "driver: milp" in (folder / "job.yaml").read_text(encoding="utf-8")
    before = [(folder / name).read_bytes() for name in ("ledger.log", "evaluations.csv")]
    assert run(exact).exit_code == 0
    assert before == [(folder / name).read_bytes() for name in ("ledger.log", "evaluations.csv")]


def test_job_that_several_processes_were_started_for_is_refused_before_work(tmp_path, monkeypatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    for start, settings in ((run_job, JobSettings), (run_recipe, ShearsSettings)):
        with pytest.raises(SettingsError, match="2 processes were started for this job"):
            start(settings(folder=tmp_path / "run"), progress=False)
    assert not (tmp_path / "run").exists()


def test_driver_that_cannot_search_what_a_job_optimizes_is_refused_before_anything_is_trained() -> None:
    assert JobSettings(driver="milp").hints == 64
    with pytest.raises(ValueError, match="sensitivity is 0 with the driver 'milp', which needs one"):
        JobSettings(driver="milp", sensitivity=0)
    space = space_of()
    require_driver("milp", space, 3, 12, 0, measured=1, hinted=True)
    for measured in (0, 2, 3):
        with pytest.raises(SearchError, match=f"and {measured} of these 3 are"):
            require_driver("milp", space, 3, 12, 0, measured=measured, hinted=True)
    with pytest.raises(SearchError, match="needs to know beforehand"):
        require_driver("milp", space, 3, 12, 0, measured=1)


def test_sensitivity_for_a_driver_that_makes_nothing_of_it_is_refused() -> None:
    assert (JobSettings().hints, JobSettings(driver="nsga2").hints, JobSettings(sensitivity=0).hints) == (64, 0, 0)
    with pytest.raises(
        ValueError, match="sensitivity is 4 with the driver 'nsga2'; give a number of questions with auto"
    ):
        JobSettings(driver="nsga2", sensitivity=4)


def test_command_started_again_pays_for_nothing_twice(arguments: list[str], tmp_path) -> None:
    run(arguments)
    folder = tmp_path / "run"
    journal, table = (folder / "ledger.log").read_bytes(), (folder / "evaluations.csv").read_bytes()
    assert run(arguments).exit_code == 0
    assert (folder / "ledger.log").read_bytes() == journal
    assert (folder / "evaluations.csv").read_bytes() == table


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--driver", "genetic", "'genetic'; choose one of auto, surrogate, milp, nsga2"),
        ("--strategy", "widest", "'widest'; choose one of uniform, sandwich, cycle, largest"),
        ("--evaluations", "0", "give at least 1"),
        ("--task", "nothing.jsonl", "no task 'nothing.jsonl'"),
        ("--width", "1.5", "widths are (1.5,); give fractions in (0, 1.0] as floats"),
        ("--folder", "/dev/null/run", "cannot be written"),
        ("--sensitivity", "-4", "sensitivity is -4 with the driver 'auto'; give a number of questions with auto"),
        ("--device", "abacus", "'abacus', which cannot be used here"),
        ("--test", "1", "test is 1; give 2 questions or more"),
        ("--selection", "1", "selection is 1; give 2 questions or more"),
        ("--tolerance", "1.5", "tolerance is 1.5"),
        ("--seed", "-1", "seed is -1"),
        ("--learning-rate", "0", "learning_rate is 0.0; it must be above 0"),
        ("--batch-size", "0", "batch_size is 0; it must be at least 1"),
        ("--tokens", "300", "tokens is 300, but the model reads 256 positions at most"),
    ],
)
def test_bad_option_ends_with_a_clear_message_and_no_traceback(
    arguments, tmp_path, option: str, value: str, message: str
) -> None:
    done = run([*arguments, option, value])
    assert done.exit_code == 1
    assert message in done.output
    assert "Traceback" not in done.output
    assert not list(tmp_path.glob("run/*"))  # no stage has begun


@pytest.mark.parametrize(("name", "folder"), [("compressed", False), ("lora", False), ("summary.json", True)])
def test_what_is_in_the_way_of_a_later_stage_is_refused_before_the_first(
    arguments: list[str], tmp_path, name: str, folder: bool
) -> None:
    (tmp_path / "run").mkdir(exist_ok=True)
    place = tmp_path / "run" / name
    if folder:
        place.mkdir()
    else:
        place.write_text("mine")
    done = run(arguments)
    assert done.exit_code == 1
    assert f"is no {'file' if folder else 'folder'}, as it will have to be" in done.output
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == [name]


def test_folder_that_is_a_file_is_refused(arguments: list[str], tmp_path) -> None:
    (tmp_path / "run").write_text("mine")
    done = run(arguments)
    assert done.exit_code == 1
    assert "run cannot be written" in done.output
    assert (tmp_path / "run").read_text() == "mine"


def test_prompt_without_room_for_an_answer_is_refused_before_the_first_stage(arguments: list[str], tmp_path) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    made = chain_sum(120, seed=0)
    for file, questions in (("train.jsonl", made[:100]), ("test.jsonl", made[100:])):
        around = len(tiny_tokenizer()(Question("", ("0", "1"), 0).prompt)["input_ids"])
        long = [Question(str(digit) * (250 - around), ("0", "1"), 0) for digit in range(10)]
        save_questions([*questions, *long] if file == "test.jsonl" else questions, folder / file)
    task = arguments[arguments.index("--task") + 1]
    done = run([str(folder) if part == task else part for part in arguments])
    assert done.exit_code == 1
    assert "takes 250 tokens and up to 32 new ones, but the model reads 256" in done.output
    assert not list(tmp_path.glob("run/*"))


def test_wrong_line_of_a_task_is_named(arguments: list[str], tmp_path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(path.read_text().replace('"answer"', '"label"', 1))
    done = run(arguments)
    assert done.exit_code == 1
    assert "line 1" in done.output


def test_other_settings_in_the_same_folder_are_refused(arguments: list[str]) -> None:
    run(arguments)
    done = run([*arguments, "--batch-size", "8"])
    assert done.exit_code == 1
    assert "batch_size: 4 there, 8 here" in done.output


def test_job_is_a_function_too(arguments: list[str], tmp_path) -> None:
    settings = JobSettings(
        folder=tmp_path / "other",
        model=str(tmp_path / "model"),
        task=str(tmp_path / "questions.jsonl"),
        validation=20,
        selection=20,
        test=20,
        lora_steps=1,
        steps=2,
        heal_steps=0,
        evaluations=6,
        population=4,
        tolerance=1.0,
        tokens=8,
        evaluators=({"divergence": BEHAVIOUR}, {"length_change": BEHAVIOUR | {"max_new_tokens": 6}}),
        constraints=("length_change <= 100",),
    )
    job = run_job(settings, progress=False)
    # The reference is what plain LoRA made, and not the largest that was trained on: that differs in what it says.
    assert 0 < job.search.reference["divergence"] < 0.1
    assert job.search.reference["length_change"] >= 1
    subnet = job.search.subnetwork(job.chosen)
    assert job.summary["chosen"]["heal_steps"] == 0
    ids = torch.arange(2, 12)[None]
    model = AutoModelForCausalLM.from_pretrained(job.folder / "compressed", trust_remote_code=True)
    with torch.inference_mode():
        assert (model(ids).logits - subnet.model(ids).logits).abs().max() < 1e-4


def test_job_for_llama_cpp_times_there_and_leaves_its_file(arguments: list[str], tmp_path) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install nas-engine[llamacpp]")
    gguf = pytest.importorskip("gguf", reason="needs gguf: pip install nas-engine[llamacpp]")
    done = run([*arguments, "--target", "llama.cpp", "--weights", "f16", "--heal-steps", "2", "--evaluations", "6"])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["export"]["check"]["exact"] < 1e-3
    assert (tmp_path / "run" / "compressed.gguf").stat().st_size == summary["export"]["bytes"]
    assert gguf.GGUFReader(tmp_path / "run" / "compressed.gguf").tensors
    assert json.loads((tmp_path / "run" / "latency_table.json").read_text())["runtime"] == "llama.cpp"
    assert "compressed.gguf" in done.output


def test_a_search_for_vllm_offers_what_it_builds_and_leaves_a_folder_for_it(arguments: list[str], tmp_path) -> None:
    done = run([*arguments, "--target", "vllm", "--heal-steps", "0", "--steps", "0", "--evaluations", "6"])
    assert done.exit_code == 0, done.output
    assert "\nfor vllm the space is narrower" in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["export"]["check"]["exact"] < 1e-3
    served = tmp_path / "run" / "compressed-vllm"
    assert summary["export"]["architecture"] in ("LlamaForCausalLM", "DeciLMForCausalLM", "TransformersForCausalLM")
    assert (served / "model.safetensors").stat().st_size == summary["export"]["bytes"]
    assert SuperNetwork.load(tmp_path / "run" / "supernet").target == "vllm"
    assert "compressed-vllm" in done.output


@pytest.mark.slow
def test_job_for_openvino_times_there_and_leaves_its_folder(arguments: list[str], tmp_path) -> None:
    pytest.importorskip("openvino", reason="needs openvino: pip install nas-engine[openvino]")
    short = ["--weights", "f32", "--heal-steps", "0", "--steps", "0", "--evaluations", "6", "--finalists", "1"]
    done = run([*arguments, "--target", "openvino", *short])
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["export"]["check"]["exact"] < 1e-2
    assert (tmp_path / "run" / "compressed-openvino" / "config.json").is_file()
    assert json.loads((tmp_path / "run" / "latency_table.json").read_text())["runtime"] == "openvino"


def test_a_target_or_weights_that_it_has_not_are_refused(arguments: list[str]) -> None:
    assert "choose one of transformers, openvino" in run([*arguments, "--target", "pytorch"]).stderr
    refused = run([*arguments, "--target", "openvino", "--weights", "q8_0"])
    assert refused.exit_code == 1
    assert "weights is 'q8_0'; for openvino there are f32, f16, int8, int4" in refused.stderr
    assert "weights is 'f16'; for transformers there are no other" in run([*arguments, "--weights", "f16"]).stderr


def test_a_model_that_the_target_cannot_hold_is_refused_before_training(arguments: list[str], tmp_path) -> None:
    pytest.importorskip("xllamacpp", reason="needs xllamacpp: pip install nas-engine[llamacpp]")
    done = run([*arguments, "--target", "llama.cpp", "--weights", "q8_0"])
    assert done.exit_code == 1
    assert "blocks of 32" in done.stderr
    assert not (tmp_path / "run" / "lora").exists()


@pytest.mark.parametrize(
    ("first", "second"), [([True] * 5, [True] * 5), ([True, False] * 10, [False, True] * 10), ([True] * 9, [False] * 9)]
)
def test_mcnemar_is_the_exact_test_of_those_that_differ(first: list[bool], second: list[bool]) -> None:
    table = [[0, 0], [0, 0]]
    for a, b in zip(first, second, strict=True):
        table[a][b] += 1
    assert mcnemar(first, second) == pytest.approx(exact_p(table[1][0], table[0][1]))


def exact_p(b: int, c: int) -> float:
    """Twice the smaller tail of a fair coin's tosses, at most 1."""
    n = b + c
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)
