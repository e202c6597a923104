"""Which sub-adapter of a trained super-network to take: largest, heuristic and searched ones in one table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from evaluators import Evaluator, Measurement, ParameterCount, sign_of
from nas_engine.errors import SearchError
from nas_engine.execution.measured import measured
from nas_engine.jobs import heuristics
from nas_engine.loop import SearchSettings, search
from nas_engine.supernet import SuperNetwork
from nas_engine.training import TrainingReport
from search_spaces import Configuration

_STUDY = "nas-engine-sub-adapters"


@dataclass(frozen=True)
class SearchPlan:
    """Which sub-adapters are looked for beside the heuristic ones.

    Args:
        drivers: of `nas_engine.search`; none by default.
        evaluations: of each.
        population: of a generation.
        best: sub-adapters that each driver puts into the table.
        confirmation: measures the `finalists` again, by questions that chose none of them: the best of many candidates
            on few questions owes much to luck. None leaves the choice to the validation.
        finalists: the largest, the median, and the best others on the validation, so many in all.
    """

    drivers: tuple[str, ...] = ()
    evaluations: int = 50
    population: int = 10
    best: int = 1
    confirmation: Evaluator | None = None
    finalists: int = 6

    def __post_init__(self) -> None:
        for driver in self.drivers or (SearchSettings.driver,):  # they check themselves
            SearchSettings(driver=driver, evaluations=self.evaluations, population=self.population)
        if self.best < 1 or self.finalists < 2:
            raise ValueError(
                f"best is {self.best} and finalists is {self.finalists}; best must be 1 or more, finalists 2 or more."
            )

    def require_score_of(self, validation: Evaluator) -> None:
        """Refuse a confirmation of another kind than `validation`.

        Raises:
            ValueError: it has another direction or unit.
        """
        again = self.confirmation
        if again is not None and (again.direction, again.unit) != (validation.direction, validation.unit):
            raise ValueError(
                f"the confirmation is to {again.direction} in {again.unit or 'no unit'} and the validation to "
                f"{validation.direction} in {validation.unit or 'no unit'}; confirm by the same score of other data."
            )


def compare_sub_adapters(
    supernet: SuperNetwork,
    training: TrainingReport,
    validation: Evaluator,
    searching: SearchPlan = SearchPlan(),
    seed: int = 0,
    folder: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Largest, heuristic and searched sub-adapters in one table, the best first; ties go to the smaller one.

    The heuristics are SQFT's seven: the median, the most active, and the five of the lowest mean training loss. With a
    confirmation its finalists come first, in its order.

    Args:
        supernet: trained.
        training: what `train` returned.
        validation: what they are compared by; never the questions that judge the chosen one.
        searching: the drivers, each of which looks for accuracy and few adapter parameters, and the confirmation.
        seed: of the drivers.
        folder: for all measurements, so that a killed call goes on where it was; None keeps them in memory.
        progress: show bars.

    Raises:
        ValueError: the confirmation is not what the validation is: another direction or unit.
        SearchError: a heuristic sub-adapter or a finalist cannot be measured.
    """
    searching.require_score_of(validation)
    space = supernet.space
    found: dict[str, Configuration] = {"largest": space.configuration(space.largest)}
    if len(space):
        found |= {"median": heuristics.median(space), "most active": heuristics.most_active(training.visits)}
        losses = heuristics.lowest_loss(training.visits)
        found |= {f"lowest loss {i}": configuration for i, configuration in enumerate(losses, start=1)}
    place = None if folder is None else Path(folder)
    values = _measured(supernet, validation, list(found.values()), place, "Comparing heuristics", progress)
    measurements = dict(zip(found, values, strict=True))
    for driver in searching.drivers if len(space) else ():
        for name, (configuration, measurement) in _searched(
            supernet, validation, driver, searching, seed, place and place / driver, progress
        ).items():
            found[name], measurements[name] = configuration, measurement
    rows = [
        {
            "sub_adapter": name,
            validation.name: measurement.value,
            f"{validation.name}_stderr": measurement.stderr,
            "adapter_parameters": _adapter_parameters(supernet, found[name]),
            "configuration": dict(found[name]),
        }
        for name, measurement in measurements.items()
    ]
    frame = _best_first(pd.DataFrame(rows), validation.name, validation, "adapter_parameters")
    if searching.confirmation is None or len(frame) == 1:
        return frame.reset_index(drop=True)
    return _confirmed(supernet, frame, searching.confirmation, searching.finalists, place, progress)


