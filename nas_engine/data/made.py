"""Questions made on the spot: sums, and who somebody is in a family."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from itertools import count as count_from
from typing import TypeVar

from evaluators.multiple_choice.questions import Question
from nas_engine.errors import TaskError

CHAIN_SUM = "chain_sum"
FAMILY = "family"
_CHAIN_SUM_LIMIT = 100_000  # of the three million distinct ones, so that drawing them stays quick
_FAMILY_LIMIT = 20_000
_OFFSETS = (-10, -3, -2, -1, 1, 2, 3, 10)
_RELATIONS = (
    *("father", "mother", "son", "daughter", "husband", "wife", "brother", "sister"),
    *("grandfather", "grandmother", "father-in-law", "mother-in-law"),
)


A = TypeVar("A")  # an answer


def chain_sum(count: int, seed: int) -> list[Question]:
    """Sums and differences of 2 or 3 numbers of 1 or 2 digits, with four choices; no question occurs twice.

    The wrong choices are three of the result ± 1, 2, 3 and 10. More of the same seed begins with what fewer gives.

    Raises:
        TaskError: `count` is out of range, or reasoning-gym is not installed.
    """
    return _made(CHAIN_SUM, count, _CHAIN_SUM_LIMIT, seed, _chain_sum_entries, _with_choices)


def _made(
    name: str,
    count: int,
    limit: int,
    seed: int,
    entries: Callable[[int], Iterator[tuple[str, A]]],
    question: Callable[[str, A, random.Random], Question],
) -> list[Question]:
    """The first `count` different ones of an endless draw, as questions."""
    if not 0 < count <= limit:
        raise TaskError(f"count is {count}; {name} makes from 1 to {limit} questions.")
    rng = random.Random(seed)
    different: dict[str, A] = {}
    for text, answer in entries(rng.getrandbits(62)):
        different.setdefault(text, answer)
        if len(different) == count:
            break
    return [question(text, answer, rng) for text, answer in different.items()]


def _chain_sum_entries(seed: int) -> Iterator[tuple[str, int]]:
    # reasoning-gym seeds entry i with seed + i: seeds must lie far apart, or their questions are the same ones.
    try:
        from reasoning_gym.arithmetic.chain_sum import ChainSumConfig, ChainSumDataset
    except ImportError as error:
        raise TaskError(f"{CHAIN_SUM} needs reasoning-gym; install it with: pip install reasoning-gym.") from error
    made = ChainSumDataset(ChainSumConfig(min_terms=2, max_terms=3, min_digits=1, max_digits=2, seed=seed, size=1))
    for i in count_from():
        yield made[i]["question"], int(made[i]["answer"])


def family(count: int, seed: int) -> list[Question]:
    """Who somebody is to somebody else in a family of 4 to 6, in a word, with four choices; no question occurs twice.

    More of the same seed begins with what fewer gives.

    Raises:
        TaskError: `count` is out of range, or reasoning-gym is not installed.
    """
    return _made(FAMILY, count, _FAMILY_LIMIT, seed, _family_entries, _with_relations)


def _family_entries(seed: int) -> Iterator[tuple[str, str]]:
    try:
        from reasoning_gym.graphs.family_relationships import (
            FamilyRelationshipsConfig,
            FamilyRelationshipsDataset,
        )
    except ImportError as error:
        raise TaskError(f"{FAMILY} needs reasoning-gym; install it with: pip install reasoning-gym.") from error
    made = FamilyRelationshipsDataset(
        FamilyRelationshipsConfig(min_family_size=4, max_family_size=6, seed=seed, size=1)
    )
    for i in count_from():
        entry = made[i]
        # The last paragraph asks, and says how to answer, in many ways; the question alone is what is learned here.
        story, _, ask = entry["question"].strip().rpartition("\n\n")
        yield f"{story} {ask.partition('?')[0]}?", str(entry["answer"])


def _with_relations(text: str, relation: str, rng: random.Random) -> Question:
    values = [relation, *rng.sample([other for other in _RELATIONS if other != relation], 3)]
    rng.shuffle(values)
    return Question(text, tuple(values), values.index(relation))


def _with_choices(text: str, result: int, rng: random.Random) -> Question:
    values = [result, *(result + offset for offset in rng.sample(_OFFSETS, 3))]
    rng.shuffle(values)
    return Question(text, tuple(map(str, values)), values.index(result))


MAKERS: Mapping[str, Callable[[int, int], list[Question]]] = {FAMILY: family, CHAIN_SUM: chain_sum}
"""By name, what makes so many questions from a seed."""
