"""A recipe from the command line: questions by name in, a compressed model and its figures on disk out."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import MultipleChoiceAccuracy, Question
from evaluators.latency.machine import require_device
from evaluators.whole_file import replacing
from nas_engine.compression.checkpoint import require_packable
from nas_engine.data.tasks import task_splits
from nas_engine.jobs.preparations import (
    require_answerable,
    require_counts,
    require_learnable,
    require_one_process,
    writable,
)
from nas_engine.jobs.recipe import Adapter, Recipe, ShearsRecipe, SqftRecipe
from nas_engine.jobs.recipes import CompressedModel, SearchPlan, shears, sqft
from nas_engine.jobs.report import leave_page
from nas_engine.libraries import MESSAGES, libraries_in
from nas_engine.models import load_model
from nas_engine.options import command_line
from nas_engine.page.about import About, Candidate, Compared, as_json, tell
from nas_engine.progress import job_line, say
from nas_engine.training.settings import HealingSettings, TrainingSettings


@dataclass(frozen=True, kw_only=True)
class RecipeSettings:
    """What to compress and how long, whatever the recipe; the rest is as in `nas_engine.jobs.recipes`.

    Args:
        folder: run folder; start again with the same one to go on.
        model: Hugging Face id or folder, or smollm2.
        task: what to learn: family, chain_sum, a JSONL file or folder of questions, hf:<dataset>.
        train: training questions at most.
        validation: questions that compare sub-adapters.
        confirmation: other questions, cut from the training ones too, that judge the best again; 0 for none.
        test: held-out questions at most.
        steps: of training.
        batch_size: questions of a training batch.
        learning_rate: at its peak.
        heal_steps: of the chosen sub-adapter alone, where it merges; 0 for none.
        drivers: search beside the heuristics.
        evaluations: sub-adapters that each search measures.
        sparsity: fraction of zeros, or 2:4 or 4:8.
        refit: let the kept weights make up for the zeros before training.
        seed: of everything random.
        device: where all is computed, such as cuda.
    """

    folder: Path
    model: str = "smollm2"
    task: str = "chain_sum"
    train: int = 4000
    validation: int = 240
    confirmation: int = 0
    test: int = 800
    steps: int = TrainingSettings.steps
    batch_size: int = TrainingSettings.batch_size
    learning_rate: float = TrainingSettings.learning_rate
    heal_steps: int = 0
    drivers: tuple[str, ...] = ()
    evaluations: int = 30
    sparsity: str = str(Recipe.sparsity)
    refit: bool = Recipe.refit
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_counts(2, validation=self.validation, test=self.test)
        if self.confirmation != 0:
            require_counts(2, confirmation=self.confirmation)
        _ = self.training, self.healing, self.searching  # they check themselves
        require_device(self.device)

    @property
    def training(self) -> TrainingSettings:
        """How the super-adapter is trained."""
        return TrainingSettings(
            steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate, seed=self.seed
        )

    @property
    def healing(self) -> HealingSettings | None:
        """How the chosen sub-adapter is healed."""
        if self.heal_steps < 0:
            raise ValueError(f"heal_steps is {self.heal_steps}; give at least 0.")
        if not self.heal_steps:
            return None
        return HealingSettings(steps=self.heal_steps, batch_size=self.batch_size, learning_rate=self.learning_rate)

    @property
    def searching(self) -> SearchPlan:
        """What is searched beside the heuristics."""
        return SearchPlan(self.drivers, self.evaluations)


@dataclass(frozen=True, kw_only=True)
class ShearsSettings(RecipeSettings):
    """Make a model sparse, train an elastic adapter on it, and save the best sub-adapter.

    Args:
        merge: adapt the nonzeros alone, so that the adapter merges.
    """

    folder: Path = Path("runs/shears")
    merge: bool = ShearsRecipe.merge


@dataclass(frozen=True, kw_only=True)
class SqftSettings(RecipeSettings):
    """Make a model sparse, quantize it, train an elastic adapter on it, and save the best sub-adapter.

    Args:
        bits: of a weight, 4 or 8.
        group_size: inputs that share a scale.
        symmetric: without zero points.
        adapter: qa-sparsepeft, sparsepeft or sqft.
    """

    folder: Path = Path("runs/sqft")
    bits: int = SqftRecipe.bits
    group_size: int = SqftRecipe.group_size
    symmetric: bool = SqftRecipe.symmetric
    adapter: Adapter = SqftRecipe.adapter


def run_recipe(
    settings: ShearsSettings | SqftSettings, progress: bool = True
) -> tuple[CompressedModel, dict[str, Any]]:
    """Run a recipe; leaves `report.html`, `compressed/`, `candidates.csv`, `sparsity.csv` and `summary.json` in the run
    folder.

    Returns:
        what the recipe made, and the content of `summary.json`.

    Raises:
        ValueError: a model, task or setting that cannot be used; the message says which and what to do.
    """
    require_one_process()
    writable(
        settings.folder,
        ("training", "search", "healing", "compressed"),
        ("summary.json", "candidates.csv", "sparsity.csv", "page.json", "report.html", MESSAGES),
    )
    with job_line(enabled=progress), libraries_in(settings.folder / MESSAGES):
        return _run(settings, progress)


def _run(settings: ShearsSettings | SqftSettings, progress: bool) -> tuple[CompressedModel, dict[str, Any]]:
    started = time.perf_counter()
    splits = task_splits(
        settings.task, settings.train, settings.validation + settings.confirmation, settings.test, settings.seed
    )
    validation = MultipleChoiceAccuracy(splits.validation[: settings.validation])
    held_out = MultipleChoiceAccuracy(splits.test)
    asked, searching = [validation, held_out], settings.searching
    if settings.confirmation:
        again = MultipleChoiceAccuracy(splits.validation[settings.validation :])
        asked.append(again)
        searching = replace(searching, best=3, confirmation=again)
    say(f"Loading {settings.model}", enabled=progress)
    base, tokenizer = load_model(settings.model)
    require_answerable(base, tokenizer, asked)
    require_learnable(base, tokenizer, splits.train)
    if isinstance(settings, SqftSettings) and settings.adapter != "sparsepeft":
        require_packable(base)
    about = _about(settings)
    tell(about, settings.folder)
    made = _made(settings, base, tokenizer, splits.train, validation, searching, progress)
    made.save(settings.folder / "compressed")
    for name, frame in (("candidates.csv", made.candidates), ("sparsity.csv", made.sparsity)):
        with replacing(settings.folder / name) as unfinished:
            frame.to_csv(unfinished, index=False)
    say(f"Measuring the chosen one on {len(splits.test)} held-out questions", enabled=progress)
    model = made.chosen.model if made.healed is None else made.healed.extract(share_embeddings=True)
    accuracy = held_out.measure(model, made.supernet.tokenizer)
    report = made.sparsity
    summary = {
        "recipe": about.job,
        "sub_adapter": made.candidates.loc[0, "sub_adapter"],
        "configuration": dict(made.chosen.configuration),
        "accuracy": {"value": accuracy.value, "stderr": accuracy.stderr, "n": accuracy.n},
        "sparsity": float(report["zeros"].sum() / report["weights"].sum()),
        "bits": settings.bits
        if isinstance(settings, SqftSettings) and made.supernet.quantization is not None
        else 8 * made.supernet.model.dtype.itemsize,
        "merged": made.merges,
        "heal_steps": settings.heal_steps,
        "bytes": sum(file.stat().st_size for file in (settings.folder / "compressed").rglob("*.safetensors")),
        "seconds": round(time.perf_counter() - started, 1),
    }
    with replacing(settings.folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    leave_page(replace(about, compared=_compared(made, validation)), settings.folder, progress)
    return made, summary


def _about(settings: ShearsSettings | SqftSettings) -> About:
    job = "sqft" if isinstance(settings, SqftSettings) else "shears"
    told = as_json({name: value for name, value in asdict(settings).items() if name != "folder"})
    return About(job, command_line(job, settings), told)


def _compared(made: CompressedModel, validation: MultipleChoiceAccuracy) -> Compared:
    """The candidates as the page has them."""
    space, again = made.supernet.space, "confirmed"
    candidates = [
        Candidate(
            name=row["sub_adapter"],
            genome=space.genome(row["configuration"]).tolist(),
            values=[float(row[validation.name]), float(row["adapter_parameters"])],
            stderrs=[float(row[f"{validation.name}_stderr"]), 0.0],
            n=[len(validation.questions), 1],
            confirmed=[float(row[again]), float(row[f"{again}_stderr"])] if pd.notna(row.get(again)) else [],
        )
        for _, row in made.candidates.iterrows()
    ]
    objectives = [
        (validation.name, validation.direction, validation.unit),
        ("adapter_parameters", "minimize", ""),
    ]
    return Compared(space.to_json(), list(objectives), candidates)


def _made(
    settings: ShearsSettings | SqftSettings,
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train_set: Sequence[Question],
    validation: MultipleChoiceAccuracy,
    searching: SearchPlan,
    progress: bool,
) -> CompressedModel:
    own = ("bits", "group_size", "symmetric", "adapter") if isinstance(settings, SqftSettings) else ("merge",)
    shared = ("sparsity", "refit", "training", "healing", "seed", "device", "folder")
    given: dict[str, Any] = {name: getattr(settings, name) for name in (*own, *shared)}
    recipe = sqft if isinstance(settings, SqftSettings) else shears
    return recipe(base, train_set, validation, tokenizer=tokenizer, searching=searching, progress=progress, **given)
