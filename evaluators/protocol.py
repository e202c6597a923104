"""What an evaluator is, and all that it may see of a sub-network: all that a third party implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.operators.decoder import LayerSizes
from evaluators.operators.operator import Operator
from search_spaces import NasEngineError

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Measurement:
    """One score of one sub-network.

    Args:
        value: in the evaluator's unit.
        stderr: standard error of `value`; 0 where it is computed and not sampled.
        n: how many samples `value` rests on; 1 where it is computed.
        outcomes: for a raced accuracy, which of the n questions were answered rightly; see
            `evaluators.multiple_choice.racing`.
    """

    value: float
    stderr: float = 0.0
    n: int = 1
    outcomes: str = field(default="", repr=False)


class Subnetwork(Protocol):
    """A sub-network of a trained super-network, as evaluators see it."""

    @property
    def configuration(self) -> Mapping[str, int | float]:
        """The value of every gene, by name."""
        ...

    @property
    def model(self) -> PreTrainedModel:
        """The super-network's model with this sub-network active; another sub-network's `model` deactivates it."""
        ...

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the model was trained with."""
        ...

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The layers of `model`, the same modules for all sub-networks of a super-network."""
        ...

    @property
    def layer_signatures(self) -> tuple[tuple[int | float, ...], ...]:
        """What is active in each layer: layers with equal signatures at the same place compute the same."""
        ...

    @property
    def layer_sizes(self) -> tuple[LayerSizes, ...]:
        """The active sizes of each layer."""
        ...

    def extract(self, share_embeddings: bool = False) -> PreTrainedModel:
        """A physically smaller model of its own, adapters merged: what would be deployed.

        Args:
            share_embeddings: keep the super-network's embedding tensors instead of a copy; cheaper, for measurements
                that do not change the model.
        """
        ...

    def operators(self, batch: int, tokens: int, past: int = 0) -> list[Operator]:
        """Every matrix product of one forward pass over `tokens` new tokens after `past` cached ones."""
        ...

    def parameter_count(self, merged: bool = True) -> int:
        """Parameters of the extracted model, tied ones once; with ``merged=False``, the active adapters' besides."""
        ...


def sign_of(direction: Direction) -> float:
    """What a score is multiplied with to be minimized: 1 or -1."""
    return 1.0 if direction == "minimize" else -1.0


@runtime_checkable
class Evaluator(Protocol):
    """Scores sub-networks: a callable with a name, a direction and a unit, that says what its score depends on.

    A class of your own inherits the answers to `computed`, `alone` and `rewards_zeros` from `EvaluatorDefaults`, which
    says False to each, and gives those that differ.
    """

    @property
    def name(self) -> str:
        """Column name of the score; unique in a search."""
        ...

    @property
    def direction(self) -> Direction:
        """Whether smaller or larger is better."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the value, such as ``ms``; empty for a pure number."""
        ...

    @property
    def computed(self) -> bool:
        """Whether the score follows from sizes alone, without data or a clock; drivers may ask for many of them."""
        ...

    @property
    def alone(self) -> bool:
        """Whether nothing else may run on the machine while it measures."""
        ...

    @property
    def rewards_zeros(self) -> bool:
        """Whether zeros among the weights improve the score. A super-network for a target that multiplies by zeros as
        by any number is not searched by it.
        """
        ...

    def settings(self) -> Mapping[str, Any]:
        """All that changes the score, as JSON data. A ledger refuses scores taken under other settings."""
        ...

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Measure `subnet`."""
        ...


class ModelEvaluator(Evaluator, Protocol):
    """An evaluator that also measures a model that left its super-network."""

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """The score of any Hugging Face causal language model."""
        ...

    def require_readable(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Check that `model` can be asked all of it.

        Raises:
            ValueError: it cannot (what it cannot read is named).
        """
        ...


class EvaluatorDefaults:
    """What an evaluator says of itself unless it says otherwise, by an attribute or a property of the same name."""

    @property
    def computed(self) -> bool:
        """False: it has to be measured."""
        return False

    @property
    def alone(self) -> bool:
        """False: others may measure meanwhile."""
        return False

    @property
    def rewards_zeros(self) -> bool:
        """False: zeros change nothing, or cost what other numbers cost."""
        return False


class EvaluatorError(NasEngineError, TypeError):
    """What was given as an evaluator lacks something that one needs."""


def require_evaluator(found: object) -> None:
    """Check that `found` has all that `Evaluator` names, before it is relied on.

    Raises:
        EvaluatorError: it has not (what is missing is named), or says something other than True or False where it is
            asked for that.
    """
    answers = ("computed", "alone", "rewards_zeros")
    if isinstance(found, type):
        raise EvaluatorError(f"{found.__name__} is a class; give an evaluator made of it: {found.__name__}(…).")
    called = type(found).__name__
    if not callable(found):
        raise EvaluatorError(
            f"{called} cannot be called, so it is no evaluator; decorate a function with evaluators.cost_model or "
            "evaluators.model_metric, or give an object of a class that has __call__."
        )
    if lacking := [name for name in ("name", "direction", "unit", "settings") if not hasattr(found, name)]:
        raise EvaluatorError(
            f"{called} has no {' and no '.join(lacking)}, which evaluators have; decorate a function with "
            "evaluators.cost_model or evaluators.model_metric, or see evaluators.Evaluator."
        )
    if lacking := [name for name in answers if not hasattr(found, name)]:
        raise EvaluatorError(
            f"the evaluator {called} does not say whether it is {', '.join(lacking)}: let the class inherit from "
            "evaluators.EvaluatorDefaults, which says False, or give it these attributes, each True or False."
        )
    for name in answers:
        if not isinstance(value := getattr(found, name), bool):
            raise EvaluatorError(f"{name} of the evaluator {called} is {value!r}; it must be True or False.")


class Session(Protocol):
    """One batch of sub-networks under measurement, which may share what they have in common."""

    def measure(self, position: int, rival: Measurement | None = None) -> Measurement:
        """Measure the sub-network at `position`; positions come in ascending order, some may be left out.

        Args:
            rival: a measurement that it has to reach; an evaluator that races stops early where it will not.
        """
        ...


@runtime_checkable
class BatchEvaluator(Evaluator, Protocol):
    """An evaluator that measures sub-networks of a batch more cheaply together, with the same values."""

    @property
    def races(self) -> bool:
        """Whether it makes use of rivals."""
        ...

    def session(self, subnets: Sequence[Subnetwork], before: Session | None = None) -> Session:
        """Begin with `subnets`, all of one super-network, in the order of `evaluators.depth_first`.

        Args:
            before: the session of an earlier batch of the same search, whose work may be of use.
        """
        ...
