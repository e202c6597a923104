"""What an evaluator is, and all that it may see of a sub-network: all that a third party implements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.operators import Operator

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Measurement:
    """One score of one sub-network.

    Args:
        value: in the evaluator's unit.
        stderr: standard error of `value`; 0 where it is computed and not sampled.
        n: how many samples `value` rests on; 1 where it is computed.
    """

    value: float
    stderr: float = 0.0
    n: int = 1


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


@runtime_checkable
class Evaluator(Protocol):
    """Scores sub-networks: a callable with a name, a direction and a unit.

    One whose score follows from sizes alone says so by an attribute ``computed = True``: a driver then may ask for the
    scores of sub-networks that it does not propose. Without it the score counts as measured.
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

    def settings(self) -> Mapping[str, Any]:
        """All that changes the score, as JSON data. A ledger refuses scores taken under other settings."""
        ...

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Measure `subnet`."""
        ...
