"""From a front to one sub-network: the finalists are healed, the better half of them further, and only then compared.

Which sub-network is best after healing is not which was best before it. So finalists of different speeds are trained
alone for a few steps each, and by successive halving (Jamieson and Talwalkar, 2016, arXiv 1502.07943) the better half
goes on; what is better is judged on questions that did not guide the search, against the reference that a user would
otherwise have.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from evaluators import Latency, Measurement, ModelEvaluator, sign_of
from evaluators.classification.labelled import Learnable
from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.errors import LedgerError
from nas_engine.jobs.worth import lost
from nas_engine.progress import best_so_far, say
from nas_engine.results.result import SearchResult
from nas_engine.supernet import Subnetwork
from nas_engine.training import Healed, Teacher, heal
from nas_engine.training.settings import HealingSettings
from search_spaces.fingerprint import fingerprint_of

_RUNGS = (0.25, 0.5, 1.0)  # fractions of the steps after which finalists are compared
_LAST = 2  # finalists that are healed to the end


def rungs(steps: int, finalists: int) -> list[int]:
    """Steps of healing after which so many finalists are compared, ascending; none of 0 steps. Where all of them go to
    the end, they are compared there alone.
    """
    parts = _RUNGS if finalists > _LAST else _RUNGS[-1:]
    return sorted({max(1, round(part * steps)) for part in parts}) if steps else []


@dataclass(frozen=True, kw_only=True)
class FinalistSettings:
    """How finalists are drawn from a front, healed and put in order.

    Args:
        latency: how their speed is measured.
        healing: how those that go all the way are healed; None compares them as the super-network left them.
        tolerance: what may be lost; see `nas_engine.jobs.worth.lost`.
        count: how many begin.
        minimize: the column of the result that takes the place of being slow; latencies are timed anew.
    """

    latency: Latency
    healing: HealingSettings | None
    tolerance: float
    count: int = 4
    minimize: str = "latency"


@dataclass(frozen=True)
class Finalist:
    """A row of a search, healed and judged on other questions.

    Args:
        row: of the search's frame.
        subnet: its sub-network.
        speedup: over the whole model, timed in turns with it.
        unhealed: score as the super-network left it.
        score: now.
        steps: of healing so far.
        healed: the small model; None before the first step.
        better: whether healing has not made it worse; where it has, it leaves as the super-network left it.
    """

    row: pd.Series
    subnet: Subnetwork
    speedup: float
    unhealed: Measurement
    score: Measurement
    steps: int = 0
    healed: Healed | None = None
    better: bool = True

    @property
    def deployed(self) -> Healed | Subnetwork:
        """What leaves: healed, if it was and that did it good."""
        return self.healed if self.healed is not None and self.better else self.subnet

    @property
    def deployed_score(self) -> Measurement:
        """The score of what leaves."""
        return self.score if self.better else self.unhealed

    @property
    def deployed_steps(self) -> int:
        """Steps of healing of what leaves."""
        return self.steps if self.better else 0


def choose(
    result: SearchResult[Subnetwork],
    whole: Subnetwork,
    reference: Measurement,
    selection: ModelEvaluator,
    train_set: Sequence[Learnable],
    teacher: Teacher | None,
    settings: FinalistSettings,
    folder: Path | None = None,
    progress: bool = True,
) -> list[Finalist]:
    """The finalists of a front, the best first: the fastest that loses no more than the tolerance against the
    reference, and where none does, the one that loses least.

    Args:
        result: with the objective `latency`, and one of the name of `selection`.
        whole: the sub-network that is as large as the reference, for the speed-ups.
        reference: the reference's score by `selection`.
        selection: scores models on data that the search did not use.
        train_set: what healing learns from.
        teacher: see `nas_engine.heal`.
        settings: how all of it is done.
        folder: for checkpoints and answers, so that a killed call goes on where it was.
        progress: show bars.
    """
    healing, minimize = settings.healing, settings.minimize

    def in_order(finalists: list[Finalist]) -> list[Finalist]:
        """First those that keep the tolerance, the cheapest first, then the others, the best first."""

        def place(finalist: Finalist) -> tuple[bool, float]:
            loss = lost(selection, reference, finalist.deployed_score)
            if loss > settings.tolerance:
                return True, loss
            return False, -finalist.speedup if minimize == "latency" else float(finalist.row[minimize])

        return sorted(finalists, key=place)

    going = in_order(_listed(result, whole, selection, settings, folder))
    out: list[Finalist] = []
    if healing is None:
        return going
    for i, until in enumerate(rungs(healing.steps, len(going))):
        if i:
            left = max(_LAST, (len(going) + 1) // 2)
            going, out = going[:left], going[left:] + out
        say(
            f"Healing {len(going)} finalist{'s' * (len(going) > 1)} to step {until} of {healing.steps}",
            enabled=progress,
        )
        going = [_healed(f, selection, train_set, teacher, healing, until, folder, progress) for f in going]
        going = in_order(going)
        best_so_far(**{selection.name: going[0].deployed_score.value, "speedup": going[0].speedup})
    return going + out


def flips(finalists: Sequence[Finalist]) -> tuple[int, int]:
    """How many pairs of finalists healing put into another order of quality, and how many pairs there are.

    Those that were dropped earlier count as they were then.
    """
    pairs = list(combinations(finalists, 2))
    changed = sum((a.unhealed.value - b.unhealed.value) * (a.score.value - b.score.value) < 0 for a, b in pairs)
    return changed, len(pairs)


def table(
    finalists: Sequence[Finalist], name: str = "accuracy", minimize: str = "latency", reference: float | None = None
) -> pd.DataFrame:
    """One row a finalist in their order: `evaluation`, `speedup`, scores with `_stderr`, steps of healing, and which of
    the two it leaves as, the better one.

    Where another cost than latency is minimized, also that cost, and as `reduction` how many times the reference's it
    is less.

    Args:
        finalists: as `choose` gives them.
        name: of the score.
        minimize: the column of the search's result that finalists have little of.
        reference: the reference's value of `minimize`.
    """
    rows = [
        {
            "evaluation": finalist.row.name,
            "speedup": finalist.speedup,
            "unhealed": finalist.unhealed.value,
            "unhealed_stderr": finalist.unhealed.stderr,
            name: finalist.score.value,
            f"{name}_stderr": finalist.score.stderr,
            "heal_steps": finalist.steps,
            "leaves": "healed" if finalist.deployed_steps else "unhealed",
        }
        for finalist in finalists
    ]
    costs = [] if minimize == "latency" or reference is None else [float(f.row[minimize]) for f in finalists]
    for row, cost in zip(rows, costs, strict=False):
        row[minimize] = cost
        if min(costs) > 0:
            row["reduction"] = reference / cost  # type: ignore[operator]
    return pd.DataFrame(rows)


def _listed(
    result: SearchResult[Subnetwork],
    whole: Subnetwork,
    selection: ModelEvaluator,
    settings: FinalistSettings,
    folder: Path | None,
) -> list[Finalist]:
    """Finalists of the front, spread over its costs."""
    count, latency, minimize = settings.count, settings.latency, settings.minimize
    rows = result.front.sort_values(minimize)
    subnets = [result.subnetwork(row) for _, row in rows.iterrows()]
    smaller = rows[[s.configuration != whole.configuration and s.trains for s in subnets]]
    rows = smaller if len(smaller) else rows
    # What lies far below cannot be healed in so few steps: the better half of the front, at least.
    enough = max(count, (len(rows) + 1) // 2)
    rows = rows.sort_values(selection.name, ascending=sign_of(selection.direction) > 0, kind="stable").head(enough)
    rows = rows.sort_values(minimize)
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    rows = rows.iloc[places]
    subnets = [result.subnetwork(row) for _, row in rows.iterrows()]
    about = f"speed-ups {whole.supernetwork_fingerprint}{latency.settings()}{[_digest(subnet) for subnet in subnets]}"
    speedups = remembered(folder, about, lambda: list(latency.compare([whole, *subnets]).speedups[1:]))
    found = []
    for (_, row), subnet, speedup in zip(rows.iterrows(), subnets, speedups, strict=True):
        score = _kept(folder, subnet, selection, 0, lambda subnet=subnet: selection(subnet))  # type: ignore[misc]
        found.append(Finalist(row, subnet, speedup, score, score))
    return found


def _healed(
    finalist: Finalist,
    selection: ModelEvaluator,
    train_set: Sequence[Learnable],
    teacher: Teacher | None,
    healing: HealingSettings,
    until: int,
    folder: Path | None,
    progress: bool,
) -> Finalist:
    subnet = finalist.subnet
    if not subnet.trains:  # all blocks are left out
        return finalist
    healed = heal(
        subnet,
        train_set,
        replace(healing, adapters="fresh" if subnet.merges else "continued"),
        teacher=teacher,
        until=until,
        checkpoint=None if folder is None else folder / f"healing-{_digest(subnet)}",
        progress=progress,
    )
    score = _kept(folder, subnet, selection, until, lambda: selection.measure(healed.extract(True), healed.tokenizer))
    better = sign_of(selection.direction) * (score.value - finalist.unhealed.value) <= 0
    return replace(finalist, score=score, steps=until, healed=healed, better=better)


def _digest(subnet: Subnetwork) -> str:
    return fingerprint_of(dict(subnet.configuration))


def _kept(
    folder: Path | None,
    subnet: Subnetwork,
    selection: ModelEvaluator,
    until: int,
    measure: Callable[[], Measurement],
) -> Measurement:
    """What was measured at that step before, out of `folder`, or is now."""
    settings = json.dumps(selection.settings(), sort_keys=True)

    def values() -> list[float]:
        measured = measure()
        return [measured.value, measured.stderr, float(measured.n)]  # as they come back

    about = f"{subnet.supernetwork_fingerprint}{_digest(subnet)}{settings}{until}"
    value, stderr, n = remembered(folder, about, values)
    return Measurement(value, stderr, int(n))


def remembered(folder: Path | None, about: str, measure: Callable[[], list[float]]) -> list[float]:
    """Numbers out of `folder`, or measured now and kept: a call that goes on decides as it would have.

    Raises:
        LedgerError: what is kept there is damaged.
    """
    if folder is None:
        return measure()
    file = folder / "finalists.json"
    refusal = f"{file} is damaged; delete it, to measure the finalists anew"
    known = read_document(file, dict[str, list[float]], LedgerError, refusal) if file.exists() else {}
    key = fingerprint_of(about)
    if key not in known:
        known[key] = measure()
        with replacing(file) as unfinished:
            unfinished.write_text(json.dumps(known) + "\n", encoding="utf-8")
    return known[key]
