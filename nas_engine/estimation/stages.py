"""Memory and arithmetic of each stage of a job, counted by running it on tensors that have a shape and no numbers.

What is saved for a backward pass, what an operation makes, what is shared: all follows from the code that will run. Two
small copies of the model are counted, of one layer and of two, or in hybrids of one turn of their kinds of layers and
of two; what a turn adds is their difference. Of stages that follow the data (an order of channels), a formula stands
beside the code it counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedConfig

from evaluators.multiple_choice.likelihoods import TOKEN_BUDGET
from nas_engine.estimation.job_size import JobSize
from nas_engine.estimation.outline import Outline, outlined, period, with_layers
from nas_engine.estimation.tensor_bytes import TensorBytes, bytes_of, bytes_of_model
from nas_engine.estimation.version_stages import VersionsSize, versions_size
from nas_engine.supernet.dimensions import BITS, DENSITY, SKIP
from nas_engine.supernet.gradients import changed_modules, heard_gradients
from nas_engine.supernet.refit import solving, workspace
from nas_engine.supernet.saving import SHARD_BYTES
from nas_engine.texts.calibration import CALIBRATION_ROWS
from nas_engine.training.answers import Distillation, Predictions
from nas_engine.training.run import ORDERING_ROWS
from search_spaces import Genome, SearchSpace, SpaceTemplate

_ROW = 128  # tokens of a row that is evaluated
_TOKEN_BY_TOKEN = 2  # times as long as at once: what 160 texts took on SmolLM2-135M
_SAVING, _VERSIONS = "extraction and saving", "versions"


@dataclass(frozen=True)
class Stage:
    """One stage of a job.

    Args:
        name: of it.
        held: bytes of what is there all the time: base, adapters, fits, moments.
        passing: bytes that it needs beside them at most.
        operations: additions and multiplications of its matrix products.
        fits: of what is held, bytes of narrower widths' shares and weights.
        finalist: of what is held, bytes of a sub-network of its own.
        by_batch: whether `passing` grows with the batch.
        written: bytes that it leaves on disk for later stages.
    """

    name: str
    held: float
    passing: float
    operations: float
    fits: float = 0.0
    finalist: float = 0.0
    by_batch: bool = False
    written: float = 0.0

    @property
    def bytes(self) -> int:
        """What the stage needs at its peak."""
        return round(self.held + self.passing)


def count_stages(
    config: PreTrainedConfig,
    template: SpaceTemplate,
    work: JobSize,
    dtype: torch.dtype = torch.float32,
    target: str | None = None,
    device: str = "cpu",
) -> list[Stage]:
    """Every stage of a job of `work` on a model of `config`, in their order.

    Args:
        config: of a model of a known family.
        template: of the space.
        work: how much is done.
        dtype: of the weights.
        target: as `SuperNetwork.from_pretrained` takes it.
        device: whose memory is counted; hidden states of calibration wait on the CPU whatever it is.

    Raises:
        FamilyError: the family is not supported.
        SpaceError: the space does not fit the model.
    """
    layers = int(config.num_hidden_layers)
    with outlined(config, template, dtype, target, work.group_size) as outline:  # the whole space in the whole model
        kept = 0 if outline.database is None else _versions_of(outline, work).kept
    turn = period(config)
    if layers <= 2 * turn:
        stages = _counted(config, template, work, dtype, target, device)
    else:
        few, more = (
            _counted(with_layers(config, count), template, work, dtype, target, device) for count in (turn, 2 * turn)
        )
        stages = [_extrapolated(one, other, layers // turn) for one, other in zip(few, more, strict=True)]
    made = [stage.name for stage in stages].index(_VERSIONS) if kept else len(stages)
    stages = [replace(stage, held=stage.held + kept) if i > made else stage for i, stage in enumerate(stages)]
    # What is merged is written a file at a time.
    return [replace(s, passing=min(s.passing, SHARD_BYTES)) if s.name == _SAVING else s for s in stages]


def _extrapolated(few: Stage, more: Stage, turns: int) -> Stage:
    def at(name: str) -> float:
        small, large = getattr(few, name), getattr(more, name)
        return float(small + (turns - 1) * (large - small))

    names = ("held", "passing", "operations", "fits", "finalist", "written")
    numbers: dict[str, Any] = {name: at(name) for name in names}
    return replace(few, **numbers)


def _counted(
    config: PreTrainedConfig,
    template: SpaceTemplate,
    work: JobSize,
    dtype: torch.dtype,
    target: str | None,
    device: str,
) -> list[Stage]:
    with outlined(config, template, dtype, target, work.group_size) as outline:
        joint = outline.database is not None
        heaviest = _heaviest(outline.space)
        adapters = bytes_of(outline.adapter_parameters)
        base = bytes_of_model(outline.model) - adapters
        whole = _products(outline)
        tokens, answers = work.batch_size * work.mean, work.batch_size * work.answers
        step = 2 * (whole.of(tokens, answers)) + whole.adapters * tokens  # of a frozen base, and its adapters' own
        if joint:  # adapters become part of the weights, whose gradients theirs are made of
            step += 2 * whole.weights * tokens
        stages = [Stage("load", base, 0.0, 0.0)]
        outline.activate_genome(heaviest)
        evaluated = _peak(lambda: _forward(outline, _ROW, no_grad=True, rows=TOKEN_BUDGET // _ROW))
        if work.generated_tokens:
            writing = _TOKEN_BY_TOKEN * whole.of(work.generated_tokens, work.generated_tokens)
            stages.append(Stage("calibration texts", base + adapters, evaluated, writing))
        if joint:
            stages += _made_versions(outline, work, base, adapters, evaluated, whole)
        if work.lora_steps:
            outline.activate_genome(outline.space.largest)
            peak = _peak(lambda: _step(outline, work, None))
            # Gradients are made in the step, moments stay.
            stages.append(Stage("plain LoRA", base + 3 * adapters, peak, step * work.lora_steps, by_batch=True))
        teacher = 2 * adapters  # as it was given, and in the order of the channels
        fits = _give_fits(outline) if work.refit and not joint else 0
        if not joint:
            stages.append(_ordering(outline, work, device, base + adapters + teacher, fits, evaluated, whole))
        held = base + adapters + teacher + fits
        outline.activate_genome(_narrowest(outline.space))
        middle = (1 + _products(outline).weights / whole.weights) / 2  # of the largest's operations
        narrow = _peak(lambda: _step(outline, work, None)) if work.steps and work.refit else 0
        outline.activate_genome(heaviest)
        wide = _peak(lambda: _step(outline, work, _said(outline, work))) if work.steps or work.heal_steps else 0
        if work.steps:
            operations, peak = (middle * step + whole.of(tokens, answers)) * work.steps, max(narrow, wide)
            training = held + 2 * adapters
            stages.append(Stage("super-network training", training, peak, operations, fits, by_batch=True))
        if work.hints:
            peak = _peak(lambda: _sensitivity(outline, work))
            stages.append(Stage("sensitivity", held, peak, 3 * whole.of(work.mean, work.mean) * work.hints, fits))
        if work.evaluations:
            one = middle * whole.of(work.evaluation_tokens, work.evaluation_tokens / 2)
            stages.append(Stage("search", held, evaluated, one * work.evaluations, fits))
        # A finalist is at most the whole model, with adapters of its own and the embeddings that are there.
        alone = bytes_of_model(outline.model) - _embeddings(outline)
        finalist = alone if work.heal_steps else 0
        if work.heal_steps:  # successive halving: half the steps of twice as many
            healed, healing = 2 * work.heal_steps * step, held + alone + 2 * adapters
            stages.append(Stage("healing", healing, wide, healed, fits, alone, by_batch=True))
        stages.append(Stage(_SAVING, held + finalist, alone - adapters, 0.0, fits, finalist))
    return stages


def _heaviest(space: SearchSpace) -> Genome:
    """The largest values, on the coarsest grids: to put weights on one takes more than to leave them."""
    compressed = [gene.dimension in (BITS, DENSITY) for gene in space.genes]
    heaviest: Genome = np.where(compressed, space.smallest, space.largest)
    return heaviest


def _narrowest(space: SearchSpace) -> Genome:
    """The smallest values, with every block kept."""
    skips = [gene.dimension == SKIP for gene in space.genes]
    narrowest: Genome = np.where(skips, space.largest, space.smallest)
    return narrowest


@dataclass(frozen=True)
class _Products:
    """Numbers that a token is multiplied by: in the layers' active weights, of experts those that it is sent to, in
    adapters, and in the output head.
    """

    weights: int
    adapters: int
    head: int

    def of(self, tokens: float, answers: float) -> float:
        """Operations of one pass over so many tokens, of which so many are answers; attention's own are left out."""
        return 2 * ((self.weights + self.adapters) * tokens + self.head * answers)


