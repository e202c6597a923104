"""A tokenizer as llama.cpp reads it: copied from another GGUF file, or written from a BPE, of bytes or of pieces."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from nas_engine.deploy.sentencepiece_bpe import prefixes_space, scores_of
from nas_engine.errors import ExportError

# llama.cpp knows how text is split before its merges by names alone. Here they are found by what splits it in
# transformers: whether single digits are split off, and the regular expression, None for the one of GPT-2.
_GPT2 = None
_LLAMA3 = "|".join((
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)", r"[^\r\n\p{L}\p{N}]?\p{L}+", r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*",
    r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
))  # fmt: skip
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPLITS = {(False, _GPT2): "gpt-2", (True, _GPT2): "smollm", (False, _LLAMA3): "llama-bpe", (False, _QWEN2): "qwen2"}


def copy_tokenizer(file: Path, writer: gguf.GGUFWriter, vocabulary: int) -> None:
    """Copy all that `file` says about its tokenizer.

    Raises:
        ExportError: it is no GGUF file, or its vocabulary has another size than the model's.
    """
    try:
        fields = gguf.GGUFReader(file).fields
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} is no GGUF file to take a tokenizer from: {error}.") from error
    tokens = fields.get("tokenizer.ggml.tokens")
    if tokens is None or len(tokens.data) != vocabulary:
        found = "none" if tokens is None else len(tokens.data)
        raise ExportError(
            f"{file} has {found} tokens, and the model {vocabulary}; give the GGUF of the same base model."
        )
    for name, value in fields.items():
        if name.startswith("tokenizer."):
            subtype = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(name, value.contents(), value.types[0], sub_type=subtype)


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, writer: gguf.GGUFWriter, vocabulary: int) -> None:
    """Write a byte-level BPE, or one of SentencePiece that falls back to bytes.

    Raises:
        ExportError: it is something else, or llama.cpp has no name for how it splits text.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state: dict[str, Any] = json.loads(backend.to_str()) if backend is not None else {}
    bpe = state.get("model") or {}
    if bpe.get("type") != "BPE":
        raise ExportError(
            f"the tokenizer is of type {bpe.get('type', type(tokenizer).__name__)}; BPE alone is written: "
            "give the GGUF file of the base model, from which the tokenizer is copied."
        )
    if not bpe["merges"]:
        raise ExportError("the tokenizer merges nothing, and llama.cpp reads no BPE without merges.")
    tokens, kinds = _tokens(tokenizer, state, vocabulary)
    merges = [tuple(pair.split(" ", 1)) if isinstance(pair, str) else tuple(pair) for pair in bpe["merges"]]
    if bpe.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_add_space_prefix(prefixes_space(state))
        kinds = [_kind_of_piece(token, kind, bpe.get("unk_token")) for token, kind in zip(tokens, kinds, strict=True)]
        writer.add_token_scores(scores_of(tokens, merges))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_split(state))
        writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id", None)
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(ids) and ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _kind_of_piece(token: str, kind: gguf.TokenType, unknown: str | None) -> gguf.TokenType:
    if token == unknown:
        return gguf.TokenType.UNKNOWN
    return gguf.TokenType.BYTE if _BYTE.fullmatch(token) else kind


def _split(state: Mapping[str, Any]) -> str:
    """llama.cpp's name of how text is split.

    Raises:
        ExportError: there is none for it.
    """
    found = state.get("pre_tokenizer") or {}
    steps = found.get("pretokenizers", [found])
    digits = any(step.get("type") == "Digits" and step.get("individual_digits") for step in steps)
    patterns = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    byte_level = [step for step in steps if step.get("type") == "ByteLevel"]
    known = len(steps) == digits + len(patterns) + len(byte_level)
    if known and len(byte_level) == 1 and not byte_level[0].get("add_prefix_space") and len(patterns) <= 1:
        pattern = patterns[0] if patterns else _GPT2
        name = _SPLITS.get((digits, pattern))
        if name is not None and bool(byte_level[0].get("use_regex", True)) == (pattern is _GPT2):
            return name
    raise ExportError(
        f"llama.cpp has no name that is known here for how this tokenizer splits text ({json.dumps(found)[:200]}); "
        "give the GGUF file of the base model, from which the tokenizer is copied."
    )


def _tokens(
    tokenizer: PreTrainedTokenizerBase, state: Mapping[str, Any], vocabulary: int
) -> tuple[list[str], list[gguf.TokenType]]:
    """Every row of the embeddings, those that no token has included."""
    names = {number: token for token, number in tokenizer.get_vocab().items()}
    special = {added["id"]: added["special"] for added in state["added_tokens"]}
    if max(names) >= vocabulary:
        raise ExportError(f"the tokenizer has a token {max(names)}, and the model {vocabulary} embeddings.")
    tokens, kinds = [], []
    for number in range(vocabulary):
        kind = gguf.TokenType.NORMAL if number in names else gguf.TokenType.UNUSED
        if number in special:
            kind = gguf.TokenType.CONTROL if special[number] else gguf.TokenType.USER_DEFINED
        tokens.append(names.get(number, f"[unused{number}]"))
        kinds.append(kind)
    return tokens, kinds
