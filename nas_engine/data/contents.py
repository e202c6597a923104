"""What a row says once its columns are understood, and what makes two rows the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evaluators import Labelled
from evaluators.multiple_choice.questions import Question
from evaluators.text.examples import Example


@dataclass(frozen=True)
class Conversation:
    """Messages in turns.

    Args:
        messages: as chat templates read them, each with a role.
        learned: of every message, whether it is an answer that is learned and scored.
        tools: JSON schemas of what the model may call.
    """

    messages: tuple[Mapping[str, Any], ...]
    learned: tuple[bool, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Document:
    """A plain text."""

    text: str


Content = Question | Example | Conversation | Document | Labelled


@dataclass(frozen=True)
class Item:
    """A row that was understood.

    Args:
        row: its number in its file, from 0.
        content: what it says.
    """

    row: int
    content: Content

    @cached_property
    def asked(self) -> str:
        """What is asked, but for case and white space: rows that ask the same are never in two splits.

        A question's text, a prompt, what everybody but the assistant says, all of a plain text, or what has a label.
        """
        return _normalized(_asked(self.content))

    @cached_property
    def said(self) -> str:
        """All of it, but for case and white space: two rows of which that is the same are one row twice."""
        return _normalized(_said(self.content))


def _normalized(text: str) -> str:
    return " ".join(text.split()).casefold()


def _asked(content: Content) -> str:
    match content:
        case Question():
            return content.question
        case Example():
            return content.prompt if content.prompt.strip() else content.completion
        case Document():
            return content.text
        case Labelled():
            return json.dumps([content.text, content.second])
        case Conversation():
            others = [message for message in content.messages if message["role"] != "assistant"]
            return json.dumps(others or content.messages, sort_keys=True)


def _said(content: Content) -> str:
    match content:
        case Question():
            return json.dumps([content.question, content.choices, content.answer])
        case Example():
            return json.dumps([content.prompt, content.completion])
        case Document():
            return content.text
        case Labelled():
            return json.dumps([content.text, content.second, content.label])
        case Conversation():
            return json.dumps([content.messages, content.learned, content.tools], sort_keys=True)
