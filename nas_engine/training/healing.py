"""Healing: a chosen sub-network trained alone, physically small, until it does what the whole model does.

What comes off a front shares its adapters with thousands of others. Alone, it gets adapters of its own on the weights
that the super-network gave it, learns the answers and the teacher's distribution, and merges again: in place of a
sub-network that training held back for the others' sake, the one that it could be. Training after the choice is what
Minitron (Muralidharan et al., 2024, arXiv 2407.14679) and Puzzle (Bercovich et al., 2024, arXiv 2411.19146) do too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Labelled
from evaluators.classification.labelled import Learnable
from nas_engine.errors import CheckpointError, ExportError
from nas_engine.keywords import merged, takes
from nas_engine.progress import say
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.leaving import deployed_layer, renewed_layer, unmerged_layer
from nas_engine.supernet.saving import Outlines
from nas_engine.supernet.subnetwork import Subnetwork
from nas_engine.texts.labelled import Learned, tokenize_for
from nas_engine.training.answers import BatchFraction, learned, predictions
from nas_engine.training.data_parallel import require_whole
from nas_engine.training.fitting import can_fit, fit_to_teacher
from nas_engine.training.run import TrainingRun
from nas_engine.training.settings import Adapters, HealingSettings
from nas_engine.training.sharding import require_sharding
from nas_engine.training.teacher import Teacher

if TYPE_CHECKING:
    from nas_engine.deploy import Export

_TEXTS = 4  # prompts that are kept


class Healed:
    """A sub-network with adapters of its own, on a physically smaller model.

    Attributes:
        subnet: the sub-network that it came from, which stays as it was.
        model: the small model, its adapters beside the weights.
        losses: the mean loss on answer tokens of every step so far, in nats a token.
        texts: some prompts of the kind that it learned from, on which an export is checked.
    """

    def __init__(self, subnet: Subnetwork, adapters: Adapters = "fresh", seed: int = 0) -> None:
        if adapters not in get_args(Adapters):
            raise ValueError(f"adapters is {adapters!r}; choose one of {', '.join(get_args(Adapters))}.")
        self.subnet = subnet
        self.losses: tuple[float, ...] = ()
        self.texts: tuple[str, ...] = ()
        generator = torch.Generator().manual_seed(seed)
        self.model = subnet.extract_with(
            (lambda linear: renewed_layer(linear, generator)) if adapters == "fresh" else unmerged_layer
        )
        self.model.requires_grad_(False)
        for parameter in self.trained.values():
            parameter.requires_grad_(True)

    def __repr__(self) -> str:
        return f"Healed({len(self.losses)} steps, {dict(self.subnet.configuration)})"

    @property
    def configuration(self) -> Mapping[str, Any]:
        """The value of every gene, by name."""
        return self.subnet.configuration

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The super-network's tokenizer."""
        return self.subnet.tokenizer

    @property
    def adapters(self) -> dict[str, nn.Parameter]:
        """What healing moves: `lora_A` and `lora_B` by their paths in `model`."""
        return {
            f"{path}.{name}": parameter
            for path, linear in self._linears.items()
            for name, parameter in (("lora_A", linear.lora_A), ("lora_B", linear.lora_B))
            if parameter is not None
        }

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """`adapters`, and the task's head where the family has one, by their paths in `model`."""
        heads = {
            f"{path}.{name}": parameter
            for path in self.subnet.family.head
            for name, parameter in self.model.get_submodule(path).named_parameters()
        }
        return self.adapters | heads

    @property
    def _linears(self) -> dict[str, ElasticLinear]:
        return {path: module for path, module in self.model.named_modules() if isinstance(module, ElasticLinear)}

    def extract(self, share_embeddings: bool = False, merge: bool | None = None) -> PreTrainedModel:
        """An ordinary model, as `Subnetwork.extract` gives it.

        Raises:
            ExportError: `merge` is True, and merging would fill zeros or leave a grid.
        """
        return self._deployed(
            lambda linear: deployed_layer(linear, merge),
            share_embeddings,
        )

    def _deployed(self, stand_in: Callable[[ElasticLinear], nn.Module], share_embeddings: bool) -> PreTrainedModel:
        memo: dict[int, object] = {}
        for path, linear in self._linears.items():
            try:
                memo[id(linear)] = stand_in(linear)
            except ExportError as error:
                raise ExportError(f"{path} cannot be merged: {error}") from error
        if share_embeddings:
            embeddings = (self.model.get_input_embeddings(), self.model.get_output_embeddings())
            memo |= {id(p): p for e in embeddings if e is not None for p in e.parameters()}
        extracted: PreTrainedModel = copy.deepcopy(self.model, memo)
        extracted.requires_grad_(not share_embeddings)
        extracted.eval()
        return extracted

    def parameter_count(self) -> int:
        """Parameters of the extracted model, tied ones once."""
        return self.subnet.parameter_count()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Merge and save, as `Subnetwork.save_pretrained`.

        Raises:
            ExportError: an adapter does not merge without loss.
        """
        about = {"healed_steps": len(self.losses)}
        if not self.subnet.plain:
            return self.subnet.save_model(self.extract(share_embeddings=True, merge=True), Path(folder), about)
        outlines = Outlines()
        return self.subnet.save_model(self._deployed(outlines, True), Path(folder), about, outlines)

    def export(self, format: str, file: str | Path, **settings: Any) -> Export:
        """Merge and write for a runtime, as `Subnetwork.export`, checked on prompts that it learned from.

        Raises:
            ExportError: an adapter does not merge without loss, or the runtime cannot express the model.
        """
        extracted = self.extract(share_embeddings=True, merge=True)
        return self.subnet.export_model(
            extracted, format, file, **({"texts": self.texts} if self.texts else {}) | settings
        )


@takes(HealingSettings)
def heal(
    subnet: Subnetwork,
    train_set: Sequence[Learnable],
    settings: HealingSettings | int | None = None,
    *,
    teacher: Teacher | None = None,
    gradient_checkpointing: bool = False,
    sharded: bool = False,
    until: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 50,
    progress: bool = True,
    **fields: Any,
) -> Healed:
    """Train `subnet` alone; the super-network and the other sub-networks stay as they are.

    The learning rate rises and falls as in `nas_engine.train`. On a sparse or quantized base adapters act as they did
    there: SparsePEFT keeps its zeros, QA-SparsePEFT its grid. Interrupted with a `checkpoint` folder, the same call
    goes on where it stopped and ends as if it had not been interrupted.

    Args:
        subnet: of a super-network.
        train_set: prompts with completions; the loss is taken on the completions. For a classifier texts with labels.
        settings: how long and how fast the whole schedule is; or its fields by name, ``heal(…, steps=48)``;
            or the number of steps alone.
        teacher: whose distribution it learns beside the answers; None leaves the answers alone.
        gradient_checkpointing: compute activations anew in the backward pass instead of keeping them.
        sharded: in several processes, spread the frozen weights over them (FSDP) while steps are taken, the teacher's
            too.
        until: stop after so many of the steps; the same call with a later one goes on from the checkpoint.
        checkpoint: folder for the run's state, written every `checkpoint_every` steps and on Ctrl-C.

    Raises:
        ValueError: a setting out of its bounds, an unusable training set, nothing to train, or examples that it
            cannot learn; or `sharded` in one process or with a teacher whose bits or zeros vary.
        ExportError: ``adapters="fresh"`` where the super-network's do not merge.
        CheckpointError: the folder holds a checkpoint of another run.
    """
    settings = merged(HealingSettings, settings, fields, "steps")
    steps = settings.steps
    last = steps if until is None else until
    taught = [] if teacher is None or not settings.distillation.asks else [teacher.supernet]
    require_whole([subnet.model, *(each.model for each in taught)], sharded)
    if sharded:
        require_sharding(taught)
    if not 0 < last <= steps:
        raise ValueError(f"until is {until}; give a number of steps from 1 to {steps}.")
    examples = tokenize_for(subnet.model, train_set, subnet.tokenizer, settings.max_tokens)
    healed = Healed(subnet, settings.adapters, settings.seed)
    if not healed.trained:
        sizes = () if subnet.family.hybrid else subnet.layer_sizes
        kept = not sizes or any(layer.heads or layer.intermediate_size for layer in sizes)
        why = "add lora_rank(...) to the super-network's space" if kept else "it has no block left; choose a larger one"
        raise ValueError(f"this sub-network has no adapters to train; {why}.")
    models = [healed.model, *(each.model for each in taught)]
    run = _Healing(healed, examples, settings, teacher, models if sharded else ())
    progress = progress and run.ranks.first
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is None or not run.resume(folder):
        run.fit(settings.fit_tokens, progress)
    run.share_state()
    run.go("Healing", max(last, len(run.losses)), folder, checkpoint_every, gradient_checkpointing, progress)
    healed.losses = tuple(sum(step) / len(step) for step in run.losses)
    healed.texts = tuple(e.text if isinstance(e, Labelled) else e.prompt or e.completion for e in train_set[:_TEXTS])
    return healed


class _Healing(TrainingRun):
    """A run on the small model alone."""

    def __init__(
        self,
        healed: Healed,
        examples: Sequence[Learned],
        settings: HealingSettings,
        teacher: Teacher | None,
        sharded: Sequence[PreTrainedModel] = (),
    ) -> None:
        self.healed, self.teacher = healed, teacher
        # Weights that are no longer the super-network's, by name; held here for checkpoints, also while in parts.
        self.fitted: dict[str, Tensor] = {}
        identity = {
            "configuration": dict(healed.configuration),
            "supernetwork": healed.subnet.supernetwork_fingerprint,
            "teacher": teacher and teacher.fingerprint(),
        }
        parameters = list(healed.trained.values())
        super().__init__(healed.model, healed.tokenizer, parameters, examples, settings, identity, sharded)

    def visit(self, batch: dict[str, Tensor], micro: int, part: BatchFraction) -> list[float]:
        """See `TrainingRun.visit`."""
        distillation = self.settings.distillation
        teacher = None
        if self.teacher is not None and distillation.asks:
            teacher = self.teacher.predictions(batch, states=bool(distillation.hidden))
        loss, answers = learned(predictions(self.model, batch), teacher, distillation, part)
        (loss / self.settings.accumulation).backward()
        return [answers]

    def fit(self, count: int, progress: bool) -> None:
        """Fit weights to the teacher's stream on the first `count` tokens, where that can be."""
        if self.teacher is None or not count or not can_fit(self.healed.subnet):
            return
        say("Fitting layers to the teacher", enabled=progress)
        self._hold(fit_to_teacher(self.healed.subnet, self.healed.model, self.teacher, self.first(count)))

    def state(self) -> dict[str, Tensor]:
        """See `TrainingRun.state`."""
        return self.fitted | {name: parameter.detach() for name, parameter in self.healed.trained.items()}

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See `TrainingRun.load_state`."""
        parameters = dict(self.healed.model.named_parameters())
        for name in self.healed.trained.keys() | tensors.keys():
            if name not in parameters or name not in tensors or tensors[name].shape != parameters[name].shape:
                raise CheckpointError(f"{name} is missing, or is not this sub-network's.")
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
        self._hold(name for name in tensors if name not in self.healed.trained)

    def _hold(self, names: Iterable[str]) -> None:
        self.fitted = {name: self.healed.model.get_parameter(name).detach() for name in names}
