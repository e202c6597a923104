"""One layer of a super-network: its projections, heads, channels and blocks, changed in step."""

from __future__ import annotations

from functools import cache
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from evaluators import LayerSizes
from nas_engine.compression.grid import Grid
from nas_engine.families import modeling_subnetwork as runtime
from nas_engine.families.family import Bypass, Family, attention_sizes, inputs_of
from nas_engine.supernet.adapter_mode import AdapterMode
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.mixture import Mixture

Block = Literal["attention", "mlp"]
BLOCKS: tuple[Block, Block] = ("attention", "mlp")
Unit = Literal["heads", "channels"]  # what is cut and ordered: KV groups of heads, or MLP channels
_UNIT = {
    "q": "heads",
    "k": "heads",
    "v": "heads",
    "o": "heads",
    "gate": "channels",
    "up": "channels",
    "down": "channels",
}
READERS: dict[Unit, str] = {"heads": "o", "channels": "down"}  # the projections whose inputs are units
_READERS: dict[str, Unit] = {name: unit for unit, name in READERS.items()}


class ElasticLayer:
    """A layer of the model, its elastic projections, and the sizes that are active.

    Args:
        family: where the layer keeps what.
        index: the layer's number in the model.
        module: the layer itself.
        config: the model's configuration.

    Attributes:
        linears: its elastic projections by the space's names, such as ``up`` or ``qkv``; filled in as they are made.
        mixture: its experts, where the family has some; their number and width are then the MLP's sizes.
        orders: for each unit that was ordered, the original index of each, from the most important on.
    """

    def __init__(self, family: Family, index: int, module: nn.Module, config: PreTrainedConfig) -> None:
        self.family, self.index, self.module = family, index, module
        self.linears: dict[str, ElasticLinear] = {}
        self.orders: dict[Unit, Tensor] = {}
        self.full_heads, self.full_kv_heads, self.head_size = (1, 1, 0) if family.hybrid else attention_sizes(config)
        self.mixture = None if family.experts is None else Mixture(family.experts, module)
        self.full_width = (
            inputs_of(module.get_submodule(family.projections["down"]))
            if self.mixture is None
            else self.mixture.full_width
        )
        self.heads, self.width = self.full_heads, self.full_width
        self.kept: dict[Block, bool] = {"attention": True, "mlp": True}
        self._writers: dict[Unit, list[tuple[str, ElasticLinear]]] = {"heads": [], "channels": []}  # outputs are units
        self._head_bias: runtime.HeadBiasHook | None = None

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.full_heads // self.full_kv_heads

    @property
    def sizes(self) -> LayerSizes:
        """What is active, as cost models see it; a block that is left out has size 0, a merged adapter no rank."""
        heads, width = self.heads * self.kept["attention"], self.width * self.kept["mlp"]
        gated = self.mixture is not None or bool({"gate", "gate_up"} & set(self.family.projections))
        beside = {
            projection: linear.active_rank
            for name, linear in self.linears.items()
            if linear.rank and not linear.merges
            for projection in self.family.held(name)
        }
        mixture = (self.mixture.active, self.mixture.per_token) if self.mixture is not None and width else (0, 0)
        return LayerSizes(heads, heads // self.group, self.head_size, width, beside, gated, *mixture)

    @property
    def absent(self) -> bool:
        """Whether nothing of the layer is left."""
        return not any(self.kept.values())

    @property
    def trains(self) -> bool:
        """Whether an adapter of the layer is in a block that is kept."""
        return any(linear.active_rank and self.kept[self._block(name)] for name, linear in self.linears.items())

    def make_elastic(
        self,
        name: str,
        rank: int,
        alpha: float,
        dropout: float,
        generator: torch.Generator,
        adapter_mode: AdapterMode,
        grid: Grid | None = None,
    ) -> None:
        """Replace the projection `name` by an elastic one."""
        parent, _, attribute = self.family.projections[name].rpartition(".")
        owner = self.module.get_submodule(parent)
        parts = None if name in _READERS else self._parts(name, self.full_kv_heads, self.full_width)
        base = owner.get_submodule(attribute)
        self.linears[name] = ElasticLinear(
            base,  # type: ignore[arg-type]
            rank,
            alpha,
            dropout,
            generator,
            parts,
            adapter_mode,
            grid,
        )
        setattr(owner, attribute, self.linears[name])
        if name not in _READERS:
            self._writers[_unit(self.family, name)].append((name, self.linears[name]))

    def set_heads(self, heads: int) -> None:
        """Make the first `heads` query heads active, with their KV heads; attention must be elastic."""
        self.heads = heads
        for name, linear in self._writers["heads"]:
            linear.active_parts = self._parts(name, heads // self.group, self.width)
        self.linears["o"].active_in = heads * self.head_size
        for path, value in self.head_attributes.items():
            runtime.set_attribute(self.module, path, value)
        if self._head_bias is not None:
            self._head_bias.keep = self.bias_heads

    def set_width(self, channels: int) -> None:
        """Make the first `channels` of the MLP active; it must be elastic."""
        self.width = channels
        if self.mixture is not None:
            self.mixture.resize(self.mixture.active, channels)
            return
        for name, linear in self._writers["channels"]:
            linear.active_parts = self._parts(name, self.heads // self.group, channels)
        self.linears["down"].active_in = channels

    def set_experts(self, active: int) -> None:
        """Make the first `active` experts active; the layer must be a mixture."""
        assert self.mixture is not None
        self.mixture.resize(active, self.width)

    def set_kept(self, block: Block, kept: bool | int) -> None:
        """Leave a block out, or take it back in."""
        self.kept[block] = bool(kept)
        for module, stand_in in self._stand_ins(block):
            if kept:
                module.__dict__.pop("forward", None)
            else:
                # An attribute of the instance hides the class's method: the module keeps its place and its weights.
                module.__dict__["forward"] = stand_in.forward

    @cache  # noqa: B019  # a layer lives as long as its super-network
    def _stand_ins(self, block: Block) -> list[tuple[nn.Module, runtime.BypassModule]]:
        return [(self.module.get_submodule(b.module), self.bypass(block, b)) for b in self.bypasses(block)]

    def bypasses(self, block: Block) -> tuple[Bypass, ...]:
        """What stands in for `block` where it is left out."""
        return self.family.attention if block == "attention" else self.family.mlp

    def bypass(self, block: Block, bypass: Bypass) -> runtime.BypassModule:
        """The module that `bypass` describes."""
        return runtime.BypassModule(bypass.gives, bypass.pair, self.index if block == "attention" else None)

    @property
    def head_attributes(self) -> dict[str, int]:
        """The attributes of attention that change with the active heads, by path inside the layer."""
        values = {
            "heads": self.heads,
            "kv_heads": self.heads // self.group,
            "channels": self.heads * self.head_size,
        }
        return {path: values[what] for path, what in self.family.head_attributes.items()}

    @property
    def bias_heads(self) -> list[int]:
        """The original indices of the active heads, in their order."""
        order = self.orders.get("heads")
        return list(range(self.heads)) if order is None else order[: self.heads].tolist()

    def watch_head_bias(self) -> None:
        """Give attention the biases of its active heads alone, where the family has such; called once."""
        bias = self.family.head_bias
        if bias is not None:
            self._head_bias = runtime.HeadBiasHook(bias.argument, self.full_heads, self.bias_heads)
            self.module.get_submodule(bias.module).register_forward_pre_hook(self._head_bias, with_kwargs=True)

    def importance(self, unit: Unit, input_norms: Tensor) -> Tensor:
        """How much each unit adds to the layer's output, shape (units,); see `nas_engine.supernet.ordering`.

        Args:
            unit: KV groups of heads, or MLP channels.
            input_norms: the L2 norm of every input of the projection that reads the units (o or down).
        """
        reader = self.linears[READERS[unit]]
        contributions = reader.matrix.float().norm(dim=0) * input_norms  # (inputs,)
        importance: Tensor = contributions.square().view(self.units(unit), -1).sum(1).sqrt()
        return importance

    def permute(self, unit: Unit, order: Tensor) -> None:
        """Reorder heads or channels in all their projections; `order` holds the current indices in their new order."""
        for name, linear in self._of(unit):
            if name in _READERS:
                linear.permute_inputs(spread(order, [linear.in_features // len(order)]))
            else:
                linear.permute_outputs(spread(order, [part // len(order) for part in linear.parts]))
        before = self.orders.get(unit, torch.arange(len(order)))
        self.orders[unit] = before[order.cpu()]
        if unit == "heads" and self._head_bias is not None:
            self._head_bias.keep = self.bias_heads

    def original_outputs(self, name: str) -> Tensor | slice:
        """Index that brings the outputs of a projection back to the original model's order."""
        order = None if name in _READERS else self.orders.get(_unit(self.family, name))
        linear = self.linears[name]
        if order is None:
            return slice(None)
        return spread(order, [part // len(order) for part in linear.parts]).argsort()

    def original_inputs(self, name: str) -> Tensor | slice:
        """Index that brings the inputs of a projection back to the original model's order."""
        order = self.orders.get(_READERS[name]) if name in _READERS else None
        return slice(None) if order is None else spread(order, [self.linears[name].in_features // len(order)]).argsort()

    def _of(self, unit: Unit) -> list[tuple[str, ElasticLinear]]:
        return [(name, linear) for name, linear in self.linears.items() if _unit(self.family, name) == unit]

    def _block(self, name: str) -> Block:
        return "attention" if _unit(self.family, name) == "heads" else "mlp"

    def units(self, unit: Unit) -> int:
        """How many KV groups or channels the whole layer has."""
        return self.full_kv_heads if unit == "heads" else self.full_width

    def _parts(self, name: str, groups: int, width: int) -> tuple[int, ...]:
        """Outputs of each projection in a module that writes units, with so many KV groups and MLP channels."""
        queries, keys = groups * self.group * self.head_size, groups * self.head_size
        sizes = {"q": queries, "k": keys, "v": keys, "gate": width, "up": width}
        parts = tuple(sizes[projection] for projection in self.family.held(name))
        return (sum(parts),) if self.family.interleaved and len(parts) > 1 else parts


def _unit(family: Family, name: str) -> Unit:
    return _UNIT[family.held(name)[0]]  # type: ignore[return-value]


def spread(order: Tensor, unit_sizes: list[int]) -> Tensor:
    """The channels of units in `order`, part after part, each unit being so many channels wide in each part."""
    starts = accumulate((size * len(order) for size in unit_sizes[:-1]), initial=0)
    channels = [
        start + (order[:, None] * size + torch.arange(size, device=order.device)).flatten()
        for start, size in zip(starts, unit_sizes, strict=True)
    ]
    return torch.cat(channels)


def inverse(index: Tensor | slice) -> Tensor | slice:
    """The way there, of the way back that `ElasticLayer.original_inputs` and `original_outputs` give."""
    return index if isinstance(index, slice) else index.argsort()
