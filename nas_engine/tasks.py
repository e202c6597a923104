"""Tasks by name: questions to train on, to search with and to judge by, none of them in two of the three.

A task is made on the spot (``family``, ``chain_sum``), read from JSONL, or taken from a Hugging Face dataset.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from evaluators.multiple_choice.questions import Question, load_questions, split
from nas_engine.errors import TaskError

CHAIN_SUM = "chain_sum"
FAMILY = "family"
HUB_PREFIX = "hf:"
_CHAIN_SUM_LIMIT = 100_000  # of the three million distinct ones, so that drawing them stays quick
_FAMILY_LIMIT = 20_000
_OFFSETS = (-10, -3, -2, -1, 1, 2, 3, 10)
_RELATIONS = (
    *("father", "mother", "son", "daughter", "husband", "wife", "brother", "sister"),
    *("grandfather", "grandmother", "father-in-law", "mother-in-law"),
)


A = TypeVar("A")  # an answer


@dataclass(frozen=True)
class TaskSplits:
    """A task's questions, disjoint by their text.

    Args:
        train: what the super-network learns from.
        validation: what guides the search.
        test: held out: what the chosen sub-networks are judged by.
    """

    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    test: tuple[Question, ...]


def task_splits(name_or_path: str | Path, train: int, validation: int, test: int, seed: int) -> TaskSplits:
    """The splits of a task, the same for the same arguments.

    Args:
        name_or_path: ``family`` or ``chain_sum``; a JSONL file, from which all three are cut; a folder with
            ``train.jsonl`` and ``test.jsonl``; or ``hf:<dataset>`` and ``hf:<dataset>:<configuration>`` with the
            splits train and test.
        train: questions at most; fewer where the task has fewer. Likewise `test`.
        validation: questions cut from the training ones; never from the test set where the task brings one.
        test: as `train`. A training question that the test set has too is left out of training.
        seed: of the questions made, and of which question goes where.

    Raises:
        TaskError: no such task, a missing package or split, or too few questions.
        QuestionFileError: a file has a wrong line, which is named.
    """
    if min(train, validation, test) < 1:
        raise TaskError(f"train, validation and test are {train}, {validation} and {test}; give at least 1 of each.")
    name = str(name_or_path)
    if name in _MAKERS:
        # One shuffled draw: earlier draws hold more of the few short sums than later ones.
        made = _MAKERS[name](train + validation + test, seed)
        random.Random(seed).shuffle(made)
        return TaskSplits(
            tuple(made[:train]), tuple(made[train : train + validation]), tuple(made[train + validation :])
        )
    if name.startswith(HUB_PREFIX):
        learn, judge = _hub_questions(name)
    elif Path(name).is_dir():
        learn, judge = load_questions(Path(name) / "train.jsonl"), load_questions(Path(name) / "test.jsonl")
    elif Path(name).is_file():
        learn, judge = _cut(load_questions(name), test, seed, f"test questions from {name}")
    else:
        raise TaskError(
            f"there is no task {name!r}; give {FAMILY!r}, {CHAIN_SUM!r}, a JSONL file, a folder with train.jsonl and "
            f"test.jsonl, or {HUB_PREFIX}<dataset>."
        )
    held_out = {question.question for question in judge}
    learn = [question for question in learn if question.question not in held_out]
    learn, guide = _cut(learn, validation, seed, f"validation questions from the training ones of {name}")
    judge = random.Random(seed).sample(judge, len(judge))
    return TaskSplits(tuple(learn[:train]), tuple(guide[:validation]), tuple(judge[:test]))


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


_MAKERS: Mapping[str, Callable[[int, int], list[Question]]] = {FAMILY: family, CHAIN_SUM: chain_sum}


def _cut(questions: Sequence[Question], held_out: int, seed: int, what: str) -> tuple[list[Question], list[Question]]:
    try:
        return split(questions, held_out, seed)
    except ValueError as error:
        raise TaskError(f"cannot cut {held_out} {what}, which have {len(questions)}: {error}") from error


def _hub_questions(name: str) -> tuple[list[Question], list[Question]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise TaskError(f"{name!r} needs the package datasets; install it with: pip install datasets.") from error
    dataset, _, configuration = name.removeprefix(HUB_PREFIX).partition(":")
    try:
        splits = load_dataset(dataset, configuration or None)
    except (OSError, ValueError) as error:
        raise TaskError(f"{name!r} cannot be loaded: {error}") from error
    missing = {"train", "test"} - set(splits)
    if missing:
        raise TaskError(f"{name!r} has the splits {', '.join(splits)}, and no {min(missing)}; train and test are used.")
    learn, judge = (questions_from_rows(splits[part], f"{name}, {part}") for part in ("train", "test"))
    return learn, judge


def questions_from_rows(rows: Iterable[Mapping[str, Any]], where: str) -> list[Question]:
    """Questions out of a dataset's rows, in the columns of ARC and OpenBookQA, or of MMLU.

    The first have `question` or `question_stem`, `choices` with `text` and `label`, and the right label as
    `answerKey`; the second `question`, a list of `choices`, and the right one's index as `answer`.

    Raises:
        TaskError: a row of another form; `where` and its number are named.
    """
    return [_question_from_row(row, f"{where}, row {i}") for i, row in enumerate(rows)]


def _question_from_row(row: Mapping[str, Any], where: str) -> Question:
    try:
        text = row["question_stem"] if "question_stem" in row else row["question"]
        choices = row["choices"]
        if isinstance(choices, Mapping):
            return Question(text, tuple(choices["text"]), list(choices["label"]).index(row["answerKey"]))
        return Question(text, tuple(choices), int(row["answer"]))
    except (KeyError, TypeError, ValueError) as error:
        columns = ", ".join(islice(row, 12))
        raise TaskError(
            f"{where} cannot be read as a question ({type(error).__name__}: {error}); it has the columns {columns}. "
            "Give question, choices (text, label) and answerKey, or question, choices and answer."
        ) from error
