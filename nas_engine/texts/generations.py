"""What a model writes by itself, as calibration texts: drawn from its own distribution, the same for the same seed.

Texts of this kind need no data, and show each layer what the model says when it is asked, not only what it is taught.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from evaluators.text.examples import Example
from evaluators.text.positions import most_positions
from nas_engine.errors import CompressionError
from nas_engine.progress import progress_bar

_ROWS = 32  # that are written at once


@torch.inference_mode()
def generations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    count: int,
    max_new_tokens: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> list[Example]:
    """`count` texts that `model` draws from its own distribution, each after one of `prompts` in turn.

    Those that come to nothing are left out, as where a model ends at once.

    Args:
        model: a causal language model.
        tokenizer: its own.
        prompts: how texts begin; an empty one, or none at all, is the token that begins a text.
        count: how many are drawn.
        max_new_tokens: of one.
        seed: of what is drawn; batches are drawn one after the other, so that fewer texts are the first of more.
        progress: show a bar.

    Raises:
        CompressionError: `count` or `max_new_tokens` below 1, no token that begins a text where one is needed, or no
            text that came to anything.
    """
    if min(count, max_new_tokens) < 1:
        raise CompressionError(f"count is {count} and max_new_tokens is {max_new_tokens}; give at least 1.")
    begun = [prompts[i % len(prompts)] if prompts else "" for i in range(count)]
    rows = [_ids(tokenizer, prompt, model, max_new_tokens) for prompt in begun]
    found: list[Example] = []
    was_training = model.training
    model.eval()
    try:
        with progress_bar("Writing calibration texts", count, enabled=progress) as bar:
            for start in range(0, count, _ROWS):
                batch = rows[start : start + _ROWS]
                drawn = _drawn(model, tokenizer, batch, max_new_tokens, seed + start)
                for prompt, ids in zip(begun[start : start + _ROWS], drawn, strict=True):
                    text = str(tokenizer.decode(ids, skip_special_tokens=True))
                    if text.strip():
                        found.append(Example(prompt, text))
                bar.advance(len(batch))
    finally:
        model.train(was_training)
    if not found:
        raise CompressionError("the model wrote nothing after any of the prompts; take the task's texts alone.")
    return found


def _ids(tokenizer: PreTrainedTokenizerBase, prompt: str, model: PreTrainedModel, new: int) -> list[int]:
    """The last tokens of a prompt, as many as leave room for what is written."""
    ids = list(tokenizer(prompt)["input_ids"]) if prompt else []
    if not ids:
        first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
        if first is None:
            raise CompressionError("the tokenizer has no token that begins or ends a text; give prompts.")
        return [first]
    most = most_positions(model)
    return ids if most is None else ids[-max(1, most - new) :]


def _drawn(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[list[int]], new: int, seed: int
) -> list[list[int]]:
    """What is added to each row."""
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end if end is not None else 0
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])  # (rows, width)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    settings = GenerationConfig(
        max_new_tokens=new, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=end, pad_token_id=pad
    )
    own, model.generation_config = model.generation_config, settings  # `generate` would fill in its sampling
    device = model.device
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            output = model.generate(  # type: ignore[operator]  # torch types a module's attributes as tensors too
                input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings
            )
    finally:
        model.generation_config = own
    added: list[list[int]] = output[:, width:].tolist()
    return [row[: row.index(end)] if end in row else row for row in added]
