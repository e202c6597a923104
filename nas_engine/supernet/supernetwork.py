"""A frozen Hugging Face decoder with elastic low-rank adapters: the network that all sub-networks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.classification.labelled import Learnable
from evaluators.documents import checked
from nas_engine.compression.checkpoint import load_base
from nas_engine.compression.database import LayerDatabase
from nas_engine.compression.quantization import Quantization
from nas_engine.errors import CheckpointError
from nas_engine.families.plain import require_plain
from nas_engine.models import moved
from nas_engine.supernet.block_importance import block_importance
from nas_engine.supernet.compressed_base import pack_weights, require_on_grids
from nas_engine.supernet.elastic_model import AdapterSettings, ElasticModel
from nas_engine.supernet.elastic_units import sort_by_norms
from nas_engine.supernet.narrowing import bound_for
from nas_engine.supernet.peft_import import load_adapter
from nas_engine.supernet.refit import find_shares
from nas_engine.supernet.saliency import sort_experts
from nas_engine.supernet.sensitivity import Sensitivity, SensitivityMethod, sensitivity
from nas_engine.supernet.state import adapter_tensors, load_tensors
from nas_engine.supernet.storage import fingerprint, read_supernetwork, save_base, save_supernetwork
from nas_engine.supernet.subnetwork import Subnetwork
from nas_engine.texts.batches import Batch
from nas_engine.texts.calibration import calibration_batches
from search_spaces import Configuration, SearchSpace, SpaceTemplate


class SuperNetwork(ElasticModel):
    """A model whose linear layers are elastic, with the space of its sub-networks.

    Made by `from_pretrained` or `load`. The given model is taken over: its layers become elastic in place.
    """

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
        adapter_mode: str = "plain",
        quantization: Quantization | None = None,
        database: LayerDatabase | None = None,
        device: str | torch.device | None = None,
        target: str | None = None,
        pack: bool = False,
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
            adapter_mode: how adapters act on a sparse or quantized base: ``"plain"``, beside it; ``"masked"``, on its
                nonzeros (SparsePEFT); ``"quantized"``, on its nonzeros and its grid (QA-SparsePEFT).
            quantization: what `nas_engine.compression.quantize_model` gave for `model`; a folder that
                `nas_engine.compression.save_quantized` wrote brings its own.
            database: what `nas_engine.build_database` made of `model`, for a space with
                `weight_bits` or `sparsity`, which needs ``adapter_mode="quantized"``.
            device: where it computes, such as ``cuda``; None leaves a model where it is, and a named one on the CPU.
            target: where sub-networks will run: one of `nas_engine.deploy.TARGETS`, such as ``"llama.cpp"``. A template
                is narrowed to what that can run, which is said; a space that is bound already is checked. None and
                ``"transformers"`` allow all.
            pack: hold a quantized base as integers; see `pack_base`.

        Raises:
            CompressionError: the model is quantized in another format, a width cuts a group of a grid, or as
                `pack_base`.
            FamilyError: the model's family is not supported (the message names those that are).
            ExportError: there is no such target, or it cannot run the model.
            SpaceError: the space does not fit the model, such as a width larger than a layer, or has a value that the
                target cannot run.
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
        bound = bound_for(space, shape, loaded, target)
        settings = AdapterSettings(alpha, dropout, seed, adapter_mode)
        if pack:
            require_on_grids(quantization, adapter_mode)
        supernet = cls(loaded, tokenizer, bound, settings, base, quantization, database, target)
        if pack:
            supernet.pack_base()
        return supernet.to(device)

    def pack_base(self) -> None:
        """Hold the frozen weights of a quantized base as the integers that they are: INT4 in an eighth of fp32's bytes.

        The weights are the same numbers, and adapters train beside them as before (as QLoRA does: Dettmers et al.,
        2023, arXiv 2305.14314, on other grids): a projection's weight is made for its product, and again for the
        gradient. It is saved and loaded as any other; `load` takes ``pack=True``. Projections that the space does not
        move stay in floating point.

        Raises:
            CompressionError: the base is not quantized, or adapters act on the weights (``adapter_mode``).
        """
        self.quantization = pack_weights(self.elastic_linears, require_on_grids(self.quantization, self.adapter.mode))

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
            CompressionError: its weights are off their grids, because ``adapter_mode="quantized"`` trains on them.
        """
        return save_base(self, Path(folder))

    @classmethod
    def load(
        cls,
        folder: str | Path,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device | None = None,
        pack: bool = False,
    ) -> SuperNetwork:
        """The super-network that `save` wrote, on `device` or else the CPU; with `pack`, see `pack_base`.

        Raises:
            CheckpointError: a file is missing, or the base model is no longer the one that it was saved with.
        """
        saved, state = read_supernetwork(Path(folder), dtype)
        adapter = checked(saved.adapter, AdapterSettings, CheckpointError, f"{folder} has other settings of adapters")
        base = saved.base or str(Path(folder) / "base")
        database = None if saved.database is None else LayerDatabase(saved.database)
        quantization, target = saved.quantization, saved.target
        supernet = cls(saved.model, saved.tokenizer, saved.space, adapter, base, quantization, database, target)
        try:
            supernet.load_state(state)
        except CheckpointError as error:
            raise CheckpointError(f"{folder} holds no saved super-network: {error}") from error
        if pack:
            supernet.pack_base()
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

    def texts(self, examples: Sequence[Learnable], count: int = 128, max_tokens: int = 1024) -> list[Batch]:
        """The first `count` of `examples`, with completions or labels, as calibration texts.

        Args:
            examples: such as a task's training questions.
            count: how many to take at most.
            max_tokens: of one.

        Raises:
            CompressionError: there is none.
        """
        return list(calibration_batches(examples, self.tokenizer, count, self.model.device, max_tokens))

    @torch.no_grad()
    def order_by_importance(self, batches: Iterable[Batch], refit: bool = False) -> None:
        """Sort heads, channels and experts wherever their number is elastic, the most important first.

        The largest sub-network computes the same as before. See `nas_engine.supernet.ordering`, and for experts, which
        are never refitted, `nas_engine.supernet.saliency`.

        Args:
            batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
            refit: let the heads or channels that a width keeps stand in for those that it leaves out: narrow
                sub-networks lose much less, for the memory of their weights. Those come first that the others replace
                worst. Give it several times as many tokens as a layer has channels. See `nas_engine.supernet.refit`.

        Raises:
            CompressionError: `refit` is set, and the base is sparse or quantized (see `can_refit`).
        """
        if refit:
            self.require_refit()
        self.activate_genome(self.space.largest)
        self.model.eval()
        given = list(batches)
        sort_experts(self.model, self.mixtures, given)
        if refit:
            find_shares(self.model, self.units, given, reorder=True)
        else:
            sort_by_norms(self.model, self.units, given)

    @torch.no_grad()
    def refit(self, batches: Iterable[Batch]) -> None:
        """Let kept heads and channels stand in for those left out as the network is now, adapters included.

        After training, narrow sub-networks follow what the largest has learned.

        Args:
            batches: as `order_by_importance` takes them, which says more.

        Raises:
            CompressionError: the base is sparse or quantized (see `can_refit`).
        """
        self.require_refit()
        self.activate_genome(self.space.largest)
        self.model.eval()
        find_shares(self.model, self.units, batches, reorder=False)

    def block_importance(self, batches: Sequence[Batch]) -> dict[str, float]:
        """How much the model's last hidden states change when a block is left out, by name: ``layers.3.attention``.

        The change is relative: the norm of the difference over the norm of the largest sub-network's. A search that
        skips blocks starts well from those of the lowest importance.

        Args:
            batches: calibration texts as `input_ids` and `attention_mask` of shape (rows, tokens).
        """
        return block_importance(self, batches)

    def sensitivity(
        self, batches: Iterable[Batch], progress: bool = True, method: SensitivityMethod = "gradients"
    ) -> Sensitivity:
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

    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with the base weights, the adapters, their scale or the space."""
        return fingerprint(self)

    def state(self) -> dict[str, Tensor]:
        """Adapters and channel order by name: with the base and the space, the whole super-network."""
        return adapter_tensors(self)

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave. A base whose units are still in their original order is permuted first."""
        load_tensors(self, tensors)
