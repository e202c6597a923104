"""The matrix products of a Llama-like decoder, listed from its sizes alone. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evaluators.checks import require_at_least
from evaluators.operators.operator import Operator


@dataclass(frozen=True)
class LayerSizes:
    """The sizes of one decoder layer.

    Args:
        heads: query heads; 0 where the layer has no attention.
        kv_heads: heads of keys and values; each serves ``heads / kv_heads`` query heads.
        head_size: channels of a head.
        intermediate_size: channels of the MLP; 0 where the layer has none.
        ranks: rank of the unmerged adapter of each projection that has one, by name: q, k, v, o, gate, up, down.
        gated: whether the MLP has a gate beside its up projection.
        experts: how many MLPs of that size the layer has, where it is a mixture of experts; else 0.
        experts_per_token: how many of them a token is sent to.
    """

    heads: int
    kv_heads: int
    head_size: int
    intermediate_size: int
    ranks: Mapping[str, int] = field(default_factory=dict)
    gated: bool = True
    experts: int = 0
    experts_per_token: int = 0


def decoder_operators(
    layers: Sequence[LayerSizes],
    hidden_size: int,
    vocabulary: int,
    batch: int,
    tokens: int,
    past: int = 0,
    weight_bits: int = 32,
    activation_bits: int = 32,
    last_logits_only: bool = True,
) -> list[Operator]:
    """Every matrix product of one forward pass, in the order in which they run.

    Named ``layers.3.up`` for a projection, ``layers.3.up.lora_A`` and ``.lora_B`` for its adapter (stored in
    `activation_bits`), ``layers.3.scores`` and ``layers.3.values`` for attention, and ``lm_head``. Attention counts
    every query with every key: what causality allows to skip is not taken off. The query heads that share a KV head
    are stacked into one product, so that a key is read once for all of them.

    Experts are ``layers.3.experts.up`` and so on: one product for each expert that tokens may reach at once, with its
    even share of them, rounded up; the router is ``layers.3.router``.

    Args:
        layers: sizes of each layer.
        hidden_size: width of the residual stream.
        vocabulary: rows of the output head.
        batch: sequences at once.
        tokens: new tokens of each.
        past: cached tokens of each.
        weight_bits: bits of one element of a layer's or the head's weight.
        activation_bits: bits of one element of an activation.
        last_logits_only: the head runs on the last position of each sequence, as in generation; else on all.

    Raises:
        ValueError: `batch` or `tokens` below 1, `past` below 0, or heads that do not divide into the KV heads.
    """
    require_at_least(1, batch=batch, tokens=tokens)
    require_at_least(0, past=past)
    operators: list[Operator] = []
    for i, sizes in enumerate(layers):
        if sizes.kv_heads and sizes.heads % sizes.kv_heads:
            raise ValueError(
                f"layers.{i} has {sizes.heads} heads and {sizes.kv_heads} KV heads; give a multiple of the KV heads."
            )
        for operator in _layer(sizes, hidden_size, batch, tokens, past):
            is_adapter = operator.name.endswith(("lora_A", "lora_B"))
            bits = activation_bits if is_adapter else weight_bits
            operators.append(
                replace(operator, name=f"layers.{i}.{operator.name}", weight_bits=bits, activation_bits=activation_bits)
            )
    rows = batch if last_logits_only else batch * tokens
    head = Operator("lm_head", "weight", rows, hidden_size, vocabulary, 1, weight_bits, activation_bits)
    return [*operators, head]


def _layer(sizes: LayerSizes, hidden_size: int, batch: int, tokens: int, past: int) -> Iterator[Operator]:
    def projection(name: str, inputs: int, outputs: int) -> Iterator[Operator]:
        yield Operator(name, "weight", rows, inputs, outputs)
        rank = sizes.ranks.get(name, 0)
        if rank:
            yield Operator(f"{name}.lora_A", "weight", rows, inputs, rank)
            yield Operator(f"{name}.lora_B", "weight", rows, rank, outputs)

    rows, keys = batch * tokens, past + tokens
    queries, keys_and_values = sizes.heads * sizes.head_size, sizes.kv_heads * sizes.head_size
    if sizes.heads:
        stacked, groups = tokens * sizes.heads // sizes.kv_heads, batch * sizes.kv_heads
        yield from projection("q", hidden_size, queries)
        yield from projection("k", hidden_size, keys_and_values)
        yield from projection("v", hidden_size, keys_and_values)
        yield Operator("scores", "attention", stacked, sizes.head_size, keys, groups)
        yield Operator("values", "attention", stacked, keys, sizes.head_size, groups)
        yield from projection("o", queries, hidden_size)
    if sizes.intermediate_size and sizes.experts:
        sent = rows * sizes.experts_per_token
        reached = min(sizes.experts, sent)
        yield Operator("router", "weight", rows, hidden_size, sizes.experts)
        for name, inputs, outputs in (
            *((name, hidden_size, sizes.intermediate_size) for name in ("gate", "up")),
            ("down", sizes.intermediate_size, hidden_size),
        ):
            yield Operator(f"experts.{name}", "weight", -(-sent // reached), inputs, outputs, reached)
    elif sizes.intermediate_size:
        if sizes.gated:
            yield from projection("gate", hidden_size, sizes.intermediate_size)
        yield from projection("up", hidden_size, sizes.intermediate_size)
        yield from projection("down", sizes.intermediate_size, hidden_size)
