"""Shears and SQFT from a model to a compressed one in one call: compress, train, choose a sub-adapter, save.

The base is made sparse, quantized for SQFT, and carries an elastic adapter. Sub-adapters that cost no search stand
beside searched ones in one table, compared on validation questions alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Evaluator
from nas_engine.compression.quantization import Quantization, quantize_model, require_unquantized
from nas_engine.compression.sparsification import sparsify, sparsity_report
from nas_engine.errors import CompressionError
from nas_engine.jobs.preparations import require_driver
from nas_engine.jobs.recipe import Recipe, ShearsRecipe, SqftRecipe
from nas_engine.jobs.sub_adapters import SearchPlan, compare_sub_adapters
from nas_engine.keywords import merged, takes
from nas_engine.models import load_model, moved
from nas_engine.progress import say
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.supernet.extraction import extract
from nas_engine.texts.batches import Batch
from nas_engine.texts.calibration import calibration_batches
from nas_engine.texts.examples import TextPair
from nas_engine.training import Healed, TrainingReport, heal, train
from nas_engine.training.settings import HealingSettings
from search_spaces import SpaceTemplate, attention_heads, mlp_width, shears_space, sqft_space

__all__ = [
    "CompressedModel",
    "SearchPlan",
    "compare_sub_adapters",
    "ordered",
    "shears",
    "sqft",
]

_ADAPTER_MODES: Mapping[str, str] = {"sqft": "plain", "sparsepeft": "masked", "qa-sparsepeft": "quantized"}


@dataclass(frozen=True)
class CompressedModel:
    """What a recipe made.

    Args:
        supernet: the trained super-network on the compressed base.
        candidates: one row a sub-adapter, the best first: `sub_adapter` (how it was found), the evaluator's column and
            its `_stderr`, `adapter_parameters` and `configuration`; with a confirmation also `confirmed` and
            `confirmed_stderr`, missing for all but the finalists.
        chosen: the best one.
        training: what training did.
        healed: the chosen one, healed; None where it was not.
    """

    supernet: SuperNetwork
    candidates: pd.DataFrame
    chosen: Subnetwork
    training: TrainingReport
    healed: Healed | None = None

    @property
    def sparsity(self) -> pd.DataFrame:
        """Zeros of each projection of the base; see `nas_engine.compression.sparsity_report`."""
        return sparsity_report(self.supernet.model)

    @property
    def merges(self) -> bool:
        """Whether the adapter becomes part of the weights, without loss."""
        return all(linear.merges for linear in self.supernet.elastic_linears.values())

    def save(self, folder: str | Path) -> Path:
        """Write the merged model to `folder`; or, where it does not merge, the base to ``base/`` and a PEFT adapter to
        ``adapter/`` below it.
        """
        folder = Path(folder)
        if self.merges:
            return (self.healed or self.chosen).save_pretrained(folder)
        self.supernet.save_base(folder / "base")
        self.chosen.save_adapter(folder / "adapter")
        return folder


@takes(ShearsRecipe)
def shears(
    model: str | Path | PreTrainedModel,
    train_set: Sequence[TextPair],
    validation: Evaluator,
    recipe: ShearsRecipe | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    **fields: Any,
) -> CompressedModel:
    """Shears (arXiv 2404.10934): Wanda's zeros, an elastic adapter on the frozen sparse base, a sub-adapter.

    Args:
        model: a Hugging Face id or folder, ``"smollm2"``, or a model, which is changed in place.
        train_set: prompts with completions, which the adapter learns; the first of them show Wanda what each layer
            reads.
        validation: what compares sub-adapters, such as ``MultipleChoiceAccuracy(questions)``.
        recipe: how; or its fields by name, ``shears(…, sparsity=0.5)``.
        tokenizer: needed where `model` is an object.
        device: where all is computed, such as ``cuda``; None leaves a model where it is, and a named one on the CPU.
        folder: for what an interrupted run goes on from.
        progress: show bars.

    Raises:
        CompressionError: the model is quantized already, the training set is empty, or the pattern fits no layer.
        ValueError: the confirmation is no score like the validation's, or this machine has no such device.
    """
    recipe = merged(ShearsRecipe, recipe, fields)
    recipe.searching.require_score_of(validation)
    _require_merging(recipe.healing, recipe.merge or not recipe.sparsity)
    base, tokenizer, _ = _sparse(recipe, model, tokenizer, train_set, device, progress)
    adapter_mode = "masked" if recipe.merge else "plain"
    supernet = SuperNetwork.from_pretrained(
        base, recipe.space or shears_space(), tokenizer, seed=recipe.seed, adapter_mode=adapter_mode
    )
    return _trained(supernet, train_set, validation, recipe, folder, progress)


@takes(SqftRecipe)
def sqft(
    model: str | Path | PreTrainedModel,
    train_set: Sequence[TextPair],
    validation: Evaluator,
    recipe: SqftRecipe | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | None = None,
    folder: str | Path | None = None,
    progress: bool = True,
    **fields: Any,
) -> CompressedModel:
    """SQFT (arXiv 2410.03750): Wanda's zeros, GPTQ's integers, an elastic adapter, a sub-adapter.

    Args:
        recipe: how; or its fields by name, ``sqft(…, bits=8)``. All else is as `shears` takes it.

    Raises:
        CompressionError: an unknown adapter, a model that is quantized already, a group size that does not divide, an
            empty training set, or a pattern that fits no layer.
        ValueError: the confirmation is no score like the validation's, or this machine has no such device.
    """
    recipe = merged(SqftRecipe, recipe, fields)
    recipe.searching.require_score_of(validation)
    _require_merging(recipe.healing, recipe.adapter != "sqft")
    base, tokenizer, batches = _sparse(recipe, model, tokenizer, train_set, device, progress)
    quantization: Quantization | None = None
    if recipe.adapter != "sparsepeft":
        say(f"Quantizing to {recipe.bits} bits in groups of {recipe.group_size}", enabled=progress)
        quantization = quantize_model(base, batches, recipe.bits, recipe.group_size, recipe.symmetric)
    supernet = SuperNetwork.from_pretrained(
        base,
        recipe.space or sqft_space(),
        tokenizer,
        seed=recipe.seed,
        adapter_mode=_ADAPTER_MODES[recipe.adapter],
        quantization=quantization,
    )
    return _trained(supernet, train_set, validation, recipe, folder, progress)


def ordered(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batches: Sequence[Batch], heads: bool = False
) -> PreTrainedModel:
    """`model` with its MLP channels, and with `heads` its KV groups, sorted by importance; it computes the same.

    A base whose widths are to be searched is ordered first, then made sparse and quantized: groups of inputs share
    scales, and n:m patterns consecutive inputs, so neither can be reordered later.

    Raises:
        CompressionError: the model is quantized already.
    """
    require_unquantized(model)
    space = mlp_width((1.0, 0.5)) + (attention_heads((1.0, 0.5)) if heads else SpaceTemplate(()))
    supernet = SuperNetwork.from_pretrained(model, space, tokenizer)
    supernet.order_by_importance(batches)
    return extract(supernet.largest.model, supernet.family, supernet.layers)


def _loaded(
    model: str | Path | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, device: str | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if isinstance(model, str | Path):
        loaded, own = load_model(model)
        tokenizer = tokenizer or own
    elif tokenizer is None:
        raise ValueError("a model given as an object needs its tokenizer: pass tokenizer=...")
    else:
        loaded = model
    require_unquantized(loaded)
    return moved(loaded, device), tokenizer


def _require_merging(healing: HealingSettings | None, merges: bool) -> None:
    """Refuse to heal what does not merge.

    Raises:
        CompressionError: it does not.
    """
    if healing is not None and not merges:
        raise CompressionError(
            f"healing of {healing.steps} steps is asked for, but this adapter stays beside its base, where healing has "
            "nothing of its own to save; take one that merges (merge=True, or sparsepeft or qa-sparsepeft), or none."
        )


def _sparse(
    recipe: Recipe,
    model: str | Path | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    train_set: Sequence[TextPair],
    device: str | None,
    progress: bool,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[Batch]]:
    """The base with its zeros, its tokenizer, and calibration texts."""
    base, tokenizer = _loaded(model, tokenizer, device)
    batches = list(calibration_batches(train_set, tokenizer, recipe.calibration, base.device))
    if recipe.sparsity:
        say(f"Making {recipe.sparsity} of the weights zero", enabled=progress)
        sparsify(base, batches, recipe.sparsity, refit=recipe.refit)
    return base, tokenizer, batches


def _trained(
    supernet: SuperNetwork,
    train_set: Sequence[TextPair],
    validation: Evaluator,
    recipe: Recipe,
    folder: str | Path | None,
    progress: bool,
) -> CompressedModel:
    seed, searching, place = recipe.seed, recipe.searching, None if folder is None else Path(folder)
    for driver in searching.drivers:
        require_driver(driver, supernet.space, 2, searching.population, seed)
    report = train(
        supernet, train_set, recipe.training, seed=seed, checkpoint=place and place / "training", progress=progress
    )
    candidates = compare_sub_adapters(
        supernet, report, validation, searching, seed, place and place / "search", progress
    )
    chosen = supernet.subnetwork(candidates.loc[0, "configuration"])
    if recipe.healing is None:
        return CompressedModel(supernet, candidates, chosen, report)
    healed = heal(
        chosen, train_set, recipe.healing, seed=seed, checkpoint=place and place / "healing", progress=progress
    )
    return CompressedModel(supernet, candidates, chosen, report, healed)
