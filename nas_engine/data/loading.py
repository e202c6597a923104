"""Data by name, whatever their form: read, understood, cut and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from transformers import PreTrainedTokenizerBase

from evaluators import Labelled
from evaluators.text.encoding import token_ids
from nas_engine.data.admission import Admission
from nas_engine.data.cutting import Cut, cut
from nas_engine.data.forms import Kind
from nas_engine.data.labels import LabelKind, classes_in_words
from nas_engine.data.quality import Answers, Metric, answers_of, metric_of
from nas_engine.data.report import DataReport, SplitReport
from nas_engine.data.sources import Source
from nas_engine.data.splits import DataSplits
from nas_engine.data.splitting import Sizes, Taken
from nas_engine.errors import TaskError

MAX_TOKENS = 1024  # as in training
_LEAST_TOKENS = 8


def load_data(
    source: str | Path | Source,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: int,
    validation: int,
    selection: int = 0,
    test: int,
    seed: int = 0,
    metric: str = "auto",
    kind: str = "auto",
    max_tokens: int = MAX_TOKENS,
    classes: Sequence[str] = (),
) -> DataSplits:
    """Examples to learn from, to guide a search, to compare finalists and to judge by, the same for the same arguments.

    No two splits ask the same (but for case and white space), and each has about as much of each
    class. What is empty, twice there, or longer than `max_tokens` is left out and counted, and so is what a given test
    set asks too.

    Args:
        source: ``family``, ``chain_sum`` or ``docstrings`` (texts with labels), made on the spot; a file (``.jsonl``,
            ``.json``, ``.csv``, ``.tsv``, ``.parquet``, ``.txt``), from which all splits are cut; a folder with
            ``train.*`` and ``test.*``; or ``hf:<dataset>[:<configuration>]`` with the splits train and, unless it is
            to be cut, test. Or what `source_of` read of one.
        tokenizer: of the model; its chat template writes conversations.
        train: examples at most.
        validation: examples, cut from those to learn from, as those of `selection`; two or more.
        test: examples; of a given test set at most. Two or more.
        seed: of the order, and of questions made on the spot.
        metric: ``accuracy``, ``perplexity``, ``exact_match``, ``f1``, ``matthews``, ``pearson`` or ``spearman``;
            ``auto`` takes the first that the kind of data has.
        kind: ``multiple_choice``, ``prompt_completion``, ``chat``, ``text``, ``classification`` or ``regression``;
            ``auto`` finds it by the columns, and by whether all labels are names or whole numbers.
        max_tokens: of an example; plain texts are parted into pieces of so many.
        classes: names of labels in a trained classifier's order, taken where the data have the same; otherwise whole
            numbers come in their order, and names in the alphabet's.

    Raises:
        TaskError: there is no such data, its columns are of no form or of several, a row is wrong (it is named), more
            than half of a split is in another, or too few examples are left.
    """
    _require_arguments(train, validation, selection, test, kind, max_tokens)
    sizes = Sizes(train, validation, selection, test)
    source = source if isinstance(source, Source) else str(source)
    made = cut(source, kind, sizes, seed, Admission(tokenizer, max_tokens), classes)
    chosen = metric_of(made.kind, metric)
    _require_classes(made, chosen)
    examples = {split: tuple(one.example for one in taken.admitted) for split, taken in made.taken.items()}
    return DataSplits(
        source=source.name if isinstance(source, Source) else source,
        digest=made.digest,
        kind=made.kind,
        metric=chosen,
        **examples,
        rows={split: tuple(one.row for one in taken.admitted) for split, taken in made.taken.items()},
        report=DataReport(made.parts, {split: _report(taken, made) for split, taken in made.taken.items()}),
        seed=seed,
        max_tokens=max_tokens,
        answers=_answers(made, chosen),
        opening=_opening(tokenizer),
        classes=made.classes,
    )


def _answers(made: Cut, metric: Metric) -> Answers:
    if made.kind in get_args(LabelKind):
        return Answers(0, ())
    held_out = [one for split, taken in made.taken.items() if split != "train" for one in taken.admitted]
    right = [one.example.completion for one in held_out if not isinstance(one.example, Labelled)]
    # Of a plain text the second half is asked for.
    return answers_of(metric, right, [one.scored // (2 if made.kind == "text" else 1) for one in held_out], made.stop)


def _require_classes(made: Cut, metric: Metric) -> None:
    """A class that no training example has could not be learned."""
    if metric == "f1" and len(made.classes) != 2:
        raise TaskError(
            f"metric is 'f1', which is of two classes, and the data have {len(made.classes)} "
            f"({classes_in_words(made.classes)}); choose accuracy or matthews."
        )
    learned = _by_class(made.taken["train"], made)
    if missing := [name for name in made.classes if name not in learned]:
        raise TaskError(
            f"no training example has the label {missing[0]!r}; give more data, ask for fewer examples of the other "
            "splits, or leave that label out."
        )


def _by_class(taken: Taken, made: Cut) -> dict[str, int]:
    found = Counter(one.example.label for one in taken.admitted if isinstance(one.example, Labelled))
    return {name: found[i] for i, name in enumerate(made.classes) if found[i]}


def _require_arguments(train: int, validation: int, selection: int, test: int, kind: str, max_tokens: int) -> None:
    counts = {"train": (train, 1), "validation": (validation, 2), "selection": (selection, 0), "test": (test, 2)}
    for name, (count, least) in counts.items():
        if count < least or (name == "selection" and count == 1):
            raise TaskError(f"{name} is {count}; give {max(least, 2)} or more examples{' or none' * (not least)}.")
    if kind not in ("auto", *get_args(Kind)):
        raise TaskError(f"kind is {kind!r}; choose one of auto, {', '.join(get_args(Kind))}.")
    if max_tokens < _LEAST_TOKENS:
        raise TaskError(f"max_tokens is {max_tokens}; give at least {_LEAST_TOKENS}.")


def _report(taken: Taken, made: Cut) -> SplitReport:
    admitted = taken.admitted
    tokens, scored = (sum(getattr(one, name) for one in admitted) for name in ("tokens", "scored"))
    scored = 0 if made.kind in get_args(LabelKind) else scored
    return SplitReport(len(admitted), tokens, scored, dict(taken.left_out), _by_class(taken, made))


def _opening(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts before every text, as chat templates write it."""
    begun = token_ids(tokenizer, ["x"])[0][:1]
    return str(tokenizer.bos_token) if tokenizer.bos_token and begun == (tokenizer.bos_token_id,) else ""
