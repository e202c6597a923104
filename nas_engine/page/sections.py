"""What a page says in words and tables: its status, key figures, what was confirmed, settings and commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_engine.page.run import Found, Run
from nas_engine.page.summary import Measured, RecipeSummary, Score, SearchSummary
from nas_engine.plots.numbers import shown
from nas_engine.results.confirmation import ConfirmedFront
from nas_engine.results.interactive import measured_rows

_MOST_FAILURES = 50  # that are listed


@dataclass(frozen=True)
class Tile:
    """A key figure: what it is, its value, and what to compare it with."""

    label: str
    value: str
    beside: str = ""


def status(run: Run) -> str:
    """Where the job is."""
    if run.finished:
        return "finished"
    searched = next((found for found in run.searches if found.label == "search"), None)
    if run.about is None:
        return f"{_counted(len(searched.result), 'evaluation')} so far" if searched else "nothing measured yet"
    if searched is None:
        return "the search has not begun"
    done, wanted = len(searched.result), run.about.settings.get("evaluations")
    if done == wanted:
        return f"all {_counted(done, 'evaluation')} measured, what follows is not finished"
    return f"searching: {done} of {wanted} evaluations"


def tiles(run: Run) -> list[Tile]:
    """The figures to see first."""
    if isinstance(run.summary, SearchSummary):
        return _search_tiles(run.summary, run)
    if isinstance(run.summary, RecipeSummary):
        return _recipe_tiles(run.summary)
    if not run.searches:
        return []
    found = run.searches[0]
    rows = measured_rows(found.result)
    made = [Tile("evaluations", f"{len(found.result):,}", _front_of(found))]
    kept = rows[rows["feasible"]]
    for objective in [o for o in found.result.objectives if o.optimized][:3] if len(kept) else ():
        ordered = kept.sort_values(objective.name, ascending=objective.sign > 0, kind="stable")
        best = ordered.iloc[0]
        value = shown(best[objective.name], best[f"{objective.name}_stderr"], objective.unit)
        made.append(Tile(f"best {objective.name}", value, f"evaluation {best.name}"))
    return made


def held_out(run: Run) -> list[dict[str, str]]:
    """Reference, chosen and largest on held-out questions, a row each."""
    summary = run.summary
    if not isinstance(summary, SearchSummary):
        return []
    models = (("reference", summary.reference), ("largest", summary.largest), ("chosen", summary.chosen))
    return [
        {
            "model": summary.reference_name if name == "reference" else name,
            "score": _score(model.score),
            "n": f"{model.score.n:,}",
            "latency": shown(model.latency_ms, 0.0, "ms"),
            "parameters": shown(model.parameters),
            "exact": _in_own_words(summary.exact_match, name),
            "ended": _in_own_words(summary.answers_ended, name),
        }
        for name, model in models
    ]


@dataclass(frozen=True)
class Reconfirmed:
    """A front that was measured again.

    Args:
        title: of the search, and of what was measured.
        text: how many rows still are on it.
        objectives: that were measured again.
        rows: the evaluation, its values in the search and now, and what became of it.
    """

    title: str
    text: str
    objectives: list[str]
    rows: list[dict[str, Any]]


def reconfirmed(run: Run) -> list[Reconfirmed]:
    """The fronts of the run's searches as `SearchResult.confirm` measured them again."""
    return [_reconfirmed(found, front) for found in run.searches for front in found.confirmed]


def _reconfirmed(found: Found, front: ConfirmedFront[Any]) -> Reconfirmed:
    units = {o.name: o.unit for o in found.result.objectives}
    rows = []
    for number, row in front.frame.iterrows():
        cells = [
            shown(row[name + when], row[f"{name}{when}_stderr"], units[name])
            for name in front.confirmed
            for when in ("_search", "")
        ]
        fate = (
            row["error"] or ("still" if row["on_front"] else "no longer, beyond the errors"
            if row["dominated_beyond_error"] else "no longer, within the errors")
        )  # fmt: skip
        rows.append({"evaluation": f"{number}", "cells": cells, "fate": fate, "kept": bool(row["on_front"])})
    said = f"{len(front.front)} of {_counted(len(front), 'sub-network')} measured again still are on the front."
    names = " and ".join(map(_words, front.confirmed))
    title = names if found.label == "search" else f"{names}, {found.label}"
    return Reconfirmed(title, said, [_words(name) for name in front.confirmed], rows)


