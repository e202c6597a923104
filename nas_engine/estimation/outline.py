"""A super-network of a configuration alone: every tensor with its shape and type, and none with numbers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedConfig, PreTrainedModel

from nas_engine.estimation.outlined_versions import OutlinedVersions
from nas_engine.estimation.tensor_bytes import bytes_of_model
from nas_engine.families.descriptions import FAMILIES
from nas_engine.families.family import Family
from nas_engine.families.head import classifies
from nas_engine.families.plain import require_plain
from nas_engine.supernet.narrowing import bound_for
from nas_engine.supernet.supernetwork import SuperNetwork
from search_spaces import SearchSpace, SpaceTemplate


class Outline(SuperNetwork):
    """As a super-network, for counting; it has no weights to be known by."""

    def _fingerprint_of_base(self) -> str:
        return "0" * 16


@contextmanager
def outlined(
    config: PreTrainedConfig,
    template: SpaceTemplate,
    dtype: torch.dtype,
    target: str | None = None,
    group_size: int | None = None,
    **settings: Any,
) -> Iterator[Outline]:
    """An `Outline` and the mode under which operations compute shapes alone.

    Args:
        config: of a model of a known family.
        template: of the space.
        dtype: of the weights.
        target: as `SuperNetwork.from_pretrained` takes it, with the other `settings`.
        group_size: of versions that bits and zeros switch between; None where neither varies.

    Raises:
        FamilyError: the family is not supported.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), _GroupedProducts():  # type: ignore[no-untyped-call]
        model = _model_of(config, dtype)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a target narrows is said when the job makes its super-network
            # Its texts are never asked for.
            tokenizer: Any = object()
            space: SpaceTemplate | SearchSpace = template
            if group_size is not None:
                space = bound_for(template, require_plain(model).shape(model), model, target)
                versions = OutlinedVersions(model, space, group_size)
                settings |= {"adapter_mode": "quantized", "database": versions}
            outline: Any = Outline.from_pretrained(model, space, tokenizer, target=target, **settings)
        yield outline


class _GroupedProducts(TorchDispatchMode):
    """Experts' products in any type, as they run: without numbers, torch 2.13 knows their shapes in bfloat16 alone."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation, but of grouped products give the shape."""
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        first, second, offsets = args[0], args[1], (*args[2:3], *(kwargs or {}).values())
        groups = [len(offsets[0])] if first.dim() == second.dim() == 2 else []
        groups = [len(first)] if first.dim() == second.dim() == 3 else groups
        return first.new_empty(*groups, first.shape[-2], second.shape[-1])


def base_bytes(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> int:
    """Bytes of the parameters and buffers of a model of `config`."""
    with FakeTensorMode():
        return bytes_of_model(_model_of(config, dtype))


def _model_of(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    auto: Any = AutoModelForSequenceClassification if classifies(config) else AutoModelForCausalLM
    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):  # weights are held as what their integers stand for
        del config.quantization_config
    model: PreTrainedModel = auto.from_config(config, dtype=dtype)
    return model


def with_layers(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """`config` with its first `count` layers alone."""
    fewer = copy.deepcopy(config)
    for key in FAMILIES.get(config.model_type, Family(config.model_type)).layer_keys:
        if getattr(fewer, key, None) is not None:
            setattr(fewer, key, getattr(fewer, key)[:count])
    fewer.num_hidden_layers = count
    return fewer


def period(config: PreTrainedConfig) -> int:
    """After how many layers their kinds begin anew; all of them where they never do, or share keys and values."""
    count = int(config.num_hidden_layers)
    if getattr(config, "num_kv_shared_layers", 0):
        return count
    kinds = getattr(config, "layer_types", None) or [None] * count
    return next(p for p in range(1, count + 1) if count % p == 0 and kinds == kinds[:p] * (count // p))
