"""A recipe from the command line: questions by name in, a compressed model and its figures on disk out."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from evaluators import MultipleChoiceAccuracy
from evaluators.latency.machine import require_device
from evaluators.whole_file import replacing
from nas_engine.compression.checkpoint import require_packable
from nas_engine.jobs.preparations import require_answerable, require_counts, require_learnable, writable
from nas_engine.jobs.recipes import Adapter, CompressedModel, SearchPlan, TrainingPlan, shears, sqft
from nas_engine.models import load_model
from nas_engine.progress import say
from nas_engine.tasks import task_splits


@dataclass(frozen=True)
class RecipeSettings:
    """What to compress and how; the rest is as in `nas_engine.jobs.recipes`.

    Args:
        folder: of the run; everything made is below it.
        model: Hugging Face id or folder, or ``smollm2``.
        task: ``chain_sum``, a JSONL file or a folder of questions, or ``hf:<dataset>``.
        train: questions to train on; likewise `validation`, which compares sub-adapters, and `test`, held out.
        confirmation: questions, cut from the training ones too, that judge the best sub-adapters again; 0 for none.
        steps: of training; likewise `batch_size` and `learning_rate`.
        heal_steps: of the chosen sub-adapter alone, where it merges; 0 for none.
        drivers: of the searches beside the heuristics; likewise `evaluations`.
        sparsity: fraction of zeros, or ``2:4`` or ``4:8``.
        refit: let the kept weights make up for the zeros before training.
        merge: Shears alone: train on the nonzeros, so that the adapter merges.
        bits: SQFT alone; likewise `group_size`, `symmetric` and `adapter`.
        seed: of everything random.
        device: where all is computed, such as ``cuda``.
    """

    folder: Path = Path("runs/recipe")
    model: str = "smollm2"
    task: str = "chain_sum"
    train: int = 4000
    validation: int = 240
    confirmation: int = 0
    test: int = 800
    steps: int = 200
    batch_size: int = 16
    learning_rate: float = 3e-4
    heal_steps: int = 0
    drivers: tuple[str, ...] = ()
    evaluations: int = 30
    sparsity: str = "0.5"
    refit: bool = False
    merge: bool = False
    bits: int = 4
    group_size: int = 64
    symmetric: bool = False
    adapter: Adapter = "qa-sparsepeft"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        require_counts(2, validation=self.validation, test=self.test)
        if self.confirmation != 0:
            require_counts(2, confirmation=self.confirmation)
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}; give at least 0.")
        _ = self.training, self.searching  # they check themselves
        require_device(self.device)

    @property
    def training(self) -> TrainingPlan:
        """How the adapter is trained and healed."""
        return TrainingPlan(self.steps, self.batch_size, self.learning_rate, self.heal_steps)

    @property
    def searching(self) -> SearchPlan:
        """What is searched beside the heuristics."""
        return SearchPlan(self.drivers, self.evaluations)


def run_recipe(
    recipe: Literal["shears", "sqft"], settings: RecipeSettings, progress: bool = True
) -> tuple[CompressedModel, dict[str, Any]]:
    """Run a recipe; leaves `compressed/`, `candidates.csv`, `sparsity.csv` and `summary.json` in the run folder.

    Returns:
        what the recipe made, and the content of `summary.json`.

    Raises:
        ValueError: a model, task or setting that cannot be used; the message says which and what to do.
    """
    started = time.perf_counter()
    writable(settings.folder)
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
    if recipe == "sqft" and settings.adapter != "sparsepeft":
        require_packable(base)
    if recipe == "shears":
        made = shears(
            base,
            splits.train,
            validation,
            tokenizer=tokenizer,
            sparsity=settings.sparsity,
            refit=settings.refit,
            merge=settings.merge,
            training=settings.training,
            searching=searching,
            seed=settings.seed,
            device=settings.device,
            folder=settings.folder,
            progress=progress,
        )
    else:
        made = sqft(
            base,
            splits.train,
            validation,
            tokenizer=tokenizer,
            sparsity=settings.sparsity,
            refit=settings.refit,
            bits=settings.bits,
            group_size=settings.group_size,
            symmetric=settings.symmetric,
            adapter=settings.adapter,
            training=settings.training,
            searching=searching,
            seed=settings.seed,
            device=settings.device,
            folder=settings.folder,
            progress=progress,
        )
    made.save(settings.folder / "compressed")
    for name, frame in (("candidates.csv", made.candidates), ("sparsity.csv", made.sparsity)):
        with replacing(settings.folder / name) as unfinished:
            frame.to_csv(unfinished, index=False)
    say(f"Measuring the chosen one on {len(splits.test)} held-out questions", enabled=progress)
    model = made.chosen.model if made.healed is None else made.healed.extract(share_embeddings=True)
    accuracy = held_out.measure(model, made.supernet.tokenizer)
    report = made.sparsity
    summary = {
        "recipe": recipe,
        "sub_adapter": made.candidates.loc[0, "sub_adapter"],
        "configuration": dict(made.chosen.configuration),
        "accuracy": {"value": accuracy.value, "stderr": accuracy.stderr, "n": accuracy.n},
        "sparsity": float(report["zeros"].sum() / report["weights"].sum()),
        "bits": settings.bits if made.supernet.quantization is not None else 8 * made.supernet.model.dtype.itemsize,
        "merged": made.merges,
        "heal_steps": settings.heal_steps,
        "bytes": sum(file.stat().st_size for file in (settings.folder / "compressed").rglob("*.safetensors")),
        "seconds": round(time.perf_counter() - started, 1),
    }
    with replacing(settings.folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return made, summary