def kept_quality(run: Run) -> str:
    """What the job kept while it made the model smaller, in words."""
    return _words(run.summary.quality) if isinstance(run.summary, SearchSummary) else "accuracy"


def _in_own_words(compared: Mapping[str, Score | float], key: str) -> str:
    found = compared.get(key)
    return _score(found) if isinstance(found, Score) else "–"


def paired(run: Run) -> str:
    """How likely differences between the chosen one's answers and the reference's are by chance, in sentences."""
    if not isinstance(run.summary, SearchSummary):
        return ""
    compared = (("exactly right", run.summary.exact_match), ("answers that end", run.summary.answers_ended))
    found = [f"p = {found['p_value']:.2g} for {what}" for what, found in compared if "p_value" in found]
    n = next((score.n for _, found in compared for score in found.values() if isinstance(score, Score)), 0)
    if not found:
        return ""
    known = run.summary.reference_name
    return (
        f"{known[0].upper()}{known[1:]} and the chosen one answer the same {_counted(n, 'question')} in their own "
        f"words. McNemar's exact test of the difference: {', '.join(found)}."
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def finalists(run: Run) -> list[dict[str, str | bool]]:
    """The finalists before and after healing, the chosen one first."""
    if not isinstance(run.summary, SearchSummary):
        return []
    return [
        {
            "evaluation": str(finalist.evaluation),
            "speedup": f"{finalist.speedup:.2f} ×",
            "reduction": "" if finalist.reduction is None else f"{finalist.reduction:.2f} ×",
            "unhealed": shown(finalist.unhealed, finalist.unhealed_stderr),
            "score": shown(finalist.score, finalist.score_stderr),
            "steps": str(finalist.heal_steps),
            "worse": finalist.heal_steps > 0 and finalist.leaves == "unhealed",
        }
        for finalist in run.summary.finalists
    ]


def candidates(run: Run) -> list[dict[str, str]]:
    """What a recipe compared, the chosen one first."""
    compared = run.about.compared if run.about is not None and run.finished else None
    if compared is None:
        return []
    return [
        {
            "name": candidate.name,
            "accuracy": shown(candidate.values[0], candidate.stderrs[0]),
            "confirmed": shown(candidate.confirmed[0], candidate.confirmed[1]) if candidate.confirmed else "–",
            "parameters": shown(candidate.values[1]),
        }
        for candidate in compared.candidates
    ]


def failures(run: Run) -> tuple[int, list[dict[str, str]]]:
    """How many evaluations failed, and what the first of them said."""
    found = [
        {"search": search.label, "evaluation": str(number), "error": row["error"]}
        for search in run.searches
        for number, row in search.result.frame[search.result.frame["error"] != ""].iterrows()
    ]
    return len(found), found[:_MOST_FAILURES]


def settings(run: Run) -> list[tuple[str, str]]:
    """By name, as they would be given."""
    of_summary = run.summary.settings if isinstance(run.summary, SearchSummary) else {}
    known = run.about.settings if run.about is not None else of_summary
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in known.items()]


def commands(run: Run) -> list[tuple[str, str]]:
    """What each command does, and the command."""
    folder, told = shlex.quote(str(run.folder)), []
    if run.about is not None:
        told.append(("Run it again, or go on from where it stopped", run.about.command))
    told.append(("Write this page again", f"nas-engine report {folder}"))
    told.append(("Follow the search while it runs", f"nas-engine report {folder} --watch"))
    kept = run.folder / "compressed" / "config.json"
    if kept.is_file() and _writes(run):
        # Of llama.cpp's grids none is that of any bits, group and zero point.
        weights = " --weights f16" if "quantization_config" in kept.read_text(encoding="utf-8") else ""
        told.append(("Take the chosen model to llama.cpp", f"nas-engine export {folder} --to chosen.gguf{weights}"))
    return told


