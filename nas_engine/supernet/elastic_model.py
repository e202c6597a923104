"""A model whose linear layers are elastic: what is active of it, and what its genes are given to.

Whatever else reads or changes a super-network, its storage, PEFT, sensitivity, fits, is functions of this in files of
their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.quantization import Quantization
from nas_engine.errors import CompressionError
from nas_engine.families.family import Family
from nas_engine.families.fingerprint import base_fingerprint
from nas_engine.families.plain import require_plain
from nas_engine.supernet.adapter_mode import ADAPTER_MODES
from nas_engine.supernet.compressed_base import prepare_base
from nas_engine.supernet.compression_state import CompressionState
from nas_engine.supernet.dimensions import BITS, DENSITY, EXPERTS, RANK, SKIP, WIDTH
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.elastic_units import elastic_units
from nas_engine.supernet.extraction import absent_layers, bypassed
from nas_engine.supernet.layer import READERS, ElasticLayer
from nas_engine.supernet.mixture import Mixture
from nas_engine.supernet.resizing import resizers_of
from search_spaces import Choice, Configuration, ModuleName, SearchSpace, SpaceError, Value


@dataclass(frozen=True)
class AdapterSettings:
    """How adapters start and scale.

    Args:
        alpha: LoRA's alpha; None takes twice each adapter's largest rank. The scale is alpha / r_max at every rank.
        dropout: probability on the adapter's input, in training.
        seed: of the initial `lora_A`.
        mode: how they act on the frozen weights: ``plain``, ``masked`` (SparsePEFT) or ``quantized``
            (QA-SparsePEFT); see `nas_engine.supernet.adapter_mode`.

    Raises:
        ValueError: another adapter mode, or dropout with one that acts on the weights.
    """

    alpha: float | None = None
    dropout: float = 0.0
    seed: int = 0
    mode: str = "plain"

    def __post_init__(self) -> None:
        if self.mode not in ADAPTER_MODES:
            raise ValueError(f"adapter_mode is {self.mode!r}; choose one of {', '.join(ADAPTER_MODES)}.")


class ElasticModel:
    """A model whose layers are made elastic in place, with the space of its sub-networks.

    Attributes:
        model: the Hugging Face model, base weights frozen, running the configuration that is active.
        tokenizer: its tokenizer.
        space: the genes, their names and values.
        family: where the model keeps its projections.
        layers: the layers, each with its projections and active sizes.
        head: modules that are new for the task and train whole, such as BERT's classifier, by path.
        elastic_linears: every elastic projection by the space's name, such as ``layers.3.up``.
        units: heads and channels whose number is elastic, by the projection that reads them.
        mixtures: the experts whose number or width is elastic.
        base_fingerprint: 16 hexadecimal digits of the original model's weights.
        quantization: the grids that the original model's weights lie on; None where they are in floating point.
        database: the versions of each projection that its bits and density choose from; None where they do not vary.
        compression_state: the bits and density of each projection that are active.
        base: name or folder of the original model; None where it was given as an object.
        target: where its sub-networks will run; None for anywhere.
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
        target: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.space, self.base, self.target = model, tokenizer, space, base, target
        self.adapter = adapter or AdapterSettings()
        self.family: Family = require_plain(model)
        self._require_known(space)
        self.quantization = quantization
        self.database = database
        self.adapter_mode = ADAPTER_MODES[self.adapter.mode]
        prepare_base(model, space, self._ranks(), self.adapter.mode, quantization, database)
        self.base_fingerprint = self._fingerprint_of_base()
        model.requires_grad_(False)
        self.head = {path: model.get_submodule(path).requires_grad_(True) for path in self.family.head}
        modules = model.get_submodule(self.family.layers).children()
        self.layers = [ElasticLayer(self.family, i, module, model.config) for i, module in enumerate(modules)]
        self.elastic_linears = self._make_elastic()
        self.units = elastic_units(self.layers, space)
        for of_layer in self.units.values():
            if of_layer.unit == "heads":
                of_layer.layer.watch_head_bias()
        self.compression_state = CompressionState(space, database, self.base_fingerprint, self.adapter.mode)
        self.mixtures = self._elastic_mixtures()
        self._fix_orders()
        self._rigid_linears: dict[str, ElasticLinear] = {}  # views of the others, to be asked what they hold
        self._resizers = {c.name: resizers_of(c, self.layers, self.elastic_linears) for c in space.choices}
        self._genome: tuple[int, ...] | None = None  # what is active; only changed genes are applied
        for choice in space.fixed:
            self._apply(choice, choice.values[0])
        self.activate(space.configuration(space.largest))

    @property
    def device(self) -> str:
        """Where it computes, such as ``cuda:0``."""
        return str(self.model.device)

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
        self.compression_state.switch(self.elastic_linears)
        self._genome = wanted

    @property
    def active_genome(self) -> tuple[int, ...] | None:
        """The genome of what is active; None where no sub-network of the space is, as after `restore_base`."""
        return self._genome

    def active_parameters(self, adapters: bool = False) -> int:
        """Parameters of the active sub-network once extracted; with `adapters`, the active adapters' besides."""
        absent = [layer.module for layer in absent_layers(self.layers)]
        absent += [module for layer in self.layers for _, _, module in bypassed(layer)]
        without = {id(p) for module in absent for p in module.parameters()}
        linears = [linear for linear in self.elastic_linears.values() if id(linear.weight) not in without]
        elastic = {id(p) for linear in self.elastic_linears.values() for p in linear.parameters()}
        absent_experts = sum(
            layer.mixture.inactive_parameters
            for layer in self.layers
            if layer.mixture is not None and id(layer.mixture.down) not in without
        )
        rest = sum(p.numel() for p in self.model.parameters() if id(p) not in without | elastic) - absent_experts
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
        if not self.compression_state:
            return
        self.compression_state.reset()
        self.compression_state.switch(self.elastic_linears)
        self._genome = None
        for choice in self.space.fixed:
            self._apply(choice, choice.values[0])

    @property
    def ordered(self) -> bool:
        """Whether prefixes of all heads and channels that are elastic are the important ones."""
        mixtures = all(mixture.order is not None for mixture in self.mixtures)
        return mixtures and all(of_layer.ordered for of_layer in self.units.values())

    @property
    def can_refit(self) -> bool:
        """Whether weights may be fitted to narrower widths: a sparse or quantized base would not stay one."""
        plain = self.adapter.mode == "plain" and self.database is None
        readers = [of_layer.reader for of_layer in self.units.values()]
        return plain and all(reader.adapter_mode.merges(reader.sparsity, reader.grid) for reader in readers)

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

    def original_outputs(self, module: str) -> Tensor | slice:
        """Index that brings the output channels of `module`, such as ``layers.3.up``, back to the original order."""
        index, name = ModuleName.parse(module)
        return self.layers[index].original_outputs(name)

    def original_inputs(self, module: str) -> Tensor | slice:
        """Index that brings the input channels of `module` back to the original model's order."""
        index, name = ModuleName.parse(module)
        return self.layers[index].original_inputs(name)

    def _fingerprint_of_base(self) -> str:
        return base_fingerprint(self.model, self.family.head)

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
            mixture = self.family.experts is not None and choice.dimension in (EXPERTS, WIDTH)
            names = (
                self.family.blocks if choice.dimension == SKIP else (EXPERTS,) if mixture else self.family.projections
            )
            for module in choice.modules:
                index, name = ModuleName.parse(module)
                if index >= layers or name not in names:
                    raise SpaceError(
                        f"{choice.name} moves {module}, which this model does not have; it has {layers} layers with "
                        f"{', '.join(names)}."
                    )

    def _ranks(self) -> dict[str, int]:
        """The largest rank of every elastic module; 0 where its width alone is elastic."""
        ranks: dict[str, int] = {}
        for choice in self.space.choices:
            if choice.dimension != SKIP and not choice.modules[0].endswith(f".{EXPERTS}"):
                for module in choice.modules:
                    ranks.setdefault(module, 0)
                    if choice.dimension == RANK:
                        ranks[module] = int(choice.values[-1])
        return ranks

    def _elastic_mixtures(self) -> list[Mixture]:
        modules = {m for c in self.space.choices if c.dimension in (EXPERTS, WIDTH) for m in c.modules}
        return [
            layer.mixture
            for layer in self.layers
            if layer.mixture is not None and str(ModuleName(layer.index, EXPERTS)) in modules
        ]

    def _make_elastic(self) -> dict[str, ElasticLinear]:
        grids = self.quantization.grids if self.quantization else {}
        generator = torch.Generator().manual_seed(self.adapter.seed)
        for module, rank in self._ranks().items():
            alpha = self.adapter.alpha if self.adapter.alpha is not None else 2.0 * rank
            layer, name = ModuleName.parse(module)
            self.layers[layer].make_elastic(
                name, rank, alpha, self.adapter.dropout, generator, self.adapter_mode, grids.get(module)
            )
        return {
            str(ModuleName(i, name)): linear
            for i, layer in enumerate(self.layers)
            for name, linear in layer.linears.items()
        }

    def _apply(self, choice: Choice, value: Value) -> None:
        if choice.dimension in (BITS, DENSITY):
            self.compression_state.set(choice, value)
            return
        for resize in self._resizers[choice.name]:
            resize(int(value))
