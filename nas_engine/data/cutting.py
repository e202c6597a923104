"""From a name to splits: read, understood, without what is twice there, and cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from nas_engine.data.admission import Admit
from nas_engine.data.contents import Item
from nas_engine.data.forms import Form, Kind, form_of, items
from nas_engine.data.labels import Labels
from nas_engine.data.made import MAKERS
from nas_engine.data.report import DUPLICATES, EMPTY, SHARED, PartReport
from nas_engine.data.sources import Row, Source, read_source
from nas_engine.data.splitting import Sizes, Taken, apart, divided, in_order, unique
from nas_engine.errors import TaskError


@dataclass(frozen=True)
class Cut:
    """Data as they were cut.

    Args:
        kind: of data.
        stop: see `Form`.
        digest: of all that was read.
        taken: the splits, by name.
        parts: what was read for them.
        classes: the names of labels, by their index; empty where there are none.
    """

    kind: Kind
    stop: tuple[str, ...]
    digest: str
    taken: Mapping[str, Taken]
    parts: Mapping[str, PartReport]
    classes: tuple[str, ...] = ()


def source_of(name: str) -> str | Source:
    """The rows of data by name, read once for all that asks about them; the name alone of what is made on the spot.

    Raises:
        TaskError: see `nas_engine.data.load_data`.
    """
    return name if name in MAKERS else read_source(name)


def cut(source: str | Source, kind: str, sizes: Sizes, seed: int, admit: Admit, order: Sequence[str] = ()) -> Cut:
    """Data, by name or as `source_of` gave them, in splits of which no two ask the same.

    Raises:
        TaskError: see `nas_engine.data.load_data`.
    """
    source = source_of(source) if isinstance(source, str) else source
    if isinstance(source, str):
        return _made(source, kind, sizes, seed, admit)
    name, form = source.name, form_of(source, kind, order)
    train, of_train = _understood(source.train, form)
    parts = {"train": of_train}
    test = None
    if source.test is not None:
        test, parts["test"] = _understood(source.test, form)
        before = len(train)
        train = apart(train, test, name)
        of_train.left_out[SHARED] = before - len(train)
    taken = divided(train, test, sizes, seed, admit, name)
    reports = {part: PartReport(of_part.read, dict(+of_part.left_out)) for part, of_part in parts.items()}
    classes = form.labels.classes if form.labels else ()
    return Cut(form.kind, form.stop, source.digest, taken, reports, classes)


def labels_of(source: str | Source, kind: str = "auto") -> Labels | None:
    """What the labels of data are, by name or as `source_of` gave them; None of data that are no texts with labels.

    Raises:
        TaskError: see `nas_engine.data.load_data`.
    """
    source = source_of(source) if isinstance(source, str) else source
    return None if isinstance(source, str) else form_of(source, kind).labels


@dataclass
class _Part:
    read: int
    left_out: Counter[str]


def _understood(rows: Sequence[Row], form: Form) -> tuple[list[Item], _Part]:
    found = [item for item in items(rows, form) if item is not None]
    different = unique(found)
    return different, _Part(
        len(rows), Counter({EMPTY: len(rows) - len(found), DUPLICATES: len(found) - len(different)})
    )


def _made(name: str, kind: str, sizes: Sizes, seed: int, admit: Admit) -> Cut:
    if kind not in ("auto", "multiple_choice"):
        raise TaskError(f"kind is {kind!r}, and {name} makes multiple-choice questions; leave kind out.")
    # One shuffled draw: earlier draws hold more of the few short sums than later ones.
    questions = MAKERS[name](sum(asdict(sizes).values()), seed)
    random.Random(seed).shuffle(questions)
    rows = tuple(Row(f"{name}, question {i}", asdict(question)) for i, question in enumerate(questions))
    made = [Item(i, question) for i, question in enumerate(questions)]
    taken = in_order(made, sizes, admit, name)
    return Cut("multiple_choice", (), Source(name, rows, None).digest, taken, {"train": PartReport(len(made))})
