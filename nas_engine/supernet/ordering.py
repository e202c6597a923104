"""What the importance of heads and channels is measured by: what passes through them on calibration texts.

Units are ordered once, so that every smaller sub-network is a prefix of the larger ones. An MLP channel adds
``X_j W_:j`` to the layer's output, with W_:j its column of down; its importance is the L2 norm of that over all tokens,
``||W_:j||₂ · ||X_j||₂``: Wanda's scores (Sun et al., 2023, arXiv 2306.11695, section 3), as a norm over the column. A
KV group of heads has that of all its columns of o. On SmolLM2 it keeps more than sums of the scores over gate, up and
down, than weight norms and than first-order Taylor scores; `benchmarks.ordering` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nas_engine.supernet.listening import listen_to
from nas_engine.texts.batches import Batch, readable


@torch.no_grad()
def final_states(model: PreTrainedModel, batches: Iterable[Batch]) -> Tensor:
    """The last hidden states of all tokens that are no padding, shape (tokens, hidden), in fp32."""
    states = []
    for batch in readable(batches, model):
        mask = batch["attention_mask"]
        output = model.base_model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False)
        states.append(output.last_hidden_state[mask.bool()].float())
    return torch.cat(states)


def input_norms(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], batches: Iterable[Batch]
) -> dict[str, Tensor]:
    """The L2 norm of every input of `modules` over the tokens of `batches`, padding left out.

    Args:
        model: run once on each batch, without its output head.
        modules: the layers to listen to, by name.
        batches: `input_ids` and `attention_mask` of shape (rows, tokens).

    Returns:
        a vector of shape (inputs,) for each module.
    """
    squares = listened(model, modules, batches, lambda inputs: inputs.pow(2).sum(0))
    return {name: total.sqrt() for name, total in squares.items()}


@torch.no_grad()
def listened(
    model: PreTrainedModel,
    modules: Mapping[str, nn.Module],
    batches: Iterable[Batch],
    statistic: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The sum over `batches` of a statistic of what each of `modules` reads, shape (tokens, inputs), in fp32."""
    totals: dict[str, Tensor] = {}

    def add(name: str, args: tuple[Tensor, ...], mask: Tensor) -> None:
        found = statistic(args[0].flatten(0, -2)[mask].float())  # OPT flattens its rows itself
        totals[name] = totals[name] + found if name in totals else found

    listen_to(model, [(module, partial(add, name)) for name, module in modules.items()], batches)
    return totals


def order_of(importance: Tensor) -> Tensor:
    """The indices of units, the most important first."""
    return importance.argsort(descending=True, stable=True)
