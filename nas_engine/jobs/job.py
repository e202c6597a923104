"""The main job from a model to a compressed one, as the command line runs it: tune, train, search, heal, save, confirm.

Each stage keeps what it has done in the run folder, so that the same job started again goes on where it stopped.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import (
    Evaluator,
    Latency,
    LatencyTable,
    LatencyTableError,
    Measurement,
    MultipleChoiceAccuracy,
    ParameterCount,
    Question,
    Racing,
)
from evaluators.documents import read_document
from evaluators.latency.machine import require_device
from evaluators.text.generation import greedy, require_generable
from evaluators.whole_file import replacing
from nas_engine import plots
from nas_engine.deploy import Weights
from nas_engine.drivers.registry import HINTED
from nas_engine.errors import LedgerError
from nas_engine.jobs.finalists import Finalist, choose, flips, table
from nas_engine.jobs.preparations import require_answerable, require_counts, require_driver, require_learnable, writable
from nas_engine.loop import SearchSettings, search
from nas_engine.progress import progress_bar, say
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.tasks import TaskSplits, task_splits
from nas_engine.texts.calibration import calibration_batches
from nas_engine.training import Healed, Teacher, train
from nas_engine.training.settings import HealingSettings, TrainingSettings
from nas_engine.training.strategies import Strategy
from search_spaces import SearchSpace, attention_heads, layer_skip, lora_rank, mlp_width

PYTORCH = "pytorch"  # not a runtime of its own
_HINTS = 64  # training questions
_WORTH = "accuracy >= 0.6 * reference"  # below, no few steps heal it
_FIT_TOKENS = 4096  # of a finalist, before its first step
_ASKED, _SHOWN, _NEW_TOKENS = 100, 5, 12  # held-out questions that are answered in a model's own words, of which a few
# are shown, and tokens of an answer
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclass(frozen=True)
class JobSettings:
    """What to compress, and how long to work at it; the defaults are the quickstart's.

    Args:
        folder: run folder; start again with the same one to go on.
        model: Hugging Face id or folder, or smollm2.
        task: what to learn: family, chain_sum, a JSONL file or folder of questions, hf:<dataset>.
        train: training questions at most.
        validation: questions that guide the search.
        selection: questions on which the finalists are compared.
        test: held-out questions at most.
        adapter: folder of a PEFT LoRA adapter of this model, to be the reference instead of a trained one.
        lora_steps: steps of plain LoRA on the whole model: the reference, the teacher of all smaller ones, and their
            start. With 0 and no adapter the model as it is given is the reference.
        steps: in which sub-networks take turns; 0 leaves the super-network at what plain LoRA has learned.
        heal_steps: of a finalist alone, after the search; 0 takes it as the super-network left it.
        finalists: sub-networks of the front that are healed, by successive halving.
        batch_size: questions of a training batch.
        learning_rate: of all training, at its peak.
        strategy: which sub-networks a step visits: uniform, sandwich, cycle or largest.
        refit: fit narrower widths to what they leave out, where the model is neither sparse nor quantized.
        driver: search algorithm, one of nas_engine.drivers.DRIVERS, such as auto, surrogate or nsga2.
        evaluations: sub-networks to measure.
        population: sub-networks of a generation.
        sensitivity: training questions by which it is measured beforehand how much each gene matters, for the drivers
            auto and surrogate; 0 does without, by default 64 with these drivers.
        tolerance: accuracy that the chosen one may lose against the reference, as a fraction of 1.
        ranks: adapter ranks to choose from.
        widths: MLP widths to choose from, as fractions of the intermediate size.
        heads: attention heads to choose from, as fractions, in whole KV groups.
        skip: whole attention and MLP blocks may be left out too.
        layers_per_gene: consecutive layers that share a gene.
        tokens: prompt length at which prefill is timed, batch 1.
        target: where the model will run, and is timed: pytorch, or llama.cpp, for which the chosen one is also written
            as GGUF.
        weights: what llama.cpp's weights are stored as: f32, f16, bf16, q8_0, q4_0.
        seed: of everything random.
        device: where all is computed, such as cuda, and timed unless that is in another runtime.
    """

    folder: Path = Path("runs/quickstart")
    model: str = "smollm2"
    task: str = "family"
    train: int = 4000
    validation: int = 128
    selection: int = 240
    test: int = 600
    adapter: Path | None = None
    lora_steps: int = 110
    steps: int = 0
    heal_steps: int = 40
    finalists: int = 3
    batch_size: int = 16
    learning_rate: float = 7e-4
    strategy: Strategy = "uniform"
    refit: bool = True
    driver: str = SearchSettings.driver  # type: ignore[assignment]  # a name here
    evaluations: int = 20
    population: int = 12
    sensitivity: int | None = None
    tolerance: float = 0.01
    ranks: tuple[int, ...] = (32,)
    widths: tuple[float, ...] = (1.0, 0.7, 0.5, 0.3, 0.15)
    heads: tuple[float, ...] = (1.0, 0.67, 0.33)
    skip: bool = True
    layers_per_gene: int = 1
    tokens: int = 128
    target: str = PYTORCH
    weights: Weights = "q8_0"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        # Checked here because the stages that use them come minutes later.
        if min(self.lora_steps, self.steps) < 0:
            raise ValueError(f"lora_steps and steps are {self.lora_steps} and {self.steps}; give at least 0.")
        if self.adapter is not None and self.lora_steps != JobSettings.lora_steps and self.lora_steps:
            raise ValueError("an adapter is given, so that none is trained; leave lora_steps out.")
        require_counts(2, validation=self.validation, selection=self.selection, test=self.test)
        if not 0 <= self.tolerance <= 1 or self.seed < 0:
            raise ValueError(
                f"tolerance is {self.tolerance} and seed is {self.seed}; give a fraction from 0 to 1 and at least 0."
            )
        # These check themselves.
        _ = self._training(1, self.strategy), self.lora, self.training, self.healing, self.searching, self.latency
        given = self.sensitivity or 0
        if given < 0 or (given and self.driver not in HINTED):
            raise ValueError(
                f"sensitivity is {self.sensitivity} with the driver {self.driver!r}; give a number of questions with "
                f"{' or '.join(HINTED)}, or 0."
            )
        require_device(self.device)

    @property
    def lora(self) -> TrainingSettings | None:
        """Of plain LoRA on the whole model; None where it is given, or is not wanted."""
        return self._training(self.lora_steps, "largest") if self.adapter is None else None

    @property
    def training(self) -> TrainingSettings | None:
        """In which sub-networks take turns; None where none do."""
        return self._training(self.steps, self.strategy)

    @property
    def healing(self) -> HealingSettings | None:
        """How the finalists are healed; None leaves them."""
        if self.heal_steps < 0 or self.finalists < 1:
            raise ValueError(
                f"heal_steps is {self.heal_steps} and finalists is {self.finalists}; give at least 0 and 1."
            )
        if not self.heal_steps:
            return None
        return HealingSettings(
            steps=self.heal_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            fit_tokens=_FIT_TOKENS,
            seed=self.seed,
        )

    @property
    def searching(self) -> SearchSettings:
        """How the super-network is searched."""
        return SearchSettings(
            driver=self.driver,
            evaluations=self.evaluations,
            population=self.population,
            seed=self.seed,
            constraints=(_WORTH,),
        )

    def _training(self, steps: int, strategy: Strategy) -> TrainingSettings | None:
        if not steps:
            return None
        return TrainingSettings(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            strategy=strategy,
            refit=self.refit and strategy != "largest",
            seed=self.seed,
        )

    @property
    def latency(self) -> Latency:
        """How finalists are timed."""
        if self.target == PYTORCH:
            return Latency(tokens=self.tokens, repeats=20, warmup=3, device=self.device)
        return Latency(tokens=self.tokens, repeats=20, warmup=3, runtime=self.target, dtype=self.weights)

    @property
    def hints(self) -> int:
        """How many questions say beforehand which genes matter."""
        return (_HINTS if self.driver in HINTED else 0) if self.sensitivity is None else self.sensitivity


@dataclass(frozen=True)
class JobResult:
    """What the job made.

    Args:
        search: every evaluation.
        chosen: the row of the chosen sub-network in `search.frame`.
        summary: the content of `summary.json`.
        folder: where all of it is.
    """

    search: SearchResult[Subnetwork]
    chosen: pd.Series
    summary: dict[str, Any]
    folder: Path


def run_job(settings: JobSettings, progress: bool = True) -> JobResult:
    """Run the whole job.

    Leaves in the run folder `front.csv`, `front.png`, `evaluations.csv`, `finalists.csv`, `healed.png`, `reference/`
    (plain LoRA, as PEFT's adapter), `compressed/`, with another target than PyTorch `compressed.gguf`, `supernet/`,
    `summary.json`, the search's ledger and checkpoints.

    Raises:
        ValueError: a model, task or setting that cannot be used; the message says which and what to do.
    """
    started = time.perf_counter()
    folder = writable(settings.folder)
    guiding = settings.validation + settings.selection
    splits = task_splits(settings.task, settings.train, guiding, settings.test, settings.seed)
    validation = MultipleChoiceAccuracy(splits.validation[: settings.validation], racing=Racing())
    selection = MultipleChoiceAccuracy(splits.validation[settings.validation :])
    say(f"Loading {settings.model}", enabled=progress)
    supernet = _untrained(settings)
    held_out = MultipleChoiceAccuracy(splits.test)
    _require_possible(supernet, (validation, selection, held_out), splits, settings)
    say(f"Scoring it untrained on {settings.validation} validation questions", enabled=progress)
    untrained = validation(supernet.largest)
    teacher = _reference(supernet, splits.train, settings, folder, progress)
    say("Scoring the reference, plain LoRA on the whole model", enabled=progress)
    reference = {name: _of(teacher, asked) for name, asked in (("validation", validation), ("selection", selection))}
    _train(supernet, splits.train, teacher, settings, folder, progress)
    supernet.save(folder / "supernet")
    hint = _sensitivity(supernet, splits.train, settings.hints, folder, progress)
    result = _search(supernet, validation, settings, folder, hint, progress)
    finalists = choose(
        result,
        supernet.largest,
        reference["selection"],
        selection,
        splits.train,
        teacher,
        settings.healing,
        settings.tolerance,
        settings.latency,
        settings.finalists,
        folder,
        progress,
    )
    chosen = finalists[0]
    _write_figures(result, finalists, reference, folder)
    chosen.deployed.save_pretrained(folder / "compressed")
    exported = _export(chosen.deployed, splits.test, settings, folder, progress)
    say(f"Measuring reference, largest and chosen on {len(splits.test)} held-out questions", enabled=progress)
    changed, pairs = flips(finalists)
    summary = _confirm(supernet, teacher, chosen, held_out, settings) | {
        **_in_words(teacher, chosen, splits.test),
        **exported,
        "finalists": json.loads(table(finalists).round(4).to_json(orient="records")),
        "reordered_by_healing": {"pairs": pairs, "flipped": changed},
        "untrained_validation_accuracy": _rounded(untrained),
        "front": int(result.frame["on_front"].sum()),
        "evaluations": len(result),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(time.process_time(), 1),
        "settings": {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(settings).items()
            if name != "folder"
        },
    }
    with replacing(folder / "summary.json") as unfinished:
        unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return JobResult(result, chosen.row, summary, folder)


def _require_possible(
    supernet: SuperNetwork, asked: Sequence[MultipleChoiceAccuracy], splits: TaskSplits, settings: JobSettings
) -> None:
    """What the last stages need, known before the first begins; see `nas_engine.jobs.preparations`."""
    model, tokenizer = supernet.model, supernet.tokenizer
    require_answerable(model, tokenizer, asked)
    require_generable(model, tokenizer, [question.prompt for question in splits.test[:_ASKED]], _NEW_TOKENS)
    require_learnable(model, tokenizer, splits.train)
    settings.latency.workload.require_readable(model)
    require_driver(settings.driver, supernet.space, 3, settings.population, settings.seed)
    if not supernet.largest.merges:
        raise ValueError(
            "the model is sparse or quantized: adapters merged into it would fill its zeros or leave its grid. Give "
            "the dense model, or compress it with nas-engine shears or sqft."
        )
    if settings.target != PYTORCH:
        genome = supernet.space.sample(np.random.default_rng(settings.seed), 1)[0]
        subnet = supernet.subnetwork(supernet.space.configuration(genome))
        with tempfile.TemporaryDirectory() as unused:
            _export(subnet, splits.test, settings, Path(unused), progress=False)


def _export(
    deployed: Subnetwork | Healed, questions: Sequence[Question], settings: JobSettings, folder: Path, progress: bool
) -> dict[str, Any]:
    """The model as the file that the target loads, checked there on a few questions; nothing for PyTorch."""
    if settings.target == PYTORCH:
        return {}
    say(f"Writing the chosen model for {settings.target}, and comparing it there", enabled=progress)
    texts = [question.prompt for question in questions[:_SHOWN]]
    made = deployed.export("gguf", folder / "compressed.gguf", weights=settings.weights, texts=texts)
    return {"export": {**asdict(made), "file": made.file.name}}


def _untrained(settings: JobSettings) -> SuperNetwork:
    together = settings.layers_per_gene
    space = lora_rank(settings.ranks, TARGETS, layers_per_gene=together)
    space += mlp_width(settings.widths, multiple_of=32, layers_per_gene=together)
    space += attention_heads(settings.heads, together)
    if settings.skip:
        space += layer_skip()
    return SuperNetwork.from_pretrained(settings.model, space, seed=settings.seed, device=settings.device)


def _reference(
    supernet: SuperNetwork, questions: Sequence[Question], settings: JobSettings, folder: Path, progress: bool
) -> Teacher:
    """What a user would otherwise have: plain LoRA on the whole model, trained or given; also kept as PEFT's."""
    if settings.adapter is not None:
        supernet.load_adapter(settings.adapter)
    elif settings.lora is not None:
        train(supernet, questions, settings.lora, checkpoint=folder / "lora", progress=progress)
        supernet.largest.save_adapter(folder / "reference")
    return Teacher.of(supernet)


def _train(
    supernet: SuperNetwork,
    questions: Sequence[Question],
    teacher: Teacher,
    settings: JobSettings,
    folder: Path,
    progress: bool,
) -> None:
    refit = settings.refit and supernet.can_refit
    if settings.training is None:
        say("Ordering heads and channels", enabled=progress)
        supernet.order_by_importance(list(calibration_batches(questions, supernet.tokenizer, 512)), refit)
        return
    train(
        supernet,
        questions,
        settings.training,
        refit=refit,
        teacher=teacher,
        checkpoint=folder / "training",
        progress=progress,
    )


def _of(teacher: Teacher, asked: MultipleChoiceAccuracy) -> Measurement:
    with teacher.taught() as supernet:
        return asked.measure(supernet.model, supernet.tokenizer)


def _sensitivity(
    supernet: SuperNetwork, questions: Sequence[Question], count: int, folder: Path, progress: bool
) -> dict[str, Sequence[float]] | None:
    """What the first `count` questions say of the genes, kept in the run folder for a search that goes on."""
    if not count:
        return None
    file, made_with = folder / "sensitivity.json", (supernet.fingerprint(), count)
    kept = kept_sensitivity(file, made_with, supernet.space) if file.exists() else None
    if kept is not None:
        return kept
    found = supernet.sensitivity(calibration_batches(questions, supernet.tokenizer, count), progress)
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps({"made_with": made_with, "genes": found}) + "\n", encoding="utf-8")
    return dict(found)


