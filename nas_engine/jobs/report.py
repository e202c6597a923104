"""What a job says of what it made: measured anew on questions that nothing saw, in words, as figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Measurement, MultipleChoiceAccuracy, Question
from evaluators.text.generation import greedy
from evaluators.whole_file import replacing
from nas_engine import plots
from nas_engine.jobs.finalists import Finalist, table
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.training import Teacher

ASKED, SHOWN, NEW_TOKENS = 100, 5, 12  # held-out questions that are answered in a model's own words, of which a few
# are shown, and tokens of an answer


def confirmed(
    supernet: SuperNetwork,
    teacher: Teacher,
    chosen: Finalist,
    held_out: MultipleChoiceAccuracy,
    settings: JobSettings,
) -> dict[str, Any]:
    """Measure all anew: accuracy on questions that nothing saw yet, latency in turns, so that drift cancels."""
    model = chosen.deployed.extract(share_embeddings=True)
    reference = accuracy_of(teacher, held_out)
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
        name: {"accuracy": rounded(accuracy), "latency_ms": round(sizes[name][0], 3), "parameters": sizes[name][1]}
        for name, accuracy in accuracies.items()
    }
    figures["chosen"] |= {"configuration": dict(chosen.subnet.configuration), "heal_steps": chosen.steps}
    return figures | {
        "speedup": round(times.speedups[1], 4),
        "speedup_stderr": round(times.speedup_stderrs[1], 4),
        "accuracy_drop": round(accuracies["reference"].value - accuracies["chosen"].value, 4),
    }


def in_words(teacher: Teacher, chosen: Finalist, questions: Sequence[Question]) -> dict[str, Any]:
    """How often each writes exactly the right option and nothing after it, and what the chosen one writes to a few."""
    asked = questions[:ASKED]
    said = {"chosen": _said(chosen.deployed.extract(share_embeddings=True), chosen.subnet.tokenizer, asked)}
    with teacher.taught() as whole:
        said["reference"] = _said(whole.model, whole.tokenizer, asked)
    shown = [
        {"question": q.question, "right": q.choices[q.answer], "said": text}
        for q, text in zip(asked[:SHOWN], said["chosen"], strict=False)
    ]
    return {"exact_match": {name: _exactly(texts, asked) for name, texts in said.items()}, "answers": shown}


def _said(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[Question]) -> list[str]:
    texts = greedy(model, tokenizer, [question.prompt for question in asked], NEW_TOKENS, stop=("\n",))
    return [text.strip() for text in texts]


def _exactly(texts: Sequence[str], asked: Sequence[Question]) -> dict[str, float]:
    right = np.array([text == question.choices[question.answer] for text, question in zip(texts, asked, strict=True)])
    return rounded(Measurement(float(right.mean()), float(right.std(ddof=1) / len(right) ** 0.5), len(right)))


def rounded(measurement: Measurement) -> dict[str, float]:
    """As `summary.json` has it."""
    return {"value": round(measurement.value, 4), "stderr": round(measurement.stderr, 4), "n": measurement.n}


def accuracy_of(teacher: Teacher, asked: MultipleChoiceAccuracy) -> Measurement:
    """The reference's."""
    with teacher.taught() as supernet:
        return asked.measure(supernet.model, supernet.tokenizer)


def write_figures(
    result: SearchResult[Subnetwork],
    finalists: Sequence[Finalist],
    reference: Mapping[str, Measurement],
    folder: Path,
) -> None:
    """Write `front.csv`, `evaluations.csv`, `finalists.csv` and the two figures into `folder`."""
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
