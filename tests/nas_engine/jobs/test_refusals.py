"""A mistake in a job file ends the job before its first stage, with the line of the file and what is allowed."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas_engine.cli import app
from tests.tiny import tiny_llama, tiny_tokenizer

MODULE = """from evaluators import cost_model


@cost_model(unit="J", direction="minimize")
def joules(subnet):
    return float(subnet.parameter_count())


@cost_model(unit="J", direction="minimize")
def mistaken(subnet):
    return 1 / 0


@cost_model(unit="J", direction="minimize")
def endless(subnet):
    return float("inf")


def undecorated(subnet):
    return 1.0
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("refused")
    tiny_llama(num_hidden_layers=2).save_pretrained(made / "model")
    tiny_tokenizer().save_pretrained(made / "model")
    rows = [{"question": f"{i} + 1?", "choices": [str(i + 1), str(i + 2)], "answer": 0} for i in range(40)]
    (made / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    (made / "costs_that_are_refused.py").write_text(MODULE)
    (made / "broken_costs.py").write_text("def joules(:\n")
    (made / "costs_without_a_key.py").write_text("raise RuntimeError('no key')\n")
    return made


def said(place: Path, text: str, *options: str) -> str:
    begin = {"model": place / "model", "task": place / "questions.jsonl", "folder": place / "run", "train": 8}
    begin |= {"validation": 4, "selection": 4, "test": 4, "tokens": 8}
    (place / "job.yaml").write_text("".join(f"{name}: {value}\n" for name, value in begin.items()) + text)
    done = CliRunner().invoke(app, ["search", str(place / "job.yaml"), *options], env={"COLUMNS": "200"})
    assert done.exit_code == 1, done.output
    assert not list((place / "run").glob("*/")), "a stage began"
    return str(done.output)


@pytest.mark.parametrize(
    ("text", "message"),
    [  # the text begins in line 9
        ("objectives:\n- accuracy\n- latencie\n", "line 9: nothing measures 'latencie'; did you mean latency?"),
        ("constraints:\n- latency <= 3\n- latencie <= 3\n", "line 11: the constraint 'latencie <= 3' is on 'latencie'"),
        ("constraints: [latency =< 3]\n", "line 9: the constraint 'latency =< 3' cannot be read. Write an objective,"),
        ("minimize: bytes\n", "line 9: minimize is 'bytes'; choose one of latency, parameters"),
        ("metric: f1\n", "line 9: metric is 'f1' with data of the kind multiple_choice; choose one of auto, accuracy"),
        ("metric: f2\n", "line 9: metric is 'f2'; it should be 'auto', 'accuracy', "),
        ("kind: chats\n", "line 9: kind is 'chats'; it should be 'auto', 'multiple_choice', "),
        ("space:\n- lora_rank: {ranks: [8, 4], targets: [z]}\n", "line 9: this model has no projection 'z'; choose"),
        ("space:\n- lora_rank: {ranks: [8]}\n", "line 9: nothing can be searched: every part of the space has one"),
        ("space:\n- weight_bits: {bits: [16, 8]}\ngroup_size: 7\n", "line 11: group_size is 7, which does not divide"),
        ("evaluators:\n- weight_bytes\n- costs_that_are_refused:mistaken\n", "line 11: mistaken cannot tell of the"),
        ("evaluators: [costs_that_are_refused:endless]\n", "line 9: endless cannot tell of the whole model: it gives"),
        ("evaluators: [costs_that_are_refused:undecorated]\n", "line 9: .* it takes subnet. A function that measures"),
        ("evaluators: [costs_that_are_refused.joules]\n", "line 9: there is no .* One of yours is written module:attr"),
        ("evaluators: ['broken_costs:joules']\n", "line 9: 'broken_costs:joules' cannot be imported: SyntaxError: "),
        ("evaluators:\n- weight_bytes\n- ended: {prompts: [a, b], chat: true}\n", "line 11: ended: the tokenizer has"),
        ("evaluators:\n- divergence: {prompts: [a, b], max_new_tokens: 999}\n", "line 10: divergence: prompt 1 "),
        ("evaluators: ['costs_without_a_key:joules']\n", "line 9: .* cannot be imported: RuntimeError: no key"),
    ],
)  # fmt: skip
def test_a_mistake_is_said_with_its_line_before_the_first_stage(place, monkeypatch, text: str, message: str) -> None:
    monkeypatch.chdir(place)
    assert_said(message, said(place, text))


def test_an_option_that_counts_instead_is_not_looked_for_in_the_file(place) -> None:
    output = said(place, "metric: accuracy\nminimize: latency\n", "--metric", "f1")
    assert_said("^Error: metric is 'f1' with data of the kind", output.splitlines()[-1])
    output = said(place, "minimize: latency\n", "--minimize", "bytes")
    assert_said("^Error: minimize is 'bytes'", output.splitlines()[-1])


def assert_said(pattern: str, output: str) -> None:
    assert re.search(pattern, output), output