@dataclass(frozen=True)
class _KeptSensitivity:
    made_with: tuple[str, int]
    genes: dict[str, list[float]]


def kept_sensitivity(file: Path, made_with: tuple[str, int], space: SearchSpace) -> dict[str, Sequence[float]] | None:
    """What `file` holds of the genes of `space`; None where it was made with something else.

    Raises:
        LedgerError: it is damaged.
    """
    kept = read_document(file, _KeptSensitivity, LedgerError, f"{file} is damaged; delete it, to measure anew")
    if kept.made_with != made_with:
        return None
    if {name: len(values) for name, values in kept.genes.items()} != {gene.name: len(gene) for gene in space.genes}:
        raise LedgerError(f"{file} holds other genes than this space has; delete it, to measure anew.")
    return dict(kept.genes)


def _latency(supernet: SuperNetwork, settings: JobSettings, folder: Path, progress: bool) -> LatencyTable:
    """What blocks cost on this machine, timed once in turns with the largest and kept in the run folder."""
    file = folder / "latency_table.json"
    latency = replace(settings.latency, repeats=4, warmup=1)
    if file.exists():
        try:
            table = LatencyTable.load(file)
            table(supernet.subnetwork(supernet.space.configuration(supernet.space.smallest)))
            if (table.workload, table.runtime, table.dtype) == (latency.workload, latency.runtime, latency.dtype):
                return table
        except LatencyTableError as error:
            say(f"Timing blocks anew: {error}", enabled=progress)
    with progress_bar("Timing blocks, in per cent", 100, enabled=progress) as bar:
        done = 0

        def tell(timed: int, of: int) -> None:
            nonlocal done
            bar.advance(100 * timed // of - done)
            done = 100 * timed // of

        table = LatencyTable.calibrate(supernet, latency, samples=8, seed=settings.seed, progress=tell)
    table.save(file)
    return table


def _search(
    supernet: SuperNetwork,
    validation: MultipleChoiceAccuracy,
    settings: JobSettings,
    folder: Path,
    sensitivity: Mapping[str, Sequence[float]] | None,
    progress: bool,
) -> SearchResult[Subnetwork]:
    evaluators: list[Evaluator] = [validation, _latency(supernet, settings, folder, progress), ParameterCount()]
    return search(
        supernet,
        evaluators,
        settings.searching,
        storage=folder,
        progress=progress,
        sensitivity=sensitivity,
    )


def _write_figures(
    result: SearchResult[Subnetwork],
    finalists: Sequence[Finalist],
    reference: Mapping[str, Measurement],
    folder: Path,
) -> None:
    result.to_csv(folder / "front.csv")
    with replacing(folder / "evaluations.csv") as unfinished:
        result.frame.to_csv(unfinished)
    healed = table(finalists)
    with replacing(folder / "finalists.csv") as unfinished:
        healed.to_csv(unfinished, index=False)
    latency = float(result.reference["latency"])  # the reference's architecture is the largest's
    with matplotlib.rc_context({"backend": "agg"}):
        axes = result.plot("latency", "accuracy", chosen=finalists[0].row)
        plots.mark_reference(axes, latency, reference["validation"].value)
        plots.save(axes, folder / "front.png")
        plots.save(plots.plot_healed(healed, reference["selection"]), folder / "healed.png")


def _confirm(
    supernet: SuperNetwork,
    teacher: Teacher,
    chosen: Finalist,
    held_out: MultipleChoiceAccuracy,
    settings: JobSettings,
) -> dict[str, Any]:
    """Measure all anew: accuracy on questions that nothing saw yet, latency in turns, so that drift cancels."""
    model = chosen.deployed.extract(share_embeddings=True)
    reference = _of(teacher, held_out)
    accuracies = {
        "reference": reference,
        "chosen": held_out.measure(model, supernet.tokenizer),
        # Where no sub-networks took turns, it is what the teacher is.
        "largest": held_out(supernet.largest) if settings.steps else reference,
    }
    times = settings.latency.compare([supernet.largest, chosen.subnet])
    whole = supernet.largest.parameter_count()
    sizes = {
        "reference": (times.medians[0], whole),
        "chosen": (times.medians[1], chosen.subnet.parameter_count()),
        "largest": (times.medians[0], whole),
    }
    figures: dict[str, Any] = {
        name: {"accuracy": _rounded(accuracy), "latency_ms": round(sizes[name][0], 3), "parameters": sizes[name][1]}
        for name, accuracy in accuracies.items()
    }
    figures["chosen"] |= {"configuration": dict(chosen.subnet.configuration), "heal_steps": chosen.steps}
    return figures | {
        "speedup": round(times.speedups[1], 4),
        "speedup_stderr": round(times.speedup_stderrs[1], 4),
        "accuracy_drop": round(accuracies["reference"].value - accuracies["chosen"].value, 4),
    }


def _in_words(teacher: Teacher, chosen: Finalist, questions: Sequence[Question]) -> dict[str, Any]:
    """How often each writes exactly the right option and nothing after it, and what the chosen one writes to a few."""
    asked = questions[:_ASKED]
    said = {"chosen": _said(chosen.deployed.extract(share_embeddings=True), chosen.subnet.tokenizer, asked)}
    with teacher.taught() as whole:
        said["reference"] = _said(whole.model, whole.tokenizer, asked)
    shown = [
        {"question": q.question, "right": q.choices[q.answer], "said": text}
        for q, text in zip(asked[:_SHOWN], said["chosen"], strict=False)
    ]
    return {"exact_match": {name: _exactly(texts, asked) for name, texts in said.items()}, "answers": shown}


def _said(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Question]) -> list[str]:
    texts = greedy(model, tokenizer, [question.prompt for question in asked], _NEW_TOKENS, stop=("\n",))
    return [text.strip() for text in texts]


def _exactly(texts: Sequence[str], asked: Sequence[Question]) -> dict[str, float]:
    right = np.array([text == question.choices[question.answer] for text, question in zip(texts, asked, strict=True)])
    return _rounded(Measurement(float(right.mean()), float(right.std(ddof=1) / len(right) ** 0.5), len(right)))


def _rounded(measurement: Measurement) -> dict[str, float]:
    return {"value": round(measurement.value, 4), "stderr": round(measurement.stderr, 4), "n": measurement.n}
