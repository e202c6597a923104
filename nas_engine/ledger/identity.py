"""What a ledger's records were taken with, as JSON data, and how two such descriptions differ, in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators import Direction, Evaluator
from evaluators.documents import checked
from nas_engine.errors import LedgerError
from search_spaces import SearchSpace, SpaceError

Identity = Mapping[str, Any]
_NAMED = 3  # genes named in a message; the rest are counted


def identity_of(space: SearchSpace, model: str, evaluators: Sequence[Evaluator]) -> Identity:
    """Everything that records depend on, as it comes back from JSON.

    Args:
        space: of the genomes.
        model: the super-network's fingerprint.
        evaluators: in the order of a record's measurements.
    """
    described = {e.name: {"direction": e.direction, "unit": e.unit, "settings": dict(e.settings())} for e in evaluators}
    identity = {
        "space": space.to_json(),
        "model": model,
        "evaluators": described,
        "order": [e.name for e in evaluators],
    }
    read_back: Identity = json.loads(json.dumps(identity))
    return read_back


@dataclass(frozen=True)
class _Described:
    direction: Direction
    unit: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class _Document:
    space: dict[str, Any]
    model: str
    evaluators: dict[str, _Described]
    order: list[str]


def checked_identity(data: Any, where: str) -> Identity:
    """`data`, which is an identity.

    Raises:
        LedgerError: it is none.
    """
    refusal = f"{where} holds no search of this project"
    document = checked(data, _Document, LedgerError, refusal)
    if sorted(document.order) != sorted(document.evaluators):
        raise LedgerError(f"{refusal}: its evaluators are {[*document.evaluators]}, in the order {document.order}.")
    try:
        SearchSpace.from_json(document.space)
    except SpaceError as error:
        raise LedgerError(f"{refusal}: {error}") from error
    identity: Identity = data
    return identity


def identity_differences(there: Identity, here: Identity) -> list[str]:
    """What differs between a ledger's identity and the one it is opened with, a phrase each; none where they agree."""
    found = []
    if there["space"] != here["space"]:
        found.append(f"another space ({'; '.join(space_differences(there['space'], here['space']))})")
    if there["model"] != here["model"]:
        found.append(f"another model or adapters (fingerprint {there['model']} there, {here['model']} here)")
    if there["order"] != here["order"]:
        found.append(f"other evaluators ({', '.join(there['order'])} there, {', '.join(here['order'])} here)")
    else:
        for name, described in here["evaluators"].items():
            found += _evaluator_differences(name, there["evaluators"][name], described)
    return found


def space_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between two spaces as `SearchSpace.to_json` gives them: which genes, and which of their values."""
    sides = [{c["name"]: c for c in (*space["genes"], *space["fixed"])} for space in (there, here)]
    found = []
    for one, other, side in ((*sides, "there"), (*reversed(sides), "here")):
        only = [name for name in one if name not in other]
        if only:
            found.append(f"only {side}: {_abridged(only)}")
    shared = [name for name in sides[0] if name in sides[1]]
    for key, noun in (("values", "values"), ("modules", "modules"), ("dimension", "dimension")):
        changed = [name for name in shared if sides[0][name][key] != sides[1][name][key]]
        if changed:
            first = changed[0]
            others = f", as {len(changed) - 1} more" if len(changed) > 1 else ""
            found.append(
                f"{first} has the {noun} {_list(sides[0][first][key])} there "
                f"and {_list(sides[1][first][key])} here{others}"
            )
    return found or ["the same genes in another order"]


def _evaluator_differences(name: str, there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    found = [
        f"another {key} of {name} ({there[key]!r} there, {here[key]!r} here)"
        for key in ("direction", "unit")
        if there[key] != here[key]
    ]
    old, new = there["settings"], here["settings"]
    changed = [key for key in {**old, **new} if key not in old or key not in new or old[key] != new[key]]
    if changed:
        told = ", ".join(f"{key} {_setting(old, key)} there, {_setting(new, key)} here" for key in changed)
        found.append(f"other settings of {name} ({told})")
    return found


def _setting(settings: Mapping[str, Any], key: str) -> str:
    return repr(settings[key]) if key in settings else "not set"


def _list(value: Any) -> str:
    return _abridged([str(v) for v in value], most=8) if isinstance(value, list) else str(value)


def _abridged(names: Sequence[str], most: int = _NAMED) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, … ({len(names)} in all)"
