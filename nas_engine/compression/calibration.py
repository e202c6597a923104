"""The layers of a model one after the other on calibration texts, each fed by the layers before it as they are now.

A layer is changed between being observed and being run: what the next one sees has passed through the changed ones, as
Wanda and GPTQ want it. The layers' own forward code runs, with the arguments that the model gave them once. What passes
between layers waits on the CPU, a batch of it at a time where the model is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.errors import CompressionError
from nas_engine.families.descriptions import family_of
from nas_engine.families.family import Family
from nas_engine.texts.batches import Batch, readable, token_count
from search_spaces import ModuleName

Observer = Callable[[str, Tensor], None]
"""Is given a projection's name in its layer, such as ``up``, and its inputs without padding, shape (tokens, inputs)."""
_HIDDEN = "hidden_states"


@dataclass
class _Call:
    """How a model calls one layer on one batch; the hidden states are kept apart."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_keyword: bool

    def __call__(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        if self.by_keyword:
            output = layer(*self.args, **{_HIDDEN: hidden}, **self.kwargs)
        else:
            output = layer(hidden, *self.args, **self.kwargs)
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result


class CalibratedLayer:
    """One layer with all that reaches it; made by `calibrated_layers`.

    Attributes:
        index: its number in the model.
        projections: its linear layers by the space's names, such as ``up`` or ``qkv``; not those of a block that is
            left out.
        given: what the next layer is to read of every batch; None lets this one run again for it.
    """

    def __init__(
        self,
        family: Family,
        index: int,
        module: nn.Module,
        calls: list[_Call],
        hidden: list[Tensor],
        mask: list[Tensor],
    ) -> None:
        self.index = index
        modules = dict(module.named_modules())
        self.projections = {name: modules[path] for name, path in family.projections.items() if path in modules}
        self.given: list[Tensor] | None = None
        self._module, self._calls, self.hidden, self._mask = module, calls, hidden, mask

    def name(self, projection: str) -> str:
        """The space's name of a projection, such as ``layers.3.up``."""
        return str(ModuleName(self.index, projection))

    @torch.no_grad()
    def observe(self, *observers: Observer) -> None:
        """Run the layer as it is on every batch, and show `observers` what each projection reads.

        Raises:
            CompressionError: that is not finite (the projection is named).
        """
        for call, hidden, mask in self._batches():
            with _listening(self.projections, mask, (self._require_finite, *observers)):
                call(self._module, hidden)

    def _require_finite(self, projection: str, inputs: Tensor) -> None:
        if not inputs.isfinite().all():
            raise CompressionError(
                f"{self.name(projection)} reads numbers that are not finite on the calibration texts, so that nothing "
                "can be told from them; give a model that runs in its type, or one in float32."
            )

    @torch.no_grad()
    def pass_on(self, observers: Mapping[str, Observer]) -> None:
        """Run the layer as it is on every batch once, for the next layer too: of a layer that will not be changed.

        Args:
            observers: by projection, each shown what that one reads.

        Raises:
            CompressionError: that is not finite (the projection is named).
        """
        listened = {name: self.projections[name] for name in observers}
        outputs = []
        for call, hidden, mask in self._batches():
            shown = (self._require_finite, lambda name, inputs: observers[name](name, inputs))
            with _listening(listened, mask, shown):
                outputs.append(_waiting(call(self._module, hidden)))
        self.given = outputs

    @torch.no_grad()
    def inside(self, projection: str) -> list[tuple[Tensor, Tensor]]:
        """What `projection` reads and what the layer gives, batch by batch, shapes (rows, tokens, …)."""
        read: list[Tensor] = []
        module = self.projections[projection]
        handle = module.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        try:
            outputs = [call(self._module, hidden) for call, hidden, _ in self._batches()]
        finally:
            handle.remove()
        # OPT flattens its rows itself.
        return [(x.view(*given.shape[:2], -1), given) for x, given in zip(read, outputs, strict=True)]

    @torch.no_grad()
    def outputs(self) -> list[Tensor]:
        """What the layer as it is gives on every batch, on the CPU."""
        return [_waiting(call(self._module, hidden)) for call, hidden, _ in self._batches()]

    def _batches(self) -> Iterator[tuple[_Call, Tensor, Tensor]]:
        """How the layer is called, what it reads and which of the tokens are no padding, where the model is."""
        for call, hidden, mask in zip(self._calls, self.hidden, self._mask, strict=True):
            yield call, hidden.to(mask.device), mask


