"""Conversations out of rows: lists of messages, as OpenAI's and Hugging Face's data sets or ShareGPT have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.documents import decoded
from nas_engine.data.contents import Conversation
from nas_engine.data.sources import Row
from nas_engine.errors import TaskError

_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {"human": "user", "gpt": "assistant", "observation": "tool"}  # and those of _ROLES
Message = dict[str, Any]


def from_messages(row: Row, column: str) -> Conversation | None:
    """A row's `column` of messages, its `tools`, and its `system` text where there is one; None where nothing answers.

    Raises:
        TaskError: a message of another form; the row is named.
    """
    messages, weights = _messages(row, column)
    system = row.fields.get("system")
    if isinstance(system, str) and system.strip() and (not messages or messages[0]["role"] != "system"):
        messages, weights = [{"role": "system", "content": system}, *messages], [True, *weights]
    return _conversation(row, messages, weights)


def from_prompt_and_completion(row: Row) -> Conversation | None:
    """A row whose prompt and completion are lists of messages, of which the completion's answers are learned."""
    asked, _ = _messages(row, "prompt")
    answers, weights = _messages(row, "completion")
    return _conversation(row, [*asked, *answers], [False] * len(asked) + weights)


def from_pair(row: Row, asked: str, answer: str) -> Conversation:
    """A question and its answer as a conversation of two turns."""
    messages: list[Message] = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer.strip()}]
    return Conversation(tuple(messages), (False, True))


def _conversation(row: Row, messages: Sequence[Message], weights: Sequence[bool]) -> Conversation | None:
    # An answer to nothing, and one that says nothing, teach nothing.
    learned = tuple(
        message["role"] == "assistant" and weight and i > 0 and bool(_says(message))
        for i, (message, weight) in enumerate(zip(messages, weights, strict=True))
    )
    if not any(learned):
        return None
    return Conversation(tuple(messages), learned, tuple(_listed(row, "tools")))


def _says(message: Message) -> bool:
    return bool(str(message.get("content") or "").strip() or message.get("tool_calls"))


def _messages(row: Row, column: str) -> tuple[list[Message], list[bool]]:
    """The messages of a column, and which of them count."""
    messages, weights = [], []
    for number, given in enumerate(_listed(row, column), start=1):
        where = f"{row.where}, {column}, message {number}"
        if not isinstance(given, Mapping):
            raise TaskError(f"{where} is {str(given)[:60]!r}; give an object with role and content.")
        message = {name: value for name, value in given.items() if value is not None}
        if "from" in message:
            message["role"] = message.pop("from")
            message["content"] = message.pop("value", "")
            message["role"] = _SHAREGPT.get(message["role"], message["role"])
        if message.get("role") not in _ROLES:
            raise TaskError(
                f"{where} has the role {message.get('role')!r}; roles are {', '.join(_ROLES)}, and with from and "
                f"value {', '.join(_SHAREGPT)}."
            )
        weights.append(message.pop("weight", 1) != 0)
        message["content"] = _content(message.get("content", ""), where)
        messages.append(message)
    return messages, weights


def _content(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    raise TaskError(f"{where} has the content {str(content)[:60]!r}; give a text: images and sounds are not read.")


def _listed(row: Row, column: str) -> list[Any]:
    """A column that holds a list, or the JSON text of one, as tables and many data sets have it."""
    value = row.fields.get(column)
    if isinstance(value, str) and value.strip():
        value = decoded(value, TaskError, f"{row.where}, {column}")
    if value is None or value == "":
        return []
    if not isinstance(value, list):
        raise TaskError(f"{row.where} has {str(value)[:60]!r} as {column}; give a list.")
    return value
