"""What a job says of what it made: measured anew on data that nothing saw, in words, as figures and tables."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Measurement, ModelEvaluator, Question, sign_of
from evaluators.text.examples import Turn
from evaluators.text.generation import Written, written
from evaluators.whole_file import replacing
from nas_engine import plots
from nas_engine.data import DataSplits
from nas_engine.errors import NasEngineError
from nas_engine.jobs.finalists import Finalist
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.worth import lost
from nas_engine.page.about import About, tell
from nas_engine.page.page import REPORT, write_page
from nas_engine.page.run import TOLD
from nas_engine.plots.axes import REFERENCE
from nas_engine.progress import note
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork, SuperNetwork
from nas_engine.training import Teacher, TextPair

ASKED, SHOWN = 100, 5  # held-out prompts that are answered in a model's own words, of which a few are shown


def confirmed(
    supernet: SuperNetwork,
    teacher: Teacher,
    chosen: Finalist,
    held_out: ModelEvaluator,
    settings: JobSettings,
) -> dict[str, Any]:
    """Measure all anew: quality on data that nothing saw yet, latency in turns, so that drift cancels."""
    model = chosen.deployed.extract(share_embeddings=True)
    reference = score_of(teacher, held_out)
    scores = {
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
        name: {
            held_out.name: summary_entry(score),
            "latency_ms": round(sizes[name][0], 3),
            "parameters": sizes[name][1],
        }
        for name, score in scores.items()
    }
    figures["chosen"] |= {"configuration": dict(chosen.subnet.configuration), "heal_steps": chosen.deployed_steps}
    return figures | {
        "speedup": round(times.speedups[1], 4),
        "speedup_stderr": round(times.speedup_stderrs[1], 4),
        "quality": held_out.name,
        "reference_name": settings.reference_name,
        loss_key(held_out): round(lost(held_out, reference, scores["chosen"]), 4),
    }


def in_full(reference_name: str) -> str:
    """What a reference is, in a sentence."""
    return f"{reference_name} on the whole model" if reference_name == REFERENCE else reference_name


def cost_of(result: SearchResult[Subnetwork], chosen: pd.Series, name: str) -> dict[str, Any]:
    """What the search minimized, of the chosen one and of the largest, whose architecture is the reference's."""
    unit = next(objective.unit for objective in result.objectives if objective.name == name)
    return {"name": name, "unit": unit, "chosen": float(chosen[name]), "reference": float(result.reference[name])}


def loader_of(model: PreTrainedModel) -> str:
    """The class of transformers that loads what is left of `model`."""
    return "AutoModelForCausalLM" if model.get_output_embeddings() is not None else "AutoModelForSequenceClassification"


def loss_key(quality: ModelEvaluator) -> str:
    """What `summary.json` calls how much was lost: ``accuracy_drop``, ``perplexity_rise``."""
    return f"{quality.name}_{'drop' if sign_of(quality.direction) < 0 else 'rise'}"


def answers_summary(teacher: Teacher, chosen: Finalist, asked: Sequence[TextPair], data: DataSplits) -> dict[str, Any]:
    """How often each writes exactly what is right and nothing after it, how often its answers end, and what the chosen
    one writes to a few. Both answer the same questions: ``p_value`` is McNemar's, of a difference as large by chance.
    """
    if not asked:
        return {}
    said = {"chosen": _said(chosen.deployed.extract(share_embeddings=True), chosen.subnet.tokenizer, asked, data)}
    with teacher.taught() as whole:
        said["reference"] = _said(whole.model, whole.tokenizer, asked, data)
    right = {
        name: [text.text.strip() == pair.completion.strip() for text, pair in zip(texts, asked, strict=True)]
        for name, texts in said.items()
    }
    ended = {name: [text.ended for text in texts] for name, texts in said.items()}
    shown = [
        {
            "question": question_of(pair),
            "right": right_answer(pair).strip(),
            "said": text.text.strip(),
            "prompt": pair.prompt,
        }
        for pair, text in zip(asked[:SHOWN], said["chosen"], strict=False)
    ]
    # Nobody writes a conversation or a text exactly as somebody else did.
    exact = {} if data.kind in ("chat", "text") else {"exact_match": _compared(right)}
    return exact | {"answers_ended": _compared(ended), "answers": shown}


def _said(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[TextPair], data: DataSplits
) -> list[Written]:
    return written(model, tokenizer, [pair.prompt for pair in asked], data.answers.tokens, data.answers.stop)


def _compared(outcomes: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    shares: dict[str, Any] = {name: summary_entry(_share(found)) for name, found in outcomes.items()}
    return shares | {"p_value": round(mcnemar(*outcomes.values()), 4)}


def _share(outcomes: Sequence[bool]) -> Measurement:
    found, n = np.array(outcomes, dtype=float), len(outcomes)
    return Measurement(float(found.mean()), float(found.std(ddof=1) / n**0.5) if n > 1 else 0.0, n)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """The exact two-sided p-value of McNemar's test (1947): whether one of two models is right more often on the same
    questions, by those on which they differ.
    """
    from scipy.stats import binomtest  # takes a second to import

    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    differ = only_first + only_second
    return float(binomtest(only_first, differ).pvalue) if differ else 1.0


def summary_entry(measurement: Measurement) -> dict[str, float]:
    """A measurement as `summary.json` has it."""
    return {"value": round(measurement.value, 4), "stderr": round(measurement.stderr, 4), "n": measurement.n}


def question_of(pair: TextPair) -> str:
    """What was asked, without the words around it."""
    return pair.question if isinstance(pair, Question | Turn) else pair.prompt


def right_answer(pair: TextPair) -> str:
    """What is right, without what ends a turn."""
    return pair.answer if isinstance(pair, Turn) else pair.completion


def score_of(teacher: Teacher, asked: ModelEvaluator) -> Measurement:
    """The reference's score."""
    with teacher.taught() as supernet:
        return asked.measure(supernet.model, supernet.tokenizer)


def write_figures(
    result: SearchResult[Subnetwork],
    chosen: pd.Series,
    healed: pd.DataFrame,
    reference: Mapping[str, Measurement],
    folder: Path,
    settings: JobSettings,
    quality: str = "accuracy",
) -> None:
    """Write `front.csv`, `evaluations.csv`, `finalists.csv`, `search.json` and the two figures into `folder`."""
    result.to_csv(folder / "front.csv")
    result.to_json(folder / TOLD)
    with replacing(folder / "evaluations.csv") as unfinished:
        result.frame.to_csv(unfinished)
    with replacing(folder / "finalists.csv") as unfinished:
        healed.to_csv(unfinished, index=False)
    cost = float(result.reference[settings.minimize])  # the reference's architecture is the largest's
    with matplotlib.rc_context({"backend": "agg"}):
        axes = result.plot(settings.minimize, quality, chosen=chosen)
        plots.mark_reference(axes, cost, reference["validation"].value, settings.reference_name)
        plots.save(axes, folder / "front.png", close=True)
        axes = plots.plot_healed(
            healed,
            reference["selection"],
            score=quality,
            reference_name=settings.reference_name,
            minimize=settings.minimize,
        )
        plots.save(axes, folder / "healed.png", close=True)


def leave_page(about: About, folder: Path, progress: bool) -> None:
    """Write the page of a job that has come to its end; where that cannot be made, say so in a line and go on."""
    tell(replace(about, finished=True), folder)
    try:
        write_page(folder)
    except NasEngineError as error:
        again = f"nas-engine report {shlex.quote(str(folder))}"
        note(f"{REPORT} is left out: {error} Then it is made by {again}", enabled=progress)