def _waiting(states: Tensor) -> Tensor:
    """Hidden states until the next layer reads them: those of all calibration texts would fill a GPU."""
    return states.cpu()


@torch.no_grad()
def calibrated_layers(model: PreTrainedModel, batches: Iterable[Batch]) -> Iterator[CalibratedLayer]:
    """The layers of `model` in turn; whoever iterates may change a layer's weights before asking for the next one.

    Args:
        model: of a known family; its linear layers may be elastic ones.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).

    Raises:
        CompressionError: there is no batch, or nothing but padding, or a projection's weight is not finite.
        FamilyError: the model's family is not supported.
    """
    family = family_of(model)
    layers = list(model.get_submodule(family.layers).children())
    _require_finite(family, layers)
    given = list(readable(batches, model))
    if not token_count(given):
        raise CompressionError("the calibration data is empty; give at least one batch with a token in it.")
    calls: list[list[_Call]] = [[] for _ in layers]
    hidden: list[Tensor] = []
    was_training = model.training
    model.eval()
    try:
        with _recording(layers, calls, hidden):
            for batch in given:
                model.base_model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        masks = [batch["attention_mask"].bool().flatten() for batch in given]
        for index, module in enumerate(layers):
            layer = CalibratedLayer(family, index, module, calls[index], hidden, masks)
            yield layer
            if index + 1 < len(layers):
                hidden = layer.outputs() if layer.given is None else list(map(_waiting, layer.given))
    finally:
        model.train(was_training)


def require_complete(model: PreTrainedModel) -> None:
    """Check that all matrices of the layers of `model` are known: none may stay dense unsaid.

    Raises:
        CompressionError: it has experts, or attention that is not the same in all layers.
    """
    family = family_of(model)
    if not family.complete:
        what = "mixtures of experts" if family.experts is not None else "hybrids of several kinds of attention"
        raise CompressionError(
            f"models of type {model.config.model_type!r} are {what}, whose weights are not made sparse or quantized "
            "yet; leave that out, and let other dimensions make them smaller."
        )


def _require_finite(family: Family, layers: Sequence[nn.Module]) -> None:
    """All layers before the first is changed, so that a failure leaves the model as it was."""
    for index, layer in enumerate(layers):
        modules = dict(layer.named_modules())
        for name, path in family.projections.items():
            weight = getattr(modules.get(path), "weight", None)
            if weight is not None and not weight.isfinite().all():
                raise CompressionError(
                    f"the weight of layers.{index}.{name} has {int((~weight.isfinite()).sum())} of {weight.numel()} "
                    "numbers that are not finite, with which nothing can be computed; give a model without them."
                )


@contextmanager
def _recording(layers: list[nn.Module], calls: list[list[_Call]], hidden: list[Tensor]) -> Iterator[None]:
    """Keep how every layer is called: masks and positions, which the layers share, and the first one's inputs.

    Meanwhile layers after the first compute nothing, for how a layer is called does not depend on what it reads.
    """
    first_said: list[Any] = [None]

    def record(index: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        by_keyword = _HIDDEN in kwargs
        first = kwargs[_HIDDEN] if by_keyword else args[0]
        rest = {name: value for name, value in kwargs.items() if name != _HIDDEN}
        calls[index].append(_Call(args if by_keyword else args[1:], rest, by_keyword))
        if index == 0:
            hidden.append(_waiting(first))

    def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first_said[0] = output

    def pass_by(*args: Any, **kwargs: Any) -> Any:
        read = kwargs[_HIDDEN] if _HIDDEN in kwargs else args[0]
        return (read, *first_said[0][1:]) if isinstance(first_said[0], tuple) else read

    handles = [layer.register_forward_pre_hook(partial(record, i), with_kwargs=True) for i, layer in enumerate(layers)]
    handles += [layers[0].register_forward_hook(keep)]
    own = [layer.__dict__.get("forward") for layer in layers]
    try:
        for layer in layers[1:]:
            layer.__dict__["forward"] = pass_by
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, forward in zip(layers, own, strict=True):
            layer.__dict__.pop("forward", None)
            if forward is not None:
                layer.__dict__["forward"] = forward


@contextmanager
def _listening(projections: Mapping[str, nn.Module], mask: Tensor, observers: Sequence[Observer]) -> Iterator[None]:
    def listen(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs = args[0].flatten(0, -2)[mask]  # OPT flattens its rows itself
        for observer in observers:
            observer(name, inputs)

    handles = [module.register_forward_pre_hook(partial(listen, name)) for name, module in projections.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
