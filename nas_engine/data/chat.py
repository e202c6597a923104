"""Conversations as a tokenizer's own chat template writes them, and which characters of that are answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from evaluators.text.examples import ScoredText, Span
from nas_engine.data.contents import Conversation
from nas_engine.errors import TaskError

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Llama 3's templates write today's date unless they are given one; a run that goes on tomorrow needs the same texts.
_DATE = "26 Jul 2024"


class UnwritableConversationError(TaskError):
    """The template refuses this conversation, such as one whose roles do not alternate."""


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that `tokenizer` has a chat template.

    Raises:
        TaskError: it has none.
    """
    if not tokenizer.chat_template:
        raise TaskError(
            "the data are conversations, and the model's tokenizer has no chat template: it is no chat model's. Give "
            "an instruction-tuned model, set tokenizer.chat_template, or give prompts with completions."
        )


def templated(conversation: Conversation, tokenizer: PreTrainedTokenizerBase) -> ScoredText:
    """`conversation` by the chat template, its answers scored, each with what ends its turn.

    A template that marks answers (``{% generation %}``) is taken at its word. Of others an answer is what a turn adds
    to the conversation up to it with the generation prompt, up to its last special token: what the model has to write
    itself. Where the last answer ends in no special token, the end-of-text token is added.

    Raises:
        UnwritableConversationError: the template refuses it, or marks no answer in it.
        TaskError: there is no template, or it writes earlier turns otherwise when later ones follow, so that it cannot
            be told what is an answer.
    """
    require_template(tokenizer)
    tools: Any = list(conversation.tools) or None
    template = tokenizer.get_chat_template(tools=tools)
    variables: dict[str, Any] = {"date_string": _DATE} | tokenizer.special_tokens_map

    render: Any = render_jinja_template  # its types are wrong: it gives two lists

    def write(messages: Sequence[Any], prompt: bool = False, marked: bool = False) -> tuple[str, list[Span]]:
        try:
            texts, spans = render(
                conversations=[list(messages)],
                tools=tools,
                chat_template=template,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=marked,
                **variables,
            )
        except (TemplateError, TypeError, KeyError, ValueError) as error:
            raise UnwritableConversationError(" ".join(str(error).split())) from error
        return texts[0], [(start, end) for start, end in spans[0]] if marked else []

    if _MARKER.search(template):
        whole, spans = write(conversation.messages, marked=True)
        scored = _marked(conversation, whole, spans)
    else:
        whole, _ = write(conversation.messages)
        scored = _ended(conversation, whole, _by_prefixes(conversation, whole, write), tokenizer)
    return replace(scored, turn=_last_turn(conversation))


def _last_turn(conversation: Conversation) -> tuple[str, str]:
    """What was said before the last answer that is learned, by a user if one spoke, and that answer."""
    last = max(i for i, learned in enumerate(conversation.learned) if learned)
    before = conversation.messages[:last]
    users = [message for message in before if message["role"] == "user"] or before
    question, answer = (str(message.get("content") or "") for message in (users[-1], conversation.messages[last]))
    return question, answer


def _marked(conversation: Conversation, whole: str, spans: Sequence[Span]) -> ScoredText:
    answers = [flag for flag, message in zip(conversation.learned, conversation.messages, strict=True)
               if message["role"] == "assistant"]  # fmt: skip
    if not all(answers):
        if len(spans) != len(answers):
            raise UnwritableConversationError(f"the template marks {len(spans)} parts of {len(answers)} answers")
        spans = [span for span, learned in zip(spans, answers, strict=True) if learned]
    spans = [span for span in spans if span[0] < span[1]]
    if not spans:
        raise UnwritableConversationError("the template marks no answer in it")
    return ScoredText(whole, tuple(spans))


def _by_prefixes(conversation: Conversation, whole: str, write: Callable[..., tuple[str, list[Span]]]) -> list[Span]:
    spans: list[Span] = []
    for i, learned in enumerate(conversation.learned):
        if not learned:
            continue
        before, _ = write(conversation.messages[:i], prompt=True)
        last = i + 1 == len(conversation.messages)
        after = whole if last else write(conversation.messages[: i + 1])[0]
        if not whole.startswith(after) or not after.startswith(before):
            raise TaskError(
                "the tokenizer's chat template writes earlier turns otherwise when later ones follow, so that it "
                f"cannot be told where answer {len(spans) + 1} of a conversation of {len(conversation.messages)} "
                "messages begins and ends. Give a template that marks answers by {% generation %} … {% endgeneration "
                "%}, or conversations with one answer each."
            )
        spans.append((len(before), len(after)))
    return spans


def _ended(
    conversation: Conversation, whole: str, spans: Sequence[Span], tokenizer: PreTrainedTokenizerBase
) -> ScoredText:
    """`spans` up to the special token that ends each turn: a line break after it is the template's, not the model's."""
    special = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    found = []
    for start, end in spans:
        ends = [at + len(token) for token in special if (at := whole.rfind(token, start, end)) >= 0]
        if start < end:
            found.append((start, max(ends, default=end)))
    if not found:
        raise UnwritableConversationError("the template leaves its answers out")
    closed = any(whole[: found[-1][1]].endswith(token) for token in special)
    if conversation.learned[-1] and not closed and tokenizer.eos_token:
        start, end = found[-1]
        whole, found[-1] = whole[:end] + tokenizer.eos_token, (start, end + len(tokenizer.eos_token))
    return ScoredText(whole, tuple(found))
