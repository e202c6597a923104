"""A frozen Hugging Face decoder with elastic low-rank adapters: the network that all sub-networks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy.typing as npt
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nas_engine.models import load_model
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.families import Family, family_of
from nas_engine.supernet.ordering import Batch, channel_importance, input_norms
from nas_engine.supernet.storage import (
    adapter_tensors,
    base_fingerprint,
    fingerprint,
    read_supernetwork,
    save_supernetwork,
)
from nas_engine.supernet.subnetwork import Subnetwork
from search_spaces import Choice, Configuration, SearchSpace, SpaceTemplate, Value

RANK, WIDTH = "lora_rank", "mlp_width"


@dataclass(frozen=True)
class AdapterSettings:
    """How adapters start and scale.

    Args:
        alpha: LoRA's alpha; None takes twice each adapter's largest rank. The scale is alpha / r_max at every rank.
        dropout: probability on the adapter's input, in training.
        seed: of the initial `lora_A`.
    """

    alpha: float | None = None
    dropout: float = 0.0
    seed: int = 0


class SuperNetwork:
    """A model whose linear layers are elastic, with the space of its sub-networks.

    Made by `from_pretrained` or `load`. The given model is taken over: its layers become elastic in place.

    Attributes:
        model: the Hugging Face model, base weights frozen, running the configuration that is active.
        tokenizer: its tokenizer.
        space: the genes, their names and values.
        family: where the model keeps its projections.
        elastic_layers: by the space's module name, such as ``layers.3.up``.
        base_fingerprint: 16 hexadecimal digits of the original model's weights.
        base: name or folder of the original model; None where it was given as an object.
        channel_order: for each layer whose channels were ordered, the original index of each, shape (channels,).
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        space: SearchSpace,
        adapter: AdapterSettings | None = None,
        base: str | None = None,
    ) -> None:
        self.model, self.tokenizer, self.space, self.base = model, tokenizer, space, base
        self.adapter = adapter or AdapterSettings()
        self.family: Family = family_of(model)
        self.channel_order: dict[str, Tensor] = {}
        self.base_fingerprint = base_fingerprint(model)
        model.requires_grad_(False)
        self.elastic_layers = self._make_elastic()
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

        Raises:
            FamilyError: the model's family is not supported (the message names those that are).
            SpaceError: the space does not fit the model, such as a width larger than a layer.
            ValueError: a model object without a tokenizer.
        """
        base = None
        if isinstance(model, str | Path):
            base = str(model)
            loaded, own_tokenizer = load_model(base, dtype=dtype)
            tokenizer = tokenizer or own_tokenizer
        elif tokenizer is None:
            raise ValueError("a model given as an object needs its tokenizer: pass tokenizer=...")
        else:
            loaded = model
        shape = family_of(loaded).shape(loaded)
        bound = space.bind(shape) if isinstance(space, SpaceTemplate) else space
        return cls(loaded, tokenizer, bound, AdapterSettings(alpha, dropout, seed), base)

    def save(self, folder: str | Path, include_base: bool | None = None) -> Path:
        """Save adapters, channel order and space; the base model's weights only where needed.

        Args:
            folder: is made; gets `supernet.json`, `adapter.safetensors` and, with the base, `base/`.
            include_base: also write the base model; None does where it was given as an object and could not be
                found again by name.
        """
        return save_supernetwork(self, Path(folder), self.base is None if include_base is None else include_base)

    @classmethod
    def load(cls, folder: str | Path, dtype: torch.dtype = torch.float32) -> SuperNetwork:
        """The super-network that `save` wrote.

        Raises:
            CheckpointError: a file is missing, or the base model is no longer the one that it was saved with.
        """
        saved, state = read_supernetwork(Path(folder), dtype)
        adapter = AdapterSettings(**saved.adapter)
        supernet = cls(saved.model, saved.tokenizer, saved.space, adapter, saved.base or str(Path(folder) / "base"))
        supernet.load_state(state)
        return supernet

    @property
    def adapter_parameters(self) -> list[nn.Parameter]:
        """What training moves: every `lora_A` and `lora_B`."""
        return [p for layer in self.elastic_layers.values() for p in (layer.lora_A, layer.lora_B) if p is not None]

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
        elastic = {id(p) for layer in self.elastic_layers.values() for p in layer.parameters()}
        rest = sum(p.numel() for p in self.model.parameters() if id(p) not in elastic)
        layers = self.elastic_layers.values()
        extra = sum(layer.active_adapter_parameters for layer in layers) if adapters else 0
        return rest + sum(layer.active_parameters for layer in layers) + extra

    @property
    def ordered(self) -> bool:
        """Whether prefixes of the MLP channels are the important ones, or no width is elastic."""
        return bool(self.channel_order) or not self._width_layers()

    @torch.no_grad()
    def order_channels(self, batches: Iterable[Batch]) -> None:
        """Sort the MLP channels of every layer with an elastic width by importance, the most important first.

        The largest sub-network computes the same as before. See `nas_engine.supernet.ordering`.

        Args:
            batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
        """
        layers = self._width_layers()
        self.activate_genome(self.space.largest)
        self.model.eval()
        listened = {f"{n}.{p}": self.elastic_layers[f"{n}.{p}"] for n in layers for p in ("up", "down")}
        norms = input_norms(self.model, listened, batches)
        for name in layers:
            gate, up, down = (self.elastic_layers[f"{name}.{p}"].weight for p in ("gate", "up", "down"))
            importance = channel_importance(gate, up, down, norms[f"{name}.up"], norms[f"{name}.down"])
            self.permute_channels(name, importance.argsort(descending=True, stable=True))

    def permute_channels(self, layer: str, order: Tensor) -> None:
        """Reorder the MLP channels of `layer`, such as ``layers.3``, consistently in gate, up and down."""
        self.elastic_layers[f"{layer}.gate"].permute_outputs(order)
        self.elastic_layers[f"{layer}.up"].permute_outputs(order)
        self.elastic_layers[f"{layer}.down"].permute_inputs(order)
        before = self.channel_order.get(layer, torch.arange(len(order), device=order.device))
        self.channel_order[layer] = before[order]

    def original_outputs(self, module: str) -> Tensor | slice:
        """Index that brings the output channels of `module` back to the original model's order."""
        layer, _, projection = module.rpartition(".")
        moved = projection in ("gate", "up") and layer in self.channel_order
        return self.channel_order[layer].argsort() if moved else slice(None)

    def original_inputs(self, module: str) -> Tensor | slice:
        """Index that brings the input channels of `module` back to the original model's order."""
        layer, _, projection = module.rpartition(".")
        return (
            self.channel_order[layer].argsort() if projection == "down" and layer in self.channel_order else slice(None)
        )

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the base weights, the adapters, their scale or the space."""
        return fingerprint(self)

    def state(self) -> dict[str, Tensor]:
        """Adapters and channel order by name: with the base and the space, the whole super-network."""
        return adapter_tensors(self)

    @torch.no_grad()
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. A base whose channels are still in their original order is permuted first."""
        for key, tensor in tensors.items():
            if key.endswith(".channel_order"):
                layer = key.removesuffix(".channel_order")
                current = self.channel_order.get(layer, torch.arange(len(tensor)))
                # `current` and `tensor` both hold original indices; compose the way back with the way there.
                self.permute_channels(layer, current.argsort()[tensor])
        for name, layer_ in self.elastic_layers.items():
            if layer_.lora_A is not None and layer_.lora_B is not None:
                layer_.lora_A.copy_(tensors[f"{name}.lora_A"])
                layer_.lora_B.copy_(tensors[f"{name}.lora_B"])

    def _width_layers(self) -> list[str]:
        choices = (choice for choice in self.space.choices if choice.dimension == WIDTH)
        return sorted({m.rpartition(".")[0] for c in choices for m in c.modules}, key=lambda n: int(n.split(".")[1]))

    def _make_elastic(self) -> dict[str, ElasticLinear]:
        ranks: dict[str, int] = {}
        for choice in self.space.choices:
            for module in choice.modules:
                ranks.setdefault(module, 0)
                if choice.dimension == RANK:
                    ranks[module] = int(choice.values[-1])
        generator = torch.Generator().manual_seed(self.adapter.seed)
        return {module: self._replace(module, rank, generator) for module, rank in ranks.items()}

    def _replace(self, module: str, rank: int, generator: torch.Generator) -> ElasticLinear:
        parent, _, name = self.family.path(module).rpartition(".")
        owner = self.model.get_submodule(parent)
        base = owner.get_submodule(name)
        assert isinstance(base, nn.Linear), f"{module} is a {type(base).__name__}, not a linear layer"
        alpha = self.adapter.alpha if self.adapter.alpha is not None else 2.0 * rank
        layer = ElasticLinear(base, rank, alpha, self.adapter.dropout, generator)
        setattr(owner, name, layer)
        return layer

    def _apply(self, choice: Choice, value: Value) -> None:
        size = int(value)
        for module in choice.modules:
            layer = self.elastic_layers[module]
            if choice.dimension == RANK:
                layer.active_rank = size
            elif module.endswith(".down"):
                layer.active_in = size
            else:
                layer.active_out = size
