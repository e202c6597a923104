"""Which item goes where: seeded, and none that asks the same in two splits."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from evaluators import Labelled
from nas_engine.data.admission import Admit, Admitted
from nas_engine.data.contents import Item
from nas_engine.data.report import counts_in_words
from nas_engine.errors import TaskError

_LEAST, _MOST = 64, 1024  # groups of items looked at together
Group = list[Item]
"""Items that ask the same."""


@dataclass(frozen=True)
class Sizes:
    """Examples asked for: of `train` and of a given test set at most, of the others no fewer."""

    train: int
    validation: int
    selection: int
    test: int


@dataclass
class Taken:
    """What a split was given, and what was looked at for it and left out, by reason."""

    admitted: list[Admitted] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    said: str = ""


def unique(items: Iterable[Item]) -> list[Item]:
    """`items` without those that say what one before them says."""
    found: dict[str, Item] = {}
    for item in items:
        found.setdefault(item.said, item)
    return list(found.values())


def apart(train: Sequence[Item], test: Sequence[Item], name: str) -> list[Item]:
    """`train` without what `test` asks too.

    Raises:
        TaskError: more than half of one of them is in the other.
    """
    asked, learned = {item.asked for item in test}, {item.asked for item in train}
    shared = asked & learned
    for part, of_part in (("test", asked), ("train", learned)):
        if 2 * len(shared) > len(of_part):
            raise TaskError(
                f"{len(shared)} of the {len(of_part)} different texts in {part} of {name} are in the other split too: "
                "what is learned there would be asked again. Give a test set of its own, or one file, from which it "
                "is cut."
            )
    return [item for item in train if item.asked not in shared]


def divided(
    train: Sequence[Item], test: Sequence[Item] | None, sizes: Sizes, seed: int, admit: Admit, name: str
) -> Mapping[str, Taken]:
    """The splits, by name.

    Args:
        train: to learn from.
        test: given apart, and nothing that `train` asks; None cuts it from `train`.
        sizes: of the splits.
        seed: of the order.
        admit: what can be used.
        name: of the data, for a sentence.

    Raises:
        TaskError: too few are left for a split; it is named.
    """
    taken: dict[str, Taken] = {}
    if test is None:
        groups = _shuffled(train, seed)
        taken["test"], groups = _take(groups, sizes.test, admit)
        _require(taken["test"], sizes.test, "test", name)
        order = random.Random(seed)
        taken["test"].admitted = order.sample(taken["test"].admitted, len(taken["test"].admitted))
    else:
        order = random.Random(seed)
        alone = _stratified([[item] for item in order.sample(list(test), len(test))])
        taken["test"], _ = _take(alone, sizes.test, admit)
        _require(taken["test"], min(2, sizes.test), "test", name)
        groups = _grouped(train)
    groups = _shuffled([item for group in groups for item in group], seed)
    for split, count in (("validation", sizes.validation), ("selection", sizes.selection)):
        taken[split], groups = _take(groups, count, admit)
        _require(taken[split], count, split, name)
    taken["train"], _ = _take([[item] for group in groups for item in group], sizes.train, admit)
    return _cut_off(taken, sizes, name)


def in_order(items: Sequence[Item], sizes: Sizes, admit: Admit, name: str) -> Mapping[str, Taken]:
    """The splits of items in random order, all different: one after the other, that of training first.

    Raises:
        TaskError: as `divided`.
    """
    taken, start = {}, 0
    for split in ("train", "validation", "selection", "test"):
        count = getattr(sizes, split)
        taken[split], _ = _take([[item] for item in items[start : start + count]], count, admit)
        _require(taken[split], count, split, name)
        start += count
    return _cut_off(taken, sizes, name)


def _cut_off(taken: Mapping[str, Taken], sizes: Sizes, name: str) -> Mapping[str, Taken]:
    _require(taken["train"], 1, "train", name)
    for split, of_split in taken.items():
        del of_split.admitted[getattr(sizes, split) :]
    return {split: taken[split] for split in ("train", "validation", "selection", "test")}


def _require(taken: Taken, least: int, split: str, name: str) -> None:
    if len(taken.admitted) < least:
        left_out = counts_in_words(taken.left_out)
        raise TaskError(
            f"{name} has {len(taken.admitted)} usable examples for {split}, and {least} are needed"
            f"{f'; left out were: {left_out}' if left_out else ''}{f' ({taken.said})' if taken.said else ''}. Give "
            "more data, or ask for fewer examples."
        )


def _grouped(items: Iterable[Item]) -> list[Group]:
    groups: dict[str, Group] = {}
    for item in items:
        groups.setdefault(item.asked, []).append(item)
    return list(groups.values())


def _shuffled(items: Iterable[Item], seed: int) -> list[Group]:
    groups = _grouped(items)
    random.Random(seed).shuffle(groups)
    return _stratified(groups)


def _stratified(groups: list[Group]) -> list[Group]:
    """`groups` in such an order that each stretch of them has about as much of each class as all have."""
    by_class: dict[int | None, list[Group]] = {}
    for group in groups:
        content = group[0].content
        found = content.label if isinstance(content, Labelled) and isinstance(content.label, int) else None
        by_class.setdefault(found, []).append(group)
    places = [((i + 0.5) / len(of_class), group) for of_class in by_class.values() for i, group in enumerate(of_class)]
    return [group for _, group in sorted(places, key=lambda place: place[0])]


def _take(groups: Sequence[Group], count: int, admit: Admit) -> tuple[Taken, list[Group]]:
    """Whole groups from the first on until `count` examples are there, and the groups after them."""
    taken, position = Taken(), 0
    while len(taken.admitted) < count and position < len(groups):
        chunk = groups[position : position + min(max(_LEAST, count - len(taken.admitted)), _MOST)]
        verdicts = iter(admit([item for group in chunk for item in group]))
        for group in chunk:
            if len(taken.admitted) >= count:
                break
            position += 1
            for _ in group:
                verdict = next(verdicts)
                taken.admitted += verdict.admitted
                taken.left_out += verdict.left_out
                taken.said = taken.said or verdict.said
    return taken, list(groups[position:])
