"""Scores of classifiers: those of the papers' definitions, with errors, on real encoders."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr

from evaluators import Classification, Evaluator, Labelled, Regression
from evaluators.classification.evaluators import class_score, correlation
from nas_engine import SuperNetwork, search
from search_spaces import attention_heads, lora_rank, mlp_width
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer

WORDS = ["the cat sat", "a warm stone in their garden and then", "on", "then went north", "sat on a", "in the garden"]
EXAMPLES = [Labelled(text, i % 2, "the cat" if i % 3 else None) for i, text in enumerate(WORDS * 3)]
classes = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=3, max_size=40)


def plain(model, tokenizer) -> np.ndarray:
    """Each example alone, unpadded."""
    rows = []
    for example in EXAMPLES:
        with torch.no_grad():
            rows.append(
                model(**tokenizer(example.text, example.second, return_tensors="pt")).logits[0].double().numpy()
            )
    return np.array(rows)


@pytest.mark.parametrize("budget", [1, 30, 4096])
def test_batches_say_what_each_text_alone_gets(budget: int) -> None:
    model, tokenizer = tiny_bert(), tiny_tokenizer()
    right = np.array([example.label for example in EXAMPLES])
    said = plain(model, tokenizer)
    found = Classification(EXAMPLES, token_budget=budget).measure(model, tokenizer)
    hits = said.argmax(1) == right
    assert found.value == hits.mean()
    assert found.stderr == pytest.approx(hits.std(ddof=1) / np.sqrt(len(hits)))
    model.config.num_labels = 1
    numbers = [replace(example, label=float(example.label)) for example in EXAMPLES]
    value = Regression(numbers, token_budget=budget).measure(model, tokenizer).value
    assert value == pytest.approx(np.corrcoef(said[:, 0], right)[0, 1], abs=1e-4)


@given(classes)
def test_scores_of_two_classes_follow_from_their_definitions(pairs) -> None:
    right, said = (np.array(column) for column in zip(*pairs, strict=True))
    hits = [(r, s) for r, s in pairs].count((1, 1))
    precision, recall = (hits / max(column.sum(), 1) for column in (said, right))
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    assert class_score("f1", right, said)[0] == pytest.approx(f1)
    constant = len(set(right)) == 1 or len(set(said)) == 1
    matthews = 0.0 if constant else np.corrcoef(right, said)[0, 1]
    assert class_score("matthews", right, said)[0] == pytest.approx(matthews, abs=1e-9)


def test_matthews_of_three_classes_is_gorodkin_s() -> None:
    right, said = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 1, 1, 2, 0])
    one_hot = [np.eye(3)[column] - np.eye(3)[column].mean(0) for column in (right, said)]
    covariance = [[(a * b).sum() for b in one_hot] for a in one_hot]
    expected = covariance[0][1] / np.sqrt(covariance[0][0] * covariance[1][1])
    assert class_score("matthews", right, said)[0] == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=4, max_size=30))
def test_correlations_are_those_of_scipy(pairs) -> None:
    right, said = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    constant = len(set(right)) == 1 or len(set(said)) == 1
    for name, of in (("pearson", pearsonr), ("spearman", spearmanr)):
        expected = 0.0 if constant else of(right, said).statistic
        assert correlation(name, right, said)[0] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("metric", ["f1", "matthews"])
def test_errors_are_about_what_new_samples_spread(metric: str) -> None:
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        right = rng.integers(0, 2, 200)
        said = np.where(rng.random(200) < 0.8, right, 1 - right)
        draws.append(class_score(metric, right, said))
    values, errors = np.array(draws).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
def test_errors_of_correlations_are_about_what_new_samples_spread(metric: str) -> None:
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(300):
        right = rng.normal(size=100)
        draws.append(correlation(metric, right, right + rng.normal(size=100)))
    values, errors = np.array(draws).T
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)


def test_what_is_no_classifier_or_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="LlamaForCausalLM gives no label to a text"):
        Classification(EXAMPLES).measure(tiny_llama(), tiny_tokenizer())
    with pytest.raises(ValueError, match="a label is 5, but the model has the classes 0 to"):
        Classification([*EXAMPLES, Labelled("on", 5)]).measure(tiny_bert(), tiny_tokenizer())
    with pytest.raises(ValueError, match="training mode"):
        Classification(EXAMPLES).measure(tiny_bert().train(), tiny_tokenizer())
    with pytest.raises(ValueError, match="max_tokens is 4096, but the model reads"):
        Classification(EXAMPLES, max_tokens=4096).measure(tiny_bert(), tiny_tokenizer())
    with pytest.raises(ValueError, match=r"example 2 has the label 0.5; give the index of a class"):
        Classification([Labelled("a", 0), Labelled("b", 0.5)])
    with pytest.raises(ValueError, match="example 1 has the label 2"):
        Classification([Labelled("a", 2), Labelled("b", 0)], "f1")
    with pytest.raises(ValueError, match="examples holds 1"):
        Classification(EXAMPLES[:1])
    with pytest.raises(ValueError, match="example 2 has an empty text"):
        Regression([Labelled("a", 0.1), Labelled(" ", 0.5)])
    with pytest.raises(ValueError, match="examples is 3"):
        Regression([Labelled("a", 0.1)] * 3)


def test_a_search_over_an_encoder_takes_them_as_objectives() -> None:
    space = lora_rank((4, 2)) + mlp_width((1.0, 0.5), multiple_of=8) + attention_heads((1.0, 0.5))
    net = SuperNetwork.from_pretrained(tiny_bert(), space, tiny_tokenizer())
    evaluators = [Classification(EXAMPLES), Classification(EXAMPLES, "matthews")]
    assert all(isinstance(evaluator, Evaluator) for evaluator in evaluators)
    found = search(net, evaluators, driver="random", evaluations=4, population=4, progress=False)
    assert not found.frame["error"].any()
    best = found.subnetwork(found.front.iloc[0])
    again = evaluators[0].measure(best.extract(), net.tokenizer)
    assert again.value == pytest.approx(found.front.iloc[0]["accuracy"])