def _writes(run: Run) -> bool:
    """Whether what was compressed is a language model."""
    return not isinstance(run.summary, SearchSummary) or run.summary.loads_with == "AutoModelForCausalLM"


def calibrated(run: Run) -> str:
    """What heads and widths were fitted to, a sentence; empty where that is not known."""
    found = run.summary.calibration if isinstance(run.summary, SearchSummary) else None
    if found is None:
        return ""
    letters = ", ".join(f"{100 * share:.3g}\u00a0% {script}" for script, share in found.scripts.items())
    return (
        f"What each layer reads was told by the first {found.texts - found.generated:,} texts that were learned "
        f"({_words(found.kind)}){_generated(found.generated)}, {found.tokens:,} tokens, by which heads and channels "
        f"were ordered and what is smaller was fitted; their letters are {letters or 'none'}."
    )


def _generated(count: int) -> str:
    return f" and {count:,} that the model wrote by itself" if count else ""


def notes(run: Run) -> list[str]:
    """What to know before anything else, and what is missing and why, a sentence each."""
    said = [f"{warning[:1].upper()}{warning[1:]}" for warning in run.about.warnings] if run.about is not None else []
    said += run.problems
    if not run.searches:
        said.append("No sub-network was measured yet; the front appears with the first ones.")
    if run.about is None and run.searches:
        said.append(
            "This run does not say what it was for (it was made in Python, or by an older version): all that was "
            "measured counts as an objective, and no constraint is shown."
        )
    return said


def _search_tiles(summary: SearchSummary, run: Run) -> list[Tile]:
    reference, chosen = summary.reference, summary.chosen
    front = next((_front_of(found) for found in run.searches if found.label == "search"), "")
    lasted = f"{summary.seconds / 60:.0f} min" if summary.seconds >= 90 else f"{summary.seconds:.0f} s"
    known = summary.reference_name
    share = f"{100 * chosen.parameters / reference.parameters:.0f} % of {shown(reference.parameters)}"
    made = [
        Tile(f"{_words(summary.quality)} of the chosen", _score(chosen.score), f"{known} {_score(reference.score)}"),
        Tile("speed-up", f"{shown(summary.speedup, summary.speedup_stderr)}\u00a0×", _latencies(reference, chosen)),
        Tile("parameters", shown(chosen.parameters), share),
        Tile("evaluations", f"{summary.evaluations:,}", ", ".join(filter(None, (front, f"{lasted} in all")))),
    ]
    cost = summary.minimized
    if cost is not None and cost.name not in ("latency", "parameters"):
        whole = shown(cost.reference, 0.0, cost.unit)
        beside = f"{100 * cost.chosen / cost.reference:.0f} % of {whole}" if cost.reference else f"{known} {whole}"
        made.insert(1, Tile(_words(cost.name), shown(cost.chosen, 0.0, cost.unit), beside))
    return made


def _recipe_tiles(summary: RecipeSummary) -> list[Tile]:
    merged = "merged" if summary.merged else "adapter beside its base"
    return [
        Tile("accuracy of the chosen", _score(summary.accuracy), f"{summary.accuracy.n:,} held-out questions"),
        Tile("zeros", f"{100 * summary.sparsity:.0f} %", "of the weights"),
        Tile("weights", f"{summary.bits} bits", merged),
        Tile("on disk", shown(float(summary.bytes), 0.0, "B"), f"found by {summary.sub_adapter}"),
    ]


def _latencies(reference: Measured, chosen: Measured) -> str:
    return f"{shown(chosen.latency_ms, 0.0, 'ms')} against {shown(reference.latency_ms, 0.0, 'ms')}"


def _score(score: Score) -> str:
    return shown(score.value, score.stderr) if score.stderr > 0 else f"{score.value:.3f}"


def _front_of(found: Found) -> str:
    return f"{int(found.result.frame['on_front'].sum()):,} on the front"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def versions(run: Run) -> Sequence[tuple[str, str]]:
    """Versions of the packages that the job ran with."""
    return list(run.about.versions.items()) if run.about is not None else []


def answers(run: Run) -> Sequence[Any]:
    """What the chosen model wrote to a few held-out questions."""
    return run.summary.answers if isinstance(run.summary, SearchSummary) else []
