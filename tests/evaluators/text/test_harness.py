"""A task of the lm-evaluation-harness on an extracted sub-network, offline, from a local JSONL file."""

import json
import math
import sys

import pytest

from evaluators import HarnessTask, MultipleChoiceAccuracy
from nas_engine.loop import search
from tests.evaluators.multiple_choice.test_multiple_choice import questions
from tests.supernets import random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
  - metric: acc_norm
metadata:
  version: 3.0
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install nas-engine[lm-eval]")
    folder = tmp_path_factory.mktemp("tasks")
    lines = [{"question": q.question, "choices": list(q.choices), "answer": q.answer} for q in questions(12)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "tiny_choice.yaml").write_text(TASK.format(data=folder / "data.jsonl"))
    return folder


@pytest.fixture(scope="module")
def acc(folder):
    return HarnessTask("tiny_choice", include_path=folder, batch_size=4)


@pytest.mark.extras
def test_task_scores_the_extracted_subnetwork_as_our_own_accuracy_does(acc) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.smallest))
    measured, expected = acc(subnet), MultipleChoiceAccuracy(questions(12))(subnet)
    assert measured.value == pytest.approx(expected.value)
    assert measured.stderr == pytest.approx(expected.stderr)
    assert measured.n == 12
    assert (acc.name, acc.direction) == ("tiny_choice_acc", "maximize")


@pytest.mark.extras
def test_limit_cuts_the_task_short_and_settings_say_so(folder, acc) -> None:
    limited = HarnessTask("tiny_choice", "acc_norm,none", limit=5, include_path=folder)
    measured = limited.measure(tiny_llama(), tiny_tokenizer())
    assert measured.n == 5
    assert math.isfinite(measured.value)
    assert limited.settings() != acc.settings()
    assert acc.settings()["versions"] == {"tiny_choice": "3.0"}
    assert json.loads(json.dumps(acc.settings())) == acc.settings()


@pytest.mark.extras
def test_task_is_an_objective_of_a_search(acc) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()))
    result = search(supernet, [acc], driver="random", evaluations=2, progress=False)
    assert result.frame["tiny_choice_acc"].notna().all()


@pytest.mark.extras
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "tiny_chioce"}, "no task 'tiny_chioce', but tiny_choice"),
        ({"metric": "bleu"}, "tiny_choice has no metric 'bleu'; it has acc, acc_norm"),
        ({"limit": 0}, "limit is 0"),
        ({"num_fewshot": -1}, "num_fewshot is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"include_path": "nowhere"}, "include_path is 'nowhere', which is no folder"),
    ],
)
def test_bad_input_is_refused(folder, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HarnessTask(**{"task": "tiny_choice", "include_path": folder} | arguments)


@pytest.mark.extras
def test_filter_that_is_not_there_is_refused(folder) -> None:
    task = HarnessTask("tiny_choice", "acc,strict-match", include_path=folder, limit=2)
    with pytest.raises(ValueError, match="gives 'acc,strict-match' as acc,none; name one of them"):
        task.measure(tiny_llama(), tiny_tokenizer())


def test_missing_harness_is_told_with_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r"pip install 'nas-engine\[lm-eval\]'"):
        HarnessTask("arc_easy")
