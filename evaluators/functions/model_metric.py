"""A user's own function of a model and its tokenizer as an evaluator: any measure of quality."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_one_of
from evaluators.functions.function import FunctionEvaluator, require_arguments
from evaluators.protocol import Direction, Measurement, Subnetwork

MetricFunction = Callable[[PreTrainedModel, PreTrainedTokenizerBase], "float | Measurement"]


class ModelMetric(FunctionEvaluator):
    """An evaluator that calls a function of a model and its tokenizer; made by `model_metric`."""

    decorator = "model_metric"
    extracted = False

    def settings(self) -> Mapping[str, Any]:
        """The function or its version, and which model it is given."""
        return {**super().settings(), "extracted": self.extracted}

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """What the function says of the model of `subnet`.

        Raises:
            TypeError: it returned neither a number nor a Measurement.
        """
        model = subnet.extract(share_embeddings=True) if self.extracted else subnet.model
        return self.measure(model, subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """What the function says of any model.

        Raises:
            TypeError: it returned neither a number nor a Measurement.
        """
        return self._measurement(self.function(model, tokenizer))


def model_metric(
    unit: str = "",
    direction: Direction = "maximize",
    name: str | None = None,
    version: str | None = None,
    extracted: bool = False,
) -> Callable[[MetricFunction], ModelMetric]:
    """Make an evaluator of a function from a Hugging Face model and its tokenizer to a number, or to a Measurement.

    ``@model_metric(unit="BLEU")`` above the function is all that is needed. A ledger tells its versions apart as those
    of a `cost_model`: data that the function reads from elsewhere is not seen, so give and change `version` with it.

    Args:
        unit: of the number.
        direction: whether smaller or larger is better.
        name: column name of the score; the function's own by default.
        version: stands for all that the score depends on, instead of a hash of the function.
        extracted: call it with the extracted model, which decodes faster, instead of the super-network's.

    Raises:
        ValueError: an unknown direction, or a callable object without the name and version that it needs.
        TypeError: used without its parentheses.
    """
    require_arguments("model_metric", unit)
    require_one_of(get_args(Direction), direction=direction)

    def decorate(function: MetricFunction) -> ModelMetric:
        metric = ModelMetric(function, name, unit, direction, version, computed=False)
        metric.extracted = extracted
        return metric

    return decorate
