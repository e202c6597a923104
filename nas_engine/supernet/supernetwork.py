"""A frozen Hugging Face decoder with elastic low-rank adapters: the network that all sub-networks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.documents import checked
from nas_engine.compression.checkpoint import load_base
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.quantization import Quantization
from nas_engine.errors import CheckpointError, CompressionError
from nas_engine.families.family import Family
from nas_engine.families.fingerprint import base_fingerprint
from nas_engine.families.plain import require_plain
from nas_engine.models import moved
from nas_engine.supernet.block_importance import block_importance
from nas_engine.supernet.combination import COMBINATIONS
from nas_engine.supernet.compressed_base import prepare_base
from nas_engine.supernet.dimensions import BITS, DENSITY, RANK, SKIP
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.elastic_units import elastic_units, sort_by_norms
from nas_engine.supernet.extraction import absent_layers, bypassed
from nas_engine.supernet.layer import BLOCKS, READERS, ElasticLayer
from nas_engine.supernet.levels import Levels
from nas_engine.supernet.peft_import import load_adapter
from nas_engine.supernet.refit import find_shares
from nas_engine.supernet.resizing import resizers_of
from nas_engine.supernet.sensitivity import Method, Sensitivity, sensitivity
from nas_engine.supernet.state import adapter_tensors, load_tensors
from nas_engine.supernet.storage import fingerprint, read_supernetwork, save_base, save_supernetwork
from nas_engine.supernet.subnetwork import Subnetwork
from nas_engine.texts.batches import Batch
from nas_engine.texts.calibration import calibration_batches
from nas_engine.texts.examples import TextPair
from search_spaces import Choice, Configuration, SearchSpace, SpaceError, SpaceTemplate, Value


@dataclass(frozen=True)
class AdapterSettings:
    """How adapters start and scale.

    Args:
        alpha: LoRA's alpha; None takes twice each adapter's largest rank. The scale is alpha / r_max at every rank.
        dropout: probability on the adapter's input, in training.
        seed: of the initial `lora_A`.
        combination: how they act on the frozen weights: ``plain``, ``masked`` (SparsePEFT) or ``quantized``
            (QA-SparsePEFT); see `nas_engine.supernet.combination`.

    Raises:
        ValueError: another combination, or dropout with one that acts on the weights.
    """

    alpha: float | None = None
    dropout: float = 0.0
    seed: int = 0
    combination: str = "plain"

    def __post_init__(self) -> None:
        if self.combination not in COMBINATIONS:
            raise ValueError(f"combination is {self.combination!r}; choose one of {', '.join(COMBINATIONS)}.")


class SuperNetwork:
    """A model whose linear layers are elastic, with the space of its sub-networks.

    Made by `from_pretrained` or `load`. The given model is taken over: its layers become elastic in place.

    Attributes:
        model: the Hugging Face model, base weights frozen, running the configuration that is active.
        tokenizer: its tokenizer.
        space: the genes, their names and values.
        family: where the model keeps its projections.
        layers: the layers, each with its projections and active sizes.
        head: modules that are new for the task and train whole, such as BERT's classifier, by path.
        elastic_linears: every elastic projection by the space's name, such as ``layers.3.up``.
        units: heads and channels whose number is elastic, by the projection that reads them.
        base_fingerprint: 16 hexadecimal digits of the original model's weights.
        quantization: the grids that the original model's weights lie on; None where they are in floating point.
        database: the versions of each projection that its bits and density choose from; None where they do not vary.
        levels: the bits and density of each projection that are active.
        base: name or folder of the original model; None where it was given as an object.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        space: SearchSpace,
        adapter: AdapterSettings | None = None,
        base: str | None = None,
        quantization: Quantization | None = None,
        database: LayerDatabase | None = None,
    ) -> None:
        self.model, self.tokenizer, self.space, self.base = model, tokenizer, space, base
        self.adapter = adapter or AdapterSettings()
        self.family: Family = require_plain(model)
        self._require_known(space)
        self.quantization = quantization
        self.database = database
        self.combination = COMBINATIONS[self.adapter.combination]
        prepare_base(model, space, self._ranks(), self.adapter.combination, quantization, database)
        self.base_fingerprint = base_fingerprint(model, self.family.head)
        model.requires_grad_(False)
        self.head = {path: model.get_submodule(path).requires_grad_(True) for path in self.family.head}
        modules = model.get_submodule(self.family.layers).children()
        self.layers = [ElasticLayer(self.family, i, module, model.config) for i, module in enumerate(modules)]
        self.elastic_linears = self._make_elastic()
        self.units = elastic_units(self.layers, space)
        for of_layer in self.units.values():
            if of_layer.unit == "heads":
                of_layer.layer.watch_head_bias()
        self.levels = Levels(space, database, self.base_fingerprint, self.adapter.combination)
        self._fix_orders()
        self._rigid_linears: dict[str, ElasticLinear] = {}  # views of the others, to be asked what they hold
        self._resizers = {c.name: resizers_of(c, self.layers, self.elastic_linears) for c in space.choices}
        self._genome: tuple[int, ...] | None = None  # what is active; only changed genes are applied
        for choice in space.fixed:
            self._apply(choice, choice.values[0])
        self.activate(space.configuration(space.largest))

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | PreTrainedModel,
        space: SpaceTemplate | SearchSpace,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        alpha: float | None = None,
        dropout: float = 0.0,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        combination: str = "plain",
        quantization: Quantization | None = None,
        database: LayerDatabase | None = None,
        device: str | torch.device | None = None,
    ) -> SuperNetwork:
        """Freeze `model` and make it elastic in what `space` varies.

        Args:
            model: a Hugging Face id or folder, ``"smollm2"`` (SmolLM2-135M-Instruct from the package index), or a
                loaded causal language model, which is changed in place.
            space: a template such as ``lora_rank((32, 16)) + mlp_width((1.0, 0.5))``, or a space bound to this model.
            tokenizer: needed where `model` is an object.
            alpha: LoRA's alpha; None takes twice each adapter's largest rank.
            dropout: on the adapters' inputs, in training.
            seed: of the adapters' start.
            dtype: to load a named model in.
            combination: how adapters act on a sparse or quantized base: ``"plain"``, beside it; ``"masked"``, on its
                nonzeros (SparsePEFT); ``"quantized"``, on its nonzeros and its grid (QA-SparsePEFT).
            quantization: what `nas_engine.compression.quantize_model` gave for `model`; a folder that
                `nas_engine.compression.save_quantized` wrote brings its own.
            database: what `nas_engine.compression.database.build_database` made of `model`, for a space with
                `weight_bits` or `sparsity`, which needs ``combination="quantized"``.
            device: where it computes, such as ``cuda``; None leaves a model where it is, and a named one on the CPU.

        Raises:
            CompressionError: the model is quantized in another format, or a width cuts a group of a grid.
            FamilyError: the model's family is not supported (the message names those that are).
            SpaceError: the space does not fit the model, such as a width larger than a layer.
            ValueError: a model object without a tokenizer.
        """
        base = None
        if isinstance(model, str | Path):
            base = str(model)
            loaded, own_tokenizer, own_quantization = load_base(base, dtype)
            quantization = quantization or own_quantization
            tokenizer = tokenizer or own_tokenizer
        elif tokenizer is None:
            raise ValueError("a model given as an object needs its tokenizer: pass tokenizer=...")
        else:
            loaded = model
        shape = require_plain(loaded).shape(loaded)
        bound = space.bind(shape) if isinstance(space, SpaceTemplate) else space
        settings = AdapterSettings(alpha, dropout, seed, combination)
        supernet = cls(loaded, tokenizer, bound, settings, base, quantization, database)
        return supernet.to(device)

    def to(self, device: str | torch.device | None) -> SuperNetwork:
        """Move everything to `device`, such as ``cuda``, in place; None leaves it where it is.

        Raises:
            ValueError: this machine has no such device.
        """
        moved(self.model, device)
        return self

    def save(self, folder: str | Path, include_base: bool | None = None) -> Path:
        """Save adapters, channel order and space; the base model's weights only where needed.

        Args:
            folder: is made; gets `supernet.json`, `adapter.safetensors` and, with the base, `base/`.
            include_base: also write the base model; None does where it was given as an object and could not be
                found again by name.
        """
        return save_supernetwork(self, Path(folder), self.base is None if include_base is None else include_base)

    def save_base(self, folder: str | Path) -> Path:
        """Save the frozen base alone with its tokenizer, for an adapter beside it; quantized weights as integers.

        Raises:
            CompressionError: its weights are off their grids, because ``combination="quantized"`` trains on them.
        """
        return save_base(self, Path(folder))

    @classmethod
    def load(
        cls, folder: str | Path, dtype: torch.dtype = torch.float32, device: str | torch.device | None = None
    ) -> SuperNetwork:
        """The super-network that `save` wrote, on `device` or else the CPU.

        Raises:
            CheckpointError: a file is missing, or the base model is no longer the one that it was saved with.
        """
        saved, state = read_supernetwork(Path(folder), dtype)
        adapter = checked(saved.adapter, AdapterSettings, CheckpointError, f"{folder} has other settings of adapters")
        base = saved.base or str(Path(folder) / "base")
        database = None if saved.database is None else LayerDatabase(saved.database)
        supernet = cls(saved.model, saved.tokenizer, saved.space, adapter, base, saved.quantization, database)
        try:
            supernet.load_state(state)
        except CheckpointError as error:
            raise CheckpointError(f"{folder} holds no saved super-network: {error}") from error
        return supernet.to(device)

    def load_adapter(self, folder: str | Path) -> None:
        """Start the super-adapter from a LoRA checkpoint that PEFT trained on the same base model.

        The largest sub-network computes what the PEFT model computes. PEFT's ranks have no order, so each adapter's are
        turned into the singular directions of its product first: every smaller rank is then the best approximation of
        its size (Eckart and Young, 1936).

        Args:
            folder: holds `adapter_config.json` and `adapter_model.safetensors`.

        Raises:
            CheckpointError: it is no LoRA checkpoint that this super-adapter can express (the reason is named).
        """
        load_adapter(self, Path(folder))

    @property
    def adapter_parameters(self) -> list[nn.Parameter]:
        """What training moves: every `lora_A` and `lora_B`, and the task's head where the family has one."""
        head = [p for module in self.head.values() for p in module.parameters()]
        return head + [
            p for linear in self.elastic_linears.values() for p in (linear.lora_A, linear.lora_B) if p is not None
        ]

    @property
    def trains(self) -> bool:
        """Whether the active sub-network has anything to train; one that leaves out every block has not."""
        return bool(self.head) or any(layer.trains for layer in self.layers)

    def activate(self, configuration: Configuration) -> None:
        """Make `configuration` the sub-network that the next forward pass runs.

        Raises:
            ConfigurationError: a gene is missing, unknown, or has a value that its choice does not offer.
        """
        self.activate_genome(self.space.genome(configuration))

    def activate_genome(self, genome: npt.ArrayLike) -> None:
        """As `activate`, for a genome.

        Raises:
            ConfigurationError: the genome does not belong to the space.
        """
        checked = self.space.checked(genome)
        wanted = tuple(checked.tolist())
        active = self._genome or (None,) * len(wanted)
        for gene, index, old in zip(self.space.genes, wanted, active, strict=True):
            if index != old:
                self._apply(gene, gene.values[index])
        self.levels.switch(self.elastic_linears)
        self._genome = wanted

    def subnetwork(self, configuration: Configuration) -> Subnetwork:
        """The sub-network of `configuration`, ready to be evaluated, extracted or saved.

        Raises:
            ConfigurationError: as `activate`.
        """
        self.space.genome(configuration)
        return Subnetwork(self, configuration)

    @property
    def largest(self) -> Subnetwork:
        """The sub-network with every gene at its largest value."""
        return self.subnetwork(self.space.configuration(self.space.largest))

    def active_parameters(self, adapters: bool = False) -> int:
        """Parameters of the active sub-network once extracted; with `adapters`, the active adapters' besides."""
        absent = [layer.module for layer in absent_layers(self.layers)]
        absent += [module for layer in self.layers for _, _, module in bypassed(layer)]
        without = {id(p) for module in absent for p in module.parameters()}
        linears = [linear for linear in self.elastic_linears.values() if id(linear.weight) not in without]
        elastic = {id(p) for linear in self.elastic_linears.values() for p in linear.parameters()}
        rest = sum(p.numel() for p in self.model.parameters() if id(p) not in without | elastic)
        extra = sum(linear.active_adapter_parameters for linear in linears if adapters or not linear.merges)
        return rest + sum(linear.active_parameters for linear in linears) + extra

    def linear(self, module: str) -> ElasticLinear:
        """The projection `module`, such as ``layers.3.up``; one that is not elastic is shown as if it were."""
        if module not in self.elastic_linears and module not in self._rigid_linears:
            base = self.model.get_submodule(self.family.path(module))
            grid = self.quantization.grids.get(module) if self.quantization else None
            self._rigid_linears[module] = ElasticLinear(base, 0, 0.0, grid=grid)  # type: ignore[arg-type]
        return self.elastic_linears.get(module) or self._rigid_linears[module]

    def restore_base(self) -> None:
        """Put the original weights back where a database has switched them; `activate` switches again."""
        if not self.levels:
            return
        self.levels.reset()
        self.levels.switch(self.elastic_linears)
        self._genome = None
        for choice in self.space.fixed:
            self._apply(choice, choice.values[0])

    def texts(self, examples: Sequence[TextPair], count: int = 128, max_tokens: int = 1024) -> list[Batch]:
        """The first `count` of `examples`, prompts and completions, as calibration texts.

        Args:
            examples: such as a task's training questions.
            count: how many to take at most.
            max_tokens: of one.

        Raises:
            CompressionError: there is none.
        """
        return list(calibration_batches(examples, self.tokenizer, count, self.model.device, max_tokens))

    @property
    def ordered(self) -> bool:
        """Whether prefixes of all heads and channels that are elastic are the important ones."""
        return all(of_layer.ordered for of_layer in self.units.values())

    @torch.no_grad()
    def order_by_importance(self, batches: Iterable[Batch], refit: bool = False) -> None:
        """Sort heads and channels wherever their number is elastic, the most important first.

        The largest sub-network computes the same as before. See `nas_engine.supernet.ordering`.

        Args:
            batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
            refit: let the heads or channels that a width keeps stand in for those that it leaves out: narrow
                sub-networks lose much less, for the memory of their weights. Those come first that the others replace
                worst. Give it several times as many tokens as a layer has channels. See `nas_engine.supernet.refit`.

        Raises:
            CompressionError: `refit` is set, and the base is sparse or quantized (see `can_refit`).
        """
        if refit:
            self.refit(batches, reorder=True)
            return
        self.activate_genome(self.space.largest)
        self.model.eval()
        sort_by_norms(self.model, self.units, batches)

    @torch.no_grad()
    def refit(self, batches: Iterable[Batch], reorder: bool = False) -> None:
        """Let kept heads and channels stand in for those left out as the network is now, adapters included.

        After training, narrow sub-networks follow what the largest has learned.

        Args:
            batches: as `order_by_importance` takes them, which says more.
            reorder: also sort heads and channels anew.

        Raises:
            CompressionError: the base is sparse or quantized (see `can_refit`).
        """
        self.require_refit()
        self.activate_genome(self.space.largest)
        self.model.eval()
        find_shares(self.model, self.units, batches, reorder)

    @property
    def can_refit(self) -> bool:
        """Whether weights may be fitted to narrower widths: a sparse or quantized base would not stay one."""
        plain = self.adapter.combination == "plain" and self.database is None
        readers = [of_layer.reader for of_layer in self.units.values()]
        return plain and all(reader.combination.merges(reader.sparsity, reader.grid) for reader in readers)

    def require_refit(self) -> None:
        """Check that `can_refit`.

        Raises:
            CompressionError: it cannot.
        """
        if not self.can_refit:
            raise CompressionError(
                "weights fitted to a width would fill the zeros of a sparse base or leave the grid of a quantized one; "
                "order with refit=False, or refit before the base is compressed."
            )

    def block_importance(self, batches: Sequence[Batch]) -> dict[str, float]:
        """How much the model's last hidden states change when a block is left out, by name: ``layers.3.attention``.

        The change is relative: the norm of the difference over the norm of the largest sub-network's. A search that
        skips blocks starts well from those of the lowest importance.

        Args:
            batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
        """
        return block_importance(self, batches)

    def sensitivity(self, batches: Iterable[Batch], progress: bool = True, method: Method = "gradients") -> Sensitivity:
        """How much each value of a gene changes what the network says, the other genes at their largest.

        A search that is given it (``search(..., sensitivity=...)``) needs fewer evaluations. Measure it where the
        search begins, after ordering or training; a few dozen texts are enough.

        Args:
            batches: as `order_by_importance` takes them.
            progress: show a bar.
            method: ``"gradients"``, one backward pass a text and all values at once (see
                `nas_engine.supernet.gradients`); or ``"divergence"``, a forward pass for each value of each gene.

        Returns:
            by gene, one number a value in their order: the mean Kullback-Leibler divergence of the next tokens' (or the
            classes') distribution from the largest sub-network's, in nats, to second order with gradients; 0 for the
            largest value.

        Raises:
            ValueError: there is no token in `batches`, or another method.
        """
        return sensitivity(self, batches, progress, method)

    def original_outputs(self, module: str) -> Tensor | slice:
        """Index that brings the output channels of `module`, such as ``layers.3.up``, back to the original order."""
        _, index, name = module.split(".")
        return self.layers[int(index)].original_outputs(name)

    def original_inputs(self, module: str) -> Tensor | slice:
        """Index that brings the input channels of `module` back to the original model's order."""
        _, index, name = module.split(".")
        return self.layers[int(index)].original_inputs(name)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the base weights, the adapters, their scale or the space."""
        return fingerprint(self)

    def state(self) -> dict[str, Tensor]:
        """Adapters and channel order by name: with the base and the space, the whole super-network."""
        return adapter_tensors(self)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. A base whose units are still in their original order is permuted first."""
        load_tensors(self, tensors)

    def _fix_orders(self) -> None:
        """Inputs of a quantized layer are in groups, versions on disk in an order: the base's units keep theirs."""
        for layer in self.layers:
            for unit, reader in READERS.items():
                linear = layer.linears.get(reader)
                if linear is not None and (linear.grid is not None or self.database is not None):
                    layer.orders[unit] = torch.arange(layer.full_kv_heads if unit == "heads" else layer.full_width)

    def _require_known(self, space: SearchSpace) -> None:
        layers = len(list(self.model.get_submodule(self.family.layers).children()))
        for choice in space.choices:
            names = BLOCKS if choice.dimension == SKIP else self.family.projections
            for module in choice.modules:
                _, index, name = module.split(".")
                if int(index) >= layers or name not in names:
                    raise SpaceError(
                        f"{choice.name} moves {module}, which this model does not have; it has {layers} layers with "
                        f"{', '.join(names)}."
                    )

    def _ranks(self) -> dict[str, int]:
        """The largest rank of every elastic module; 0 where its width alone is elastic."""
        ranks: dict[str, int] = {}
        for choice in self.space.choices:
            if choice.dimension != SKIP:
                for module in choice.modules:
                    ranks.setdefault(module, 0)
                    if choice.dimension == RANK:
                        ranks[module] = int(choice.values[-1])
        return ranks

    def _make_elastic(self) -> dict[str, ElasticLinear]:
        grids = self.quantization.grids if self.quantization else {}
        generator = torch.Generator().manual_seed(self.adapter.seed)
        for module, rank in self._ranks().items():
            alpha = self.adapter.alpha if self.adapter.alpha is not None else 2.0 * rank
            _, layer, name = module.split(".")
            self.layers[int(layer)].make_elastic(
                name, rank, alpha, self.adapter.dropout, generator, self.combination, grids.get(module)
            )
        return {
            f"layers.{i}.{name}": linear
            for i, layer in enumerate(self.layers)
            for name, linear in layer.linears.items()
        }

    def _apply(self, choice: Choice, value: Value) -> None:
        if choice.dimension in (BITS, DENSITY):
            self.levels.set(choice, value)
            return
        for resize in self._resizers[choice.name]:
            resize(int(value))
