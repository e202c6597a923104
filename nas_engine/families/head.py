"""The head of a sequence classifier, made for the labels of a task on whatever encoder there is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from nas_engine.errors import FamilyError
from nas_engine.families.descriptions import FAMILIES

_OTHERS = ("cls.", "classifier.")  # of what an encoder was trained for before


@dataclass(frozen=True)
class Head:
    """What a classifier tells apart.

    Args:
        classes: their names, by index, unless a trained classifier has the same in another order; empty where it gives
            one number.
    """

    classes: tuple[str, ...]

    def put_on(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """`config`, changed in place, of a model with this head.

        Raises:
            FamilyError: models of this family are no classifiers here.
        """
        family = FAMILIES.get(config.model_type)
        if family is None or not family.head:
            known = ", ".join(sorted(name for name, family in FAMILIES.items() if family.head))
            raise FamilyError(
                f"the data are texts with labels, and models of type {config.model_type!r} are no classifiers here; "
                f"give one of type {known}, or kind=text to learn the texts without their labels."
            )
        own = _names(config)
        names = own if own and set(own) == set(self.classes) else self.classes or ("number",)
        config.id2label = dict(enumerate(names))
        config.label2id = {name: i for i, name in enumerate(names)}
        config.architectures = [MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[config.model_type]]
        config.problem_type = "single_label_classification" if self.classes else "regression"
        return config

    def without_its_own(self, report: Mapping[str, Any]) -> dict[str, list[Any]]:
        """What a checkpoint lacks, has besides and has in other shapes, but for heads."""

        def name(key: Any) -> str:
            return str(key[0] if isinstance(key, tuple) else key)

        return {
            kind: [key for key in report.get(kind) or () if not name(key).startswith(_OTHERS)]
            for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        }


def classifies(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint with `config` is a sequence classifier's."""
    return any("SequenceClassification" in name for name in config.architectures or ())


def _names(config: PreTrainedConfig) -> tuple[str, ...]:
    """The classes of a trained classifier, by index; empty of any other model."""
    return label_names(config) if classifies(config) else ()


def label_names(config: PreTrainedConfig) -> tuple[str, ...]:
    """What a classifier's outputs are called, by index."""
    by_index = {int(i): str(name) for i, name in (config.id2label or {}).items()}
    return tuple(name for _, name in sorted(by_index.items()))