def _searched(
    supernet: SuperNetwork,
    validation: Evaluator,
    driver: str,
    searching: SearchPlan,
    seed: int,
    folder: Path | None,
    progress: bool,
) -> dict[str, tuple[Configuration, Measurement]]:
    """The best that a driver finds, by the name of their row."""
    result = search(
        supernet,
        [validation, ParameterCount(merged=False, name="adapted_parameters")],
        SearchSettings(driver=driver, evaluations=searching.evaluations, population=searching.population, seed=seed),
        storage=folder,
        progress=progress,
    )
    table = result.frame[result.frame["error"] == ""]
    table = _best_first(table, validation.name, validation, "adapted_parameters").head(searching.best)
    best = {}
    for i, (_, row) in enumerate(table.iterrows(), start=1):
        measurement = Measurement(float(row[validation.name]), float(row[f"{validation.name}_stderr"]))
        name = driver if searching.best == 1 else f"{driver} {i}"
        best[name] = result.subnetwork(row).configuration, measurement
    return best


def _confirmed(
    supernet: SuperNetwork,
    frame: pd.DataFrame,
    again: Evaluator,
    finalists: int,
    folder: Path | None,
    progress: bool,
) -> pd.DataFrame:
    """`frame`, the best first, with its finalists measured `again` and in that order at the top."""
    frame = frame.assign(confirmed=np.nan, confirmed_stderr=np.nan)
    final = _finalists(frame, finalists)
    measurements = _measured(supernet, again, frame.loc[final, "configuration"], folder, "Confirming", progress)
    frame.loc[final, "confirmed"] = [measurement.value for measurement in measurements]
    frame.loc[final, "confirmed_stderr"] = [measurement.stderr for measurement in measurements]
    chosen = _best_first(frame.loc[final], "confirmed", again, "adapter_parameters")
    return pd.concat([chosen, frame.drop(final)], ignore_index=True)


def _best_first(frame: pd.DataFrame, score: str, evaluator: Evaluator, parameters: str) -> pd.DataFrame:
    """`frame` by a score of `evaluator`, equal ones from few parameters to many."""
    return frame.sort_values([score, parameters], ascending=[sign_of(evaluator.direction) > 0, True])


def _measured(
    supernet: SuperNetwork,
    evaluator: Evaluator,
    configurations: Iterable[Configuration],
    folder: Path | None,
    title: str,
    progress: bool,
) -> list[Measurement]:
    """What `evaluator` gives each sub-adapter, out of `folder` where it is known there.

    Raises:
        SearchError: one cannot be measured.
    """
    genomes = [supernet.space.genome(configuration) for configuration in configurations]
    records = measured(supernet, [evaluator], genomes, folder, _STUDY, title, progress)
    failed = next((record for record in records if record.error), None)
    if failed is not None:
        raise SearchError(f"a sub-adapter cannot be measured by {evaluator.name}: {failed.error}")
    return [record.measurements[0] for record in records]


def _finalists(frame: pd.DataFrame, count: int) -> pd.Index:
    """The index of the largest, the median and the first others of `frame`, no configuration twice."""
    always = frame["sub_adapter"].isin(["largest", "median"])
    before = pd.concat([frame[always], frame[~always]])
    keys = before["configuration"].map(lambda configuration: tuple(sorted(configuration.items())))
    return before.index[~keys.duplicated()][:count]


def _adapter_parameters(supernet: SuperNetwork, configuration: Configuration) -> int:
    supernet.activate(configuration)
    return sum(linear.active_adapter_parameters for linear in supernet.elastic_linears.values())