def _products(outline: Outline) -> _Products:
    linears, head = outline.elastic_linears.values(), outline.model.get_output_embeddings()
    experts = sum(
        min(mixture.per_token, mixture.active) * 3 * mixture.width * mixture.down.shape[1]
        for layer in outline.layers
        if (mixture := layer.mixture) is not None
    )
    return _Products(
        sum(linear.active_parameters for linear in linears) + experts,
        sum(linear.active_adapter_parameters for linear in linears),
        0 if head is None else head.weight.numel(),
    )


def _peak(run: Callable[[], object]) -> int:
    with TensorBytes() as tensors:
        result = run()
    del result
    peak: int = tensors.peak
    return peak


def _forward(outline: Outline, tokens: int, no_grad: bool = False, rows: int = 1) -> Tensor:
    """The last hidden states, shape (rows, tokens, hidden)."""
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    outline.model.train(not no_grad)
    with torch.set_grad_enabled(not no_grad):
        hidden: Tensor = outline.model.base_model(input_ids=ids, use_cache=False)[0]
    return hidden


def _said(outline: Outline, work: JobSize) -> Predictions:
    with torch.no_grad():
        return _predictions(outline, _forward(outline, work.longest, no_grad=True, rows=work.batch_size), work)


def _predictions(outline: Outline, hidden: Tensor, work: JobSize) -> Predictions:
    head = outline.model.get_output_embeddings()
    if head is None:
        return Predictions(hidden[:, 0, :2].clone(), torch.zeros(len(hidden), dtype=torch.long), hidden.flatten(0, 1))
    asked = min(work.answers, work.longest - 1)
    states = hidden[:, -asked:].flatten(0, 1)
    return Predictions(head(states), torch.zeros(len(states), dtype=torch.long), hidden.flatten(0, 1))


