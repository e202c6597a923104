"""Forms of rows: which columns say what kind of data they are, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, Literal

from evaluators.documents import decoded
from evaluators.multiple_choice.questions import Question, prompt_of
from evaluators.text.examples import Example
from nas_engine.data.contents import Content, Document, Item
from nas_engine.data.conversations import from_messages, from_pair, from_prompt_and_completion
from nas_engine.data.labels import LABEL_COLUMNS, TEXT_COLUMNS, Labels
from nas_engine.data.sources import Row, Source
from nas_engine.errors import TaskError

Kind = Literal["multiple_choice", "prompt_completion", "chat", "text", "classification", "regression"]
_SHOWN = 12  # columns in a sentence
# What Stanford's Alpaca was trained with, and many models since.
_ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
)
_WITH_INPUT = ", paired with an input that provides further context"


@dataclass(frozen=True)
class Form:
    """One way to write one kind of data.

    Args:
        kind: of data.
        columns: that it needs; what else there is, is not read.
        read: a row's content; None where it has none.
        stop: what a model that goes on after its answer would begin with.
        asks: a row's question and answer, for pairs; then they can be read as conversations too.
        labels: what they are, where rows have labels.
    """

    kind: Kind
    columns: tuple[str, ...]
    read: Callable[[Row], Content | None]
    stop: tuple[str, ...] = ()
    asks: Callable[[Row], tuple[str, str]] | None = None
    labels: Labels | None = None

    def __str__(self) -> str:
        return " + ".join(self.columns)


def items(rows: Sequence[Row], form: Form) -> Iterator[Item | None]:
    """What every row says; None where it is empty.

    Raises:
        TaskError: a row of another form (it is named).
    """
    for i, row in enumerate(rows):
        content = form.read(row)
        yield None if content is None else Item(i, content)


def form_of(source: Source, kind: str, order: Sequence[str] = ()) -> Form:
    """How the rows of `source` are written.

    Args:
        source: of one form throughout.
        kind: that it has to be, or ``auto``.
        order: of classes, where there are the same.

    Raises:
        TaskError: no form has these columns, several have, or labels are none.
    """
    columns = set(source.columns)
    with_columns = [form for form in _forms(source, kind, order) if columns >= set(form.columns)]
    fitting = [form for form in with_columns if kind in ("auto", form.kind)]
    if kind == "chat" and not fitting:
        fitting = [_as_conversations(form) for form in with_columns if form.asks is not None]
    # What has all the columns of another form and more is that form.
    best = [form for form in fitting if not any(set(form.columns) < set(other.columns) for other in fitting)]
    if len(best) != 1:
        raise TaskError(_refusal(source, kind, best))
    return best[0]


def _forms(source: Source, kind: str, order: Sequence[str]) -> list[Form]:
    forms = list(_FORMS)
    if kind in ("auto", "classification", "regression"):
        forms += _with_labels(source, kind, order)
    # The conversational form of prompts and completions has the columns of the plain one.
    prompt = next((row.fields["prompt"] for row in source.train if row.fields.get("prompt") is not None), None)
    if isinstance(prompt, list):
        forms = [form for form in forms if form.columns != _PROMPT.columns]
        forms.append(Form("chat", _PROMPT.columns, from_prompt_and_completion))
    return forms


def _with_labels(source: Source, kind: str, order: Sequence[str]) -> list[Form]:
    found = []
    for column in LABEL_COLUMNS:
        for texts in (texts for texts in TEXT_COLUMNS if {*texts, column} <= set(source.columns)):
            labels = Labels.of(source, column, kind, order)
            read = partial(labels.read, texts=texts, column=column)
            found.append(Form(labels.kind, (*texts, column), read, labels=labels))
    return found


def _as_conversations(form: Form) -> Form:
    asks = form.asks
    assert asks is not None

    def read(row: Row) -> Content | None:
        asked, answer = asks(row)
        return from_pair(row, asked, answer) if asked.strip() and answer.strip() else None

    return replace(form, kind="chat", read=read)


def _refusal(source: Source, kind: str, found: Sequence[Form]) -> str:
    names = source.columns
    shown = ", ".join(islice(names, _SHOWN)) + (", …" if len(names) > _SHOWN else "")
    said = f"{source.name} has the columns {shown or '(none)'}"
    if not found:
        wanted = "any kind" if kind == "auto" else kind
        return f"{said}, which are no form of {wanted}. {_nearest(names, kind)}Give one of {_allowed()}."
    ways = ", or ".join(f"{form.kind} by {form}" for form in found)
    return f"{said}, which may be read as {ways}; say which by kind=, or leave columns out."


def _nearest(names: Sequence[str], kind: str) -> str:
    """A sentence about the forms that lack one column, where there are any."""
    lacking: dict[str, list[str]] = {}
    for form_kind, columns in _columns():
        missing = [column for column in columns if column not in names]
        if len(missing) == 1 < len(columns) and (kind == "auto" or kind in form_kind):
            lacking.setdefault(missing[0], []).append(f"{form_kind} ({' + '.join(columns)})")
    return "".join(f"For {' or '.join(forms)} there is no {missing}. " for missing, forms in lacking.items())


def _columns() -> Iterator[tuple[str, tuple[str, ...]]]:
    """The columns of every form, with its kind."""
    yield from ((form.kind, form.columns) for form in _FORMS)
    yield from (("classification or regression", (*texts, "label")) for texts in TEXT_COLUMNS)


def _allowed() -> str:
    by_kind: dict[str, list[str]] = {}
    for kind, columns in _columns():
        by_kind.setdefault(kind, []).append(" + ".join(columns))
    return "; ".join(f"{kind}: {' or '.join(forms)}" for kind, forms in by_kind.items())


def _text(row: Row, column: str) -> str:
    value = row.fields.get(column)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise TaskError(f"{row.where} has {str(value)[:60]!r} as {column}; give a text.")


def _prompt_completion(row: Row) -> tuple[str, str]:
    return _text(row, "prompt"), _text(row, "completion")


def _instruction_output(row: Row) -> tuple[str, str]:
    context = _text(row, "input")
    return _text(row, "instruction") + (f"\n\n{context}" if context.strip() else ""), _text(row, "output")


def _question_answer(row: Row) -> tuple[str, str]:
    return _text(row, "question"), _text(row, "answer")


def _read_pair(row: Row) -> Content | None:
    prompt, completion = _prompt_completion(row)
    return Example(prompt, completion) if completion.strip() else None


def _read_instruction(row: Row) -> Content | None:
    instruction, context, output = (_text(row, column) for column in ("instruction", "input", "output"))
    if not instruction.strip() or not output.strip():
        return None
    asked = f"### Instruction:\n{instruction}\n\n"
    if context.strip():
        return Example(f"{_ALPACA.format(_WITH_INPUT)}{asked}### Input:\n{context}\n\n### Response:\n", output)
    return Example(f"{_ALPACA.format('')}{asked}### Response:\n", output)


def _read_answer(row: Row) -> Content | None:
    question, answer = _question_answer(row)
    return Example(prompt_of(question), f" {answer.strip()}") if question.strip() and answer.strip() else None


def _read_text(row: Row) -> Content | None:
    text = _text(row, "text")
    return Document(text) if text.strip() else None


def read_question(row: Row) -> Question:
    """A question with its choices, in the columns of ARC and OpenBookQA, or of MMLU.

    Raises:
        TaskError: the row has another form.
    """
    fields: Mapping[str, Any] = row.fields
    try:
        text = fields["question_stem"] if "question_stem" in fields else fields["question"]
        choices = fields["choices"]
        if isinstance(choices, str):  # of a table
            choices = decoded(choices, ValueError, "choices")
        if not isinstance(text, str):
            raise TypeError(f"the question is {text!r}, not a text")
        if isinstance(choices, Mapping):
            return Question(text, _choices(choices["text"]), _place(fields["answerKey"], list(choices["label"])))
        return Question(text, _choices(choices), _index(fields["answer"]))
    except (KeyError, TypeError, ValueError) as error:
        said = f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error).rstrip(".")
        raise TaskError(
            f"{row.where} cannot be read as a question: {said}. Its columns are "
            f"{', '.join(islice(fields, _SHOWN))}; give question, choices (text, label) and answerKey, or question, "
            "choices and answer, which is the place of the right choice, from 0."
        ) from error


def _place(key: Any, labels: list[Any]) -> int:
    if key not in labels:
        raise ValueError(f"answerKey is {key!r}, and the labels are {', '.join(map(repr, labels))}")
    return labels.index(key)


def _index(answer: Any) -> int:
    whole = isinstance(answer, str) and answer.strip().lstrip("+-").isdecimal()  # as tables have it
    if isinstance(answer, bool) or not (whole or isinstance(answer, int)):
        raise TypeError(f"the answer is {answer!r}, not the place of a choice")
    return int(answer)


def _choices(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(choice, str) for choice in given):
        raise TypeError(f"the choices are {given!r}, not a list of texts")
    return tuple(given)


_QUESTION = ("Question:",)
_INSTRUCTION = ("### Instruction:",)
_PROMPT = Form("prompt_completion", ("prompt", "completion"), _read_pair, asks=_prompt_completion)
_FORMS = (
    Form("multiple_choice", ("question", "choices", "answer"), read_question),
    Form("multiple_choice", ("question", "choices", "answerKey"), read_question),
    Form("multiple_choice", ("question_stem", "choices", "answerKey"), read_question),
    Form("chat", ("messages",), partial(from_messages, column="messages")),
    Form("chat", ("conversations",), partial(from_messages, column="conversations")),
    _PROMPT,
    Form("prompt_completion", ("instruction", "output"), _read_instruction, _INSTRUCTION, _instruction_output),
    # The text of Alpaca's own data set is made of its other columns.
    Form("prompt_completion", ("instruction", "output", "text"), _read_instruction, _INSTRUCTION, _instruction_output),
    Form("prompt_completion", ("question", "answer"), _read_answer, _QUESTION, _question_answer),
    Form("text", ("text",), _read_text),
)
