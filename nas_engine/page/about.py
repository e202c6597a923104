"""What a job tells of itself when it begins, kept beside its ledger: settings, constraints, what it is compared with.

A ledger holds measurements and not what they were for; the page needs both, while the job still runs too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any

from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.errors import LedgerError
from nas_engine.plots.axes import REFERENCE

ABOUT = "page.json"
_PACKAGES = ("nas-engine", "torch", "transformers", "peft", "numpy", "optuna", "pymoo")


@dataclass(frozen=True)
class Candidate:
    """A sub-network that a recipe compared.

    Args:
        name: how it was found.
        genome: its indices.
        values: one an objective.
        stderrs: likewise.
        n: likewise, the samples that they rest on.
        confirmed: value and standard error of the first objective on other questions, where it was measured again.
    """

    name: str
    genome: list[int]
    values: list[float]
    stderrs: list[float]
    n: list[int]
    confirmed: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Compared:
    """What a recipe compared, where that was no search.

    Args:
        space: of the genomes, as JSON.
        objectives: name, direction and unit of each.
        candidates: the best first.
    """

    space: dict[str, Any]
    objectives: list[tuple[str, str, str]]
    candidates: list[Candidate]


@dataclass(frozen=True)
class About:
    """What a job is.

    Args:
        job: search, shears or sqft.
        command: that makes it again.
        settings: all of them by name, as JSON.
        constraints: of its search, as they were written.
        reference: objectives of what a user would otherwise have, on the data that guide the search; all others are
            the largest's, whose architecture it has.
        reference_name: what that is, such as plain LoRA.
        selection: its accuracy and `accuracy_stderr` on the questions that compare finalists.
        compared: of a recipe.
        warnings: what whoever reads its figures should know, a sentence each.
        versions: of the packages that it ran with.
        finished: whether it came to its end.
    """

    job: str
    command: str
    settings: dict[str, Any]
    constraints: list[str] = field(default_factory=list)
    reference: dict[str, float] = field(default_factory=dict)
    reference_name: str = REFERENCE
    selection: dict[str, float] = field(default_factory=dict)
    compared: Compared | None = None
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    finished: bool = False


def tell(about: About, folder: Path) -> About:
    """Keep `about` in the run folder, with the versions of what runs here."""
    told = replace(about, versions=_versions())
    with replacing(folder / ABOUT) as unfinished:
        unfinished.write_text(json.dumps(asdict(told), indent=1) + "\n", encoding="utf-8")
    return told


def told(folder: Path) -> About | None:
    """What a job told of itself; None where it did not.

    Raises:
        LedgerError: the file is damaged.
    """
    file = folder / ABOUT
    if not file.is_file():
        return None
    return read_document(file, About, LedgerError, f"{file} is damaged; delete it, and the page does without")


def as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON has them: paths as texts."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}


def _versions() -> dict[str, str]:
    found = {"python": python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a folder, without being installed
            continue
    return found
