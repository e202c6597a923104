"""One sub-network of a super-network: what evaluators see, and what the user saves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import LayerSizes, Operator, decoder_operators
from evaluators.whole_file import replacing
from nas_engine.compression.checkpoint import save_on_grids
from nas_engine.errors import FamilyError
from nas_engine.families.family import Family
from nas_engine.progress import without_bars
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.elastic_model import ElasticModel
from nas_engine.supernet.extraction import absent_layers, extract
from nas_engine.supernet.peft_export import save_adapter
from nas_engine.supernet.saving import Outlines
from nas_engine.supernet.storage import fingerprint
from nas_engine.supernet.stored_form import active_grids, as_stored
from search_spaces import Value

if TYPE_CHECKING:
    from nas_engine.deploy import Export


class Subnetwork:
    """A view of a super-network under one configuration; made by `SuperNetwork.subnetwork`.

    Every property and method activates the configuration first, so views may be used in any order, from one thread.
    """

    def __init__(self, supernet: ElasticModel, configuration: Mapping[str, Value]) -> None:
        self._supernet = supernet
        self._configuration = dict(configuration)

    def __repr__(self) -> str:
        return f"Subnetwork({self._configuration})"

    @property
    def configuration(self) -> Mapping[str, Value]:
        """The value of every gene, by name."""
        return self._configuration

    @property
    def model(self) -> PreTrainedModel:
        """The super-network's model with this sub-network active, in evaluation mode."""
        self._supernet.activate(self._configuration)
        self._supernet.model.eval()
        return self._supernet.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The super-network's tokenizer."""
        return self._supernet.tokenizer

    @property
    def layers(self) -> tuple[nn.Module, ...]:
        """The layers of `model`, the same modules for all sub-networks of a super-network."""
        return tuple(layer.module for layer in self._supernet.layers)

    @property
    def layer_signatures(self) -> tuple[tuple[Value, ...], ...]:
        """The value of every gene that moves a layer, by layer."""
        return tuple(
            tuple(self._configuration[name] for name in names)
            for names in self._supernet.space.genes_by_layer(len(self._supernet.layers))
        )

    @property
    def layer_sizes(self) -> tuple[LayerSizes, ...]:
        """The active sizes of each layer.

        Raises:
            FamilyError: attention is not the same in all layers.
        """
        if self.family.hybrid:
            raise FamilyError(
                f"models of type {self._supernet.model.config.model_type!r} have several kinds of attention, of "
                "which cost models know nothing yet; take parameters and measured latency as objectives."
            )
        self._supernet.activate(self._configuration)
        return tuple(layer.sizes for layer in self._supernet.layers)

    def extract(self, share_embeddings: bool = False, merge: bool | None = None) -> PreTrainedModel:
        """A physically smaller Hugging Face model of its own, adapters merged where they merge without loss.

        Args:
            share_embeddings: keep the super-network's embedding tensors instead of a copy; cheaper, for measurements
                that do not change the model.
            merge: True insists on merging every adapter; None leaves a plain adapter beside a sparse or quantized
                weight, as it would be deployed.

        Raises:
            ExportError: `merge` is True, and merging would fill zeros or leave a grid.
        """
        return extract(self.model, self._supernet.family, self._supernet.layers, share_embeddings, merge)

    def extract_with(self, stand_in: Callable[[ElasticLinear], nn.Module]) -> PreTrainedModel:
        """As `extract`, embeddings shared, with what `stand_in` gives in place of each elastic layer."""
        return extract(self.model, self._supernet.family, self._supernet.layers, True, None, stand_in)

    @property
    def merges(self) -> bool:
        """Whether every adapter becomes part of its weight without loss."""
        self._supernet.activate(self._configuration)
        return all(linear.merges for linear in self._supernet.elastic_linears.values())

    @property
    def trains(self) -> bool:
        """Whether it has anything to train; one that leaves out every block has not."""
        self._supernet.activate(self._configuration)
        return self._supernet.trains

    @property
    def plain(self) -> bool:
        """Whether weights may become any others: in floating point, without zeros to keep, adapters merged."""
        supernet = self._supernet
        return supernet.adapter.mode == "plain" and supernet.database is None and self.merges

    @property
    def family(self) -> Family:
        """Where the model keeps its projections."""
        return self._supernet.family

    @property
    def layers_left(self) -> tuple[int, ...]:
        """The numbers of the layers that the extracted model has."""
        self._supernet.activate(self._configuration)
        absent = {layer.index for layer in absent_layers(self._supernet.layers)}
        return tuple(layer.index for layer in self._supernet.layers if layer.index not in absent)

    @property
    def supernetwork_fingerprint(self) -> str:
        """The fingerprint of the super-network that it belongs to."""
        return fingerprint(self._supernet)

    def operators(self, batch: int, tokens: int, past: int = 0) -> list[Operator]:
        """Every matrix product of one forward pass over `tokens` new tokens after `past` cached ones, logits for the
        last position only, as generation computes them.

        Projections carry the bits that they are stored in and the fraction of zeros of the frozen weight, which merging
        keeps; an adapter that does not merge has products of its own.

        Raises:
            ValueError: `batch` or `tokens` below 1, or `past` below 0.
            FamilyError: as `layer_sizes`.
        """
        sizes = self.layer_sizes
        config = self.model.config
        head = self._supernet.model.get_output_embeddings()
        bits = self._supernet.model.dtype.itemsize * 8
        operators = decoder_operators(
            sizes,
            hidden_size=config.hidden_size,
            # An encoder ends in a classifier instead of a vocabulary.
            vocabulary=int(config.vocab_size) if head is not None else len(config.id2label or ()),
            batch=batch,
            tokens=tokens,
            past=past,
            weight_bits=bits,
            activation_bits=bits,
        )
        return as_stored(self._supernet, operators)

    def parameter_count(self, merged: bool = True) -> int:
        """Parameters of the extracted model, tied ones once; with ``merged=False``, the active adapters' besides.

        Adapters that do not merge without loss count in either case.
        """
        self._supernet.activate(self._configuration)
        return self._supernet.active_parameters(adapters=not merged)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Extract and save as a Hugging Face folder with its tokenizer, and `subnetwork.json` beside them.

        Load it with ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)``; where all layers have
        equal widths, without `trust_remote_code`. Quantized weights are stored as integers, in compressed-tensors'
        pack-quantized format, which transformers loads where that package is installed.

        Raises:
            ExportError: an adapter does not merge without loss; `save_adapter` saves it beside its base.
        """
        self._supernet.activate(self._configuration)
        if active_grids(self._supernet):
            return self.save_model(self.extract(share_embeddings=True, merge=True), Path(folder), {})
        outlines = Outlines()
        return self.save_model(self.extract_with(outlines), Path(folder), {}, outlines)

    def save_model(
        self, extracted: PreTrainedModel, folder: Path, about: Mapping[str, Any], outlines: Outlines | None = None
    ) -> Path:
        """Write a model of this sub-network's shape, grids and zeros, and what `subnetwork.json` says about it.

        Args:
            extracted: the model.
            folder: is made.
            about: what is said besides.
            outlines: stand in `extracted` for what is merged while it is written.
        """
        self._supernet.activate(self._configuration)
        grids = active_grids(self._supernet)
        description = {
            "configuration": self._configuration,
            "parameters": self.parameter_count(),
            "supernetwork": fingerprint(self._supernet),
            **about,
        }
        with replacing(folder) as unfinished:
            if grids:
                save_on_grids(extracted, grids, unfinished)
            elif outlines is not None:
                outlines.save(extracted, unfinished)
            else:
                with without_bars():
                    extracted.save_pretrained(unfinished)
            self.tokenizer.save_pretrained(unfinished)
            (unfinished / "subnetwork.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        return folder

    def export(self, format: str, file: str | Path, **settings: Any) -> Export:
        """Extract, merge and write for a runtime, checked in it; see `nas_engine.export` for formats and settings.

        Raises:
            ExportError: an adapter does not merge without loss, or the runtime cannot express the sub-network.
        """
        return self.export_model(self.extract(share_embeddings=True, merge=True), format, file, **settings)

    def export_model(self, extracted: PreTrainedModel, format: str, file: str | Path, **settings: Any) -> Export:
        """Write a model of this sub-network's shape and grids for a runtime."""
        from nas_engine.deploy import export  # it knows extracted models, and so stands above

        self._supernet.activate(self._configuration)
        grids = active_grids(self._supernet)
        return export(extracted, self.tokenizer, file, format=format, grids=grids, **settings)

    def save_adapter(self, folder: str | Path) -> Path:
        """Save the active adapter in PEFT's format, for `PeftModel.from_pretrained` on the original model.

        Raises:
            ExportError: an MLP is narrower than the original's, which an adapter cannot express, or no adapter.
        """
        self._supernet.activate(self._configuration)
        return save_adapter(self._supernet, Path(folder))
