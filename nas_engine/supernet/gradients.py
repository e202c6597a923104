"""How much each value of a gene matters, from one backward pass a text instead of a forward pass a value.

Let a projection say ``d`` more at a token because a gene is smaller, and let g be the gradient, with respect to what it
says there, of the log-probability of next tokens drawn from the network's own distribution. To second order the
divergence of the changed distribution is then ``½ E[(g · d)²]``, for the expectation of g gᵀ is the Fisher information
(Amari, 1998). All d of a layer need its inputs alone, so that one forward and one backward pass score every value of
every gene; NVIDIA's AutoQuantize chooses bits by gradients too. Tokens count as independent, which scatters less than
summing over a text first; blocks left out are beyond second order, and come out in order rather than in nats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evaluators.text.head import logits_of
from nas_engine.progress import progress_bar
from nas_engine.supernet.dimensions import EXPERTS, HEADS, SKIP, WIDTH
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.layer import READERS
from nas_engine.texts.batches import Batch
from search_spaces import ModuleName

if TYPE_CHECKING:
    from search_spaces import Choice

_POSITIONS = 512  # of a batch, at which next tokens are drawn: each holds a distribution over the vocabulary
_LAST = {"attention": READERS["heads"], "mlp": READERS["channels"]}  # projections of a block


def sensitivity_by_gradients(
    supernet: ElasticModel, batches: Sequence[Batch], progress: bool
) -> dict[str, tuple[float, ...]]:
    """See `SuperNetwork.sensitivity`; `batches` are where the model is."""
    model, space = supernet.model, supernet.space
    model.eval()
    supernet.activate_genome(space.largest)
    changed = {gene.name: _changed(gene) for gene in space.genes}
    modules = changed_modules(supernet)
    generator = torch.Generator(model.device).manual_seed(0)
    totals = {gene.name: [0.0] * len(gene) for gene in space.genes}
    drawn = 0
    with progress_bar("Measuring sensitivity", len(batches), enabled=progress) as bar:
        for batch in batches:
            count, of = heard_gradients(supernet, batch, modules, generator)
            drawn += count
            _add(supernet, of, changed, totals)
            bar.advance()
    return {name: tuple(total / 2 / drawn for total in values) for name, values in totals.items()}


def changed_modules(supernet: ElasticModel) -> dict[str, nn.Module]:
    """By name, all that says something else when a gene is smaller."""
    return {name: _module(supernet, name) for gene in supernet.space.genes for name in _changed(gene)}


def heard_gradients(
    supernet: ElasticModel, batch: Batch, modules: Mapping[str, nn.Module], generator: torch.Generator
) -> tuple[int, dict[str, tuple[Tensor, Tensor, Tensor]]]:
    """How many next tokens were drawn, and what each of `modules` reads, says, and has as its gradient."""
    with _heard(modules) as heard:
        count, loss = _log_likelihood(supernet, batch, generator)
        names = [name for name in modules if name in heard]
        gradients = torch.autograd.grad(loss, [heard[name][1] for name in names], allow_unused=True)
    return count, {
        name: (heard[name][0], heard[name][1].detach(), gradient)
        for name, gradient in zip(names, gradients, strict=True)
        if gradient is not None
    }


def _changed(gene: Choice) -> list[str]:
    """What says something else when `gene` is smaller: blocks, or projections, of which what reads heads or channels
    speaks for the rest.
    """
    reader = {HEADS: READERS["heads"], WIDTH: READERS["channels"]}.get(gene.dimension)
    return [
        module
        for module in gene.modules
        if reader in (None, (name := ModuleName.parse(module).name)) or name == EXPERTS
    ]


def _module(supernet: ElasticModel, name: str) -> nn.Module:
    """A projection by its name, or the last module of a block before the residual stream."""
    if name in supernet.elastic_linears:
        return supernet.elastic_linears[name]
    index, block = ModuleName.parse(name)
    family = supernet.family
    if family.experts is not None and block in ("mlp", EXPERTS):
        return supernet.layers[index].module.get_submodule(family.experts.block)
    path = family.norms_after.get(block) or family.projections[_LAST[block]]
    return supernet.layers[index].module.get_submodule(path)


@contextmanager
def _heard(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What each module reads and says in a forward pass."""
    heard: dict[str, tuple[Tensor, Tensor]] = {}

    def listen(name: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        # Below the first adapter nothing asks for gradients yet.
        said = output if output.requires_grad else output.detach().requires_grad_()
        heard[name] = args[0].detach(), said
        return said

    handles = [module.register_forward_hook(partial(listen, name)) for name, module in modules.items()]
    try:
        with torch.enable_grad():
            yield heard
    finally:
        for handle in handles:
            handle.remove()


def _log_likelihood(supernet: ElasticModel, batch: Batch, generator: torch.Generator) -> tuple[int, Tensor]:
    """The summed log-likelihood of next tokens (or classes) that the network draws itself, and how many they are."""
    model = supernet.model
    if model.get_output_embeddings() is None:
        logits = model(**batch).logits
    else:
        inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask") if name in batch}
        states = model.base_model(**inputs, use_cache=False).last_hidden_state
        states = states[batch["attention_mask"].bool()] if "attention_mask" in batch else states.flatten(0, 1)
        logits = logits_of(model, states[:: -(-len(states) // _POSITIONS)])
    log_probabilities = logits.float().log_softmax(-1)
    drawn = torch.multinomial(log_probabilities.detach().exp(), 1, generator=generator)
    return len(drawn), log_probabilities.gather(1, drawn).sum()


@torch.no_grad()
def _add(
    supernet: ElasticModel,
    of: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    changed: Mapping[str, Sequence[str]],
    totals: Mapping[str, list[float]],
) -> None:
    """Add ``Σ (g · d)²`` over tokens of every value but the largest."""
    space = supernet.space
    try:
        for position, gene in enumerate(space.genes):
            for index in range(len(gene) - 1):
                genome = space.largest.copy()
                genome[position] = index
                if gene.dimension != SKIP:
                    supernet.activate_genome(genome)
                for name in changed[gene.name]:
                    if name in of:
                        read, said, gradient = of[name]
                        now = torch.zeros_like(said) if gene.dimension == SKIP else _said(supernet, name, read)
                        products = (gradient.float() * (now - said).float()).sum(-1)
                        totals[gene.name][index] += float(products.square().sum())
    finally:
        supernet.activate_genome(space.largest)


def _said(supernet: ElasticModel, name: str, read: Tensor) -> Tensor:
    if name not in supernet.elastic_linears:  # a mixture of experts as a whole: fewer are routed to otherwise
        mixed: Tensor = _module(supernet, name)(read)
        return mixed
    linear = supernet.elastic_linears[name]
    output: Tensor = linear(read[..., : linear.active_in])
    return output
