"""Every measurement of a search, kept in an Optuna storage: what was paid for once is never paid for again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from evaluators import Direction, Evaluator, Measurement
from nas_engine.search.errors import LedgerError
from nas_engine.search.journal import open_journal
from search_spaces import Genome, SearchSpace

_STUDY = "nas-engine"
_IDENTITY = "nas_engine"
JOURNAL = "ledger.log"


@dataclass(frozen=True)
class Record:
    """One evaluated genome.

    Args:
        genome: its indices.
        measurements: one an evaluator, in their order; empty where the evaluation failed.
        error: why it failed; empty where it did not.
    """

    genome: tuple[int, ...]
    measurements: tuple[Measurement, ...]
    error: str = ""


class Ledger:
    """The records of one space, one super-network and one set of evaluators.

    Args:
        storage: a folder, which gets the journal file `ledger.log`; a database URL; or None, to keep records in memory.
        space: the genomes' space.
        model: the super-network's fingerprint.
        evaluators: what measures.

    Raises:
        LedgerError: the storage cannot be opened, is damaged, or holds records taken with another space, model or
            evaluator settings (the differences are named).
    """

    def __init__(
        self, storage: str | Path | None, space: SearchSpace, model: str, evaluators: Sequence[Evaluator]
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = space
        self._distributions = {gene.name: CategoricalDistribution(gene.values) for gene in space.genes}
        identity = _identity(space, model, evaluators)
        opened = _open(storage)
        self._study = self._join(opened, identity, [e.direction for e in evaluators], storage)
        self._records = {r.genome: r for r in map(self._record, self._study.get_trials(deepcopy=False))}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, genome: Genome) -> Record | None:
        """The record of `genome`, or None."""
        return self._records.get(tuple(genome.tolist()))

    def append(self, record: Record) -> None:
        """Keep `record`; it is on disk when this returns."""
        attributes: dict[str, Any] = {
            "genome": list(record.genome),
            "stderr": [m.stderr for m in record.measurements],
            "n": [m.n for m in record.measurements],
            "outcomes": [m.outcomes for m in record.measurements],
            "error": record.error,
        }
        self._study.add_trial(
            create_trial(
                state=TrialState.FAIL if record.error else TrialState.COMPLETE,
                values=None if record.error else [m.value for m in record.measurements],
                params=self._space.configuration(record.genome),
                distributions=self._distributions,  # type: ignore[arg-type]
                user_attrs=attributes,
            )
        )
        self._records[record.genome] = record

    def _record(self, trial: FrozenTrial) -> Record:
        attributes = trial.user_attrs
        values = trial.values or ()
        outcomes = attributes.get("outcomes") or [""] * len(values)
        measured = zip(values, attributes["stderr"], attributes["n"], outcomes, strict=True)
        return Record(
            tuple(attributes["genome"]), tuple(Measurement(*entry) for entry in measured), attributes["error"]
        )

    @staticmethod
    def _join(
        opened: optuna.storages.BaseStorage | str | None,
        identity: dict[str, Any],
        directions: Sequence[Direction],
        where: str | Path | None,
    ) -> optuna.Study:
        try:
            study = _study(opened, directions)
        except (ValueError, OSError, SQLAlchemyError) as error:
            raise LedgerError(f"the ledger {where} cannot be opened: {error}") from error
        found = study.user_attrs.get(_IDENTITY)
        if found is None:
            study.set_user_attr(_IDENTITY, identity)
            return study
        differing = _differences(found, json.loads(json.dumps(identity)))
        if differing:
            raise LedgerError(
                f"the ledger in {where} was written with {'; '.join(differing)}. "
                "Use another run folder, or go back to what it was written with."
            )
        return study


def _open(storage: str | Path | None) -> optuna.storages.BaseStorage | str | None:
    if storage is None:
        return None
    if "://" in str(storage):
        return str(storage)
    return open_journal(Path(storage) / JOURNAL)


def _study(opened: optuna.storages.BaseStorage | str | None, directions: Sequence[Direction]) -> optuna.Study:
    if opened is not None:
        try:
            return optuna.load_study(storage=opened, study_name=_STUDY)
        except KeyError:
            pass  # a new ledger
    return optuna.create_study(storage=opened, study_name=_STUDY, directions=list(directions), load_if_exists=True)


def _identity(space: SearchSpace, model: str, evaluators: Sequence[Evaluator]) -> dict[str, Any]:
    described = {e.name: {"direction": e.direction, "unit": e.unit, "settings": dict(e.settings())} for e in evaluators}
    return {"space": space.to_json(), "model": model, "evaluators": described, "order": [e.name for e in evaluators]}


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = []
    if there["space"] != here["space"]:
        names = [{gene["name"] for gene in identity["space"]["genes"]} for identity in (there, here)]
        only = sorted(names[0] ^ names[1])
        detail = f"genes on one side only: {', '.join(only[:4])}" if only else "the same genes, other values"
        found.append(f"another space ({detail})")
    if there["model"] != here["model"]:
        found.append(f"another model or adapters (fingerprint {there['model']} there, {here['model']} here)")
    if there["order"] != here["order"]:
        found.append(f"other evaluators ({', '.join(there['order'])} there, {', '.join(here['order'])} here)")
    else:
        for name, settings in here["evaluators"].items():
            if there["evaluators"][name] != settings:
                found.append(f"other settings of {name} ({there['evaluators'][name]} there, {settings} here)")
    return found