def _step(outline: Outline, work: JobSize, teacher: Predictions | None) -> None:
    """Forward and backward of a batch of the longest examples."""
    hidden = _forward(outline, work.longest, rows=work.batch_size)
    said = _predictions(outline, hidden, work)
    loss = said.loss if teacher is None else Distillation().loss(said, teacher)
    del hidden, said
    loss.backward()
    for parameter in outline.adapter_parameters:
        parameter.grad = None


def _sensitivity(outline: Outline, work: JobSize) -> object:
    batch = {"input_ids": torch.zeros(min(work.hints, CALIBRATION_ROWS), work.longest, dtype=torch.long)}
    return heard_gradients(outline, batch, changed_modules(outline), torch.Generator())


def _give_fits(outline: Outline) -> int:
    """Shares and weights of every width, without numbers; their bytes."""
    for units in outline.units.values():
        reader, inputs = units.reader, units.reader.in_features
        sizes = [*units.sizes, inputs]
        reader.shares = {kept: torch.empty(kept, wider - kept, dtype=torch.float16) for kept, wider in pairwise(sizes)}
    return bytes_of([tensor for units in outline.units.values() for tensor in units.reader.fitted_tensors])


def _ordering(
    outline: Outline, work: JobSize, device: str, held: float, fits: int, passing: float, whole: _Products
) -> Stage:
    """See `nas_engine.supernet.refit`: a layer at a time, the widest reader at the peak, all fits but its own held."""
    readers = [units.reader for units in outline.units.values()]
    operations = whole.of(work.calibration_tokens, 0)
    if not work.refit or not readers:
        return Stage("order", held, passing, operations)
    # What a layer reads and what it gives: of all texts where they wait, elsewhere of a batch.
    there = work.calibration_tokens if torch.device(device).type == "cpu" else ORDERING_ROWS * work.longest
    hidden = 2 * min(there, work.calibration_tokens) * outline.model.config.hidden_size * outline.model.dtype.itemsize
    widest = max(workspace(reader.in_features, reader.out_features) for reader in readers)
    solved = sum(solving(reader.in_features, work.calibration_tokens) for reader in readers)
    # When the last layer is solved, its own fits are still to come.
    last = bytes_of([tensor for reader in outline.layers[-1].linears.values() for tensor in reader.fitted_tensors])
    return Stage("order and fit", held + fits - last, hidden + widest, operations + solved, fits - last)


def _made_versions(
    outline: Outline, work: JobSize, base: float, adapters: float, passing: float, whole: _Products
) -> list[Stage]:
    """See `nas_engine.jobs.versions`: the base put in order by what it reads, where anything has one, and its versions
    made of a copy.
    """
    stages, tokens = [], work.calibration_tokens
    if outline.units:
        stages.append(Stage("order", base + adapters, passing, whole.of(tokens, 0), written=base))
    size, config = _versions_of(outline, work), outline.model.config
    hidden = 2 * tokens * config.hidden_size * outline.model.dtype.itemsize
    held = 2 * base + adapters
    stages.append(Stage(_VERSIONS, held, hidden + size.passing, size.operations, written=size.on_disk))
    return stages


def _versions_of(outline: Outline, work: JobSize) -> VersionsSize:
    assert outline.database is not None
    return versions_size(outline.model, outline.database.levels, work.calibration_tokens, work.refit)


def _embeddings(outline: Outline) -> int:
    """Bytes of the embeddings that a sub-network shares with its super-network while it is saved."""
    modules = (outline.model.get_input_embeddings(), outline.model.get_output_embeddings())
    return bytes_of([p for module in modules if module is not None for p in module.parameters()])
