"""Encoders that classify: trained, taught, searched, healed and extracted as others are, with labels for texts."""

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from evaluators import Classification, Labelled, ParameterCount, Question
from nas_engine import Distillation, SuperNetwork, Teacher, heal, search, train
from nas_engine.texts.labelled import collated, tokenize_for
from nas_engine.training.answers import predictions
from search_spaces import attention_heads, lora_rank, mlp_width
from tests.supernets import smallest
from tests.tiny import tiny_bert, tiny_llama, tiny_tokenizer

NAMES, PLACES = ("the cat", "a warm stone", "their garden", "on the"), (" sat on", " then went", " in")
EXAMPLES = [Labelled(name + place, i, place) for name in NAMES for i, place in enumerate(PLACES)]
TARGETS = ("q", "k", "v", "o", "up", "down")


def net(**config) -> SuperNetwork:
    space = lora_rank((8, 4), TARGETS) + mlp_width((1.0, 0.5), multiple_of=8) + attention_heads((1.0, 0.5))
    return SuperNetwork.from_pretrained(tiny_bert(**config), space, tiny_tokenizer())


def batch(supernet: SuperNetwork, examples=EXAMPLES):
    return collated(tokenize_for(supernet.model, examples, supernet.tokenizer, 64), 1, torch.device("cpu"))


def test_the_loss_is_that_of_transformers() -> None:
    supernet = net()
    inputs = batch(supernet)
    said = predictions(supernet.model, inputs)
    theirs = supernet.model(**inputs)
    torch.testing.assert_close(said.logits, theirs.logits)
    torch.testing.assert_close(said.loss, theirs.loss)
    numbers = net(num_labels=1)
    inputs = batch(numbers, [Labelled(e.text, float(e.label)) for e in EXAMPLES])
    torch.testing.assert_close(predictions(numbers.model, inputs).loss, numbers.model(**inputs).loss)


@pytest.mark.parametrize(("strategy", "distill"), [("largest", False), ("sandwich", True)])
def test_training_learns_the_labels(strategy: str, distill: bool) -> None:
    supernet = net()
    before = Classification(EXAMPLES).measure(supernet.largest.extract(), supernet.tokenizer).value
    report = train(
        supernet, EXAMPLES, steps=40, batch_size=6, learning_rate=1e-2, strategy=strategy, distill=distill,
        progress=False,
    )  # fmt: skip
    assert report.losses[-1] < (0.7 if strategy == "largest" else 0.9) * report.losses[0]
    assert Classification(EXAMPLES)(supernet.largest).value >= before + (strategy == "largest") / 3


def test_numbers_are_learned_too() -> None:
    supernet = net(num_labels=1)
    examples = [Labelled(e.text, float(e.label)) for e in EXAMPLES]
    report = train(supernet, examples, steps=40, batch_size=6, learning_rate=1e-2, strategy="largest", progress=False)
    assert report.losses[-1] < 0.5 * report.losses[0]
    teacher = Teacher.of(supernet)
    train(supernet, examples, steps=2, batch_size=6, learning_rate=1e-2, teacher=teacher, progress=False)


def test_a_teacher_keeps_its_head_while_the_super_network_goes_on() -> None:
    supernet = net()
    train(supernet, EXAMPLES, steps=5, batch_size=6, learning_rate=1e-2, strategy="largest", progress=False)
    inputs = batch(supernet)
    teacher, before = Teacher.of(supernet), predictions(supernet.model, inputs).logits.detach()
    fingerprint = teacher.fingerprint()
    train(supernet, EXAMPLES, steps=5, batch_size=6, learning_rate=1e-2, strategy="largest", progress=False)
    own = predictions(supernet.model, inputs).logits.detach()
    torch.testing.assert_close(teacher.predictions(inputs).logits, before)
    torch.testing.assert_close(predictions(supernet.model, inputs).logits, own)
    assert not torch.allclose(own, before)
    assert teacher.fingerprint() == fingerprint
    assert Teacher.of(supernet).fingerprint() != fingerprint


def test_a_searched_classifier_is_healed_and_leaves_as_it_computes(tmp_path) -> None:
    supernet = net()
    train(supernet, EXAMPLES, steps=20, batch_size=6, learning_rate=1e-2, strategy="largest", progress=False)
    teacher = Teacher.of(supernet)
    evaluators = [Classification(EXAMPLES), ParameterCount()]
    found = search(supernet, evaluators, driver="random", evaluations=6, population=4, progress=False)
    assert not found.frame["error"].any()
    chosen = smallest(supernet)
    settings = {"batch_size": 6, "learning_rate": 1e-2, "progress": False, "teacher": teacher}
    healed = heal(chosen, EXAMPLES, steps=30, **settings)
    assert healed.losses[-1] < healed.losses[0]
    heal(chosen, EXAMPLES, steps=30, until=11, checkpoint=tmp_path / "run", **settings)
    again = heal(chosen, EXAMPLES, steps=30, checkpoint=tmp_path / "run", **settings)
    for name, parameter in healed.trained.items():
        assert torch.equal(parameter, again.trained[name]), name
    folder = healed.save_pretrained(tmp_path / "compressed")
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True)
    ours = Classification(EXAMPLES).measure(healed.extract(), supernet.tokenizer)
    assert Classification(EXAMPLES).measure(loaded, supernet.tokenizer) == ours


def test_distillation_of_classes_is_the_divergence_of_their_distributions() -> None:
    supernet = net()
    inputs = batch(supernet)
    student = predictions(supernet.model, inputs)
    other = predictions(tiny_bert(seed=3).eval(), inputs)
    expected = (
        (other.logits.softmax(-1) * (other.logits.log_softmax(-1) - student.logits.log_softmax(-1))).sum(-1).mean()
    )
    torch.testing.assert_close(Distillation(weight=1.0).loss(student, other), expected)
    cross = F.cross_entropy(student.logits, inputs["labels"])
    torch.testing.assert_close(Distillation(weight=0.25).loss(student, other), 0.25 * expected + 0.75 * cross)


@pytest.mark.parametrize(
    ("model", "examples", "message"),
    [
        (
            tiny_bert,
            [Question("a", ("b", "c"), 0)],
            "BertForSequenceClassification predicts no text; give it texts with",
        ),
        (tiny_llama, EXAMPLES, "LlamaForCausalLM gives no label"),
        (tiny_bert, [*EXAMPLES, Question("a", ("b", "c"), 0)], "texts with labels and texts with completions"),
        (tiny_bert, [Labelled("a", 3)], "a label is 3, but the model has the classes 0 to 2"),
        (lambda: tiny_bert(num_labels=1), [Labelled("a", 1)], "gives one number to a text; give floats"),
    ],
)
def test_what_a_model_cannot_learn_is_refused(model, examples, message: str) -> None:
    supernet = SuperNetwork.from_pretrained(model(), lora_rank((4,), ("q", "v")), tiny_tokenizer())
    with pytest.raises(ValueError, match=message):
        train(supernet, examples, steps=1, progress=False)
