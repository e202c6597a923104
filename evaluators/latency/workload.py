"""What is timed: one forward pass of a phase of generation, for any model. Knows no clock."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel, StaticCache

from evaluators.checks import require_at_least, require_one_of
from evaluators.latency.timing import Step
from evaluators.text.positions import most_positions

Phase = Literal["prefill", "decode"]

_EAGER_RUNS = 3  # before a capture, so that libraries have allocated and chosen what they will


@dataclass(frozen=True)
class Workload:
    """A forward pass as generation makes it.

    Args:
        batch: sequences at once.
        tokens: length of each; in the decode phase, how many are cached.
        phase: ``prefill`` reads `tokens` tokens into a cache and computes the last one's logits, as generation starts;
            ``decode`` computes one token more after `tokens` cached ones.
        cuda_graphs: the pass is captured once and replayed, which takes the host's work out of it; decoding then fills
            a static cache.

    Raises:
        ValueError: an argument out of range.
    """

    batch: int = 1
    tokens: int = 128
    phase: Phase = "prefill"
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        require_at_least(1, batch=self.batch, tokens=self.tokens)
        require_one_of(get_args(Phase), phase=self.phase)

    def step(self, model: PreTrainedModel) -> Step:
        """One pass of `model` where it is, to be timed in inference mode.

        Raises:
            ValueError: the workload is longer than the model can read, the model is in training mode, or CUDA graphs
                are asked for on another device.
        """
        self.require_readable(model)
        ids = self._input_ids(model)
        if self.cuda_graphs:
            require_cuda(model.device)
        if self.phase == "prefill":
            prefill = partial(model, input_ids=ids, use_cache=True, logits_to_keep=1)
            return _replayed(lambda: prefill, model.device) if self.cuda_graphs else lambda: prefill
        return _replayed(static_decode(model, ids), model.device) if self.cuda_graphs else _decode(model, ids)

    def require_readable(self, model: PreTrainedModel) -> None:
        """Check that `model` can be timed on this.

        Raises:
            ValueError: it is longer than the model can read, or the model is in training mode.
        """
        most = most_positions(model)
        if most is not None and self.tokens + (self.phase == "decode") > most:
            raise ValueError(
                f"tokens is {self.tokens}, but the model reads {most} positions at most; give fewer tokens."
            )
        if model.training:
            raise ValueError("a model is in training mode, which is not how it is deployed; call model.eval() first.")

    def _input_ids(self, model: PreTrainedModel) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        vocabulary = model.config.get_text_config().vocab_size
        return torch.randint(vocabulary, (self.batch, self.tokens), generator=generator).to(model.device)


def require_cuda(device: torch.device) -> None:
    """Check that `device` has CUDA graphs.

    Raises:
        ValueError: it has not.
    """
    if device.type != "cuda":
        raise ValueError(f"cuda_graphs is True, but the device is {str(device)!r}; graphs need a CUDA device.")


def static_decode(model: PreTrainedModel, input_ids: Tensor) -> Step:
    """One token after `input_ids`, of shape (batch, tokens), in a static cache: every pass works on the same memory and
    asks the device for no value, so that a CUDA graph can hold it.
    """
    tokens = input_ids.shape[1]
    cache = StaticCache(config=model.config, max_cache_len=tokens + 1)
    model(input_ids=input_ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    token = input_ids[:, -1:].contiguous()
    run = partial(model, input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)

    def prepare() -> Callable[[], object]:
        for layer in cache.layers:  # back to where the pass starts, for it counts on
            if isinstance(length := getattr(layer, "cumulative_length", None), Tensor):
                length.fill_(tokens)
            if hasattr(layer, "cumulative_length_int"):
                layer.cumulative_length_int = tokens
        return run

    return prepare


def _decode(model: PreTrainedModel, input_ids: Tensor) -> Step:
    filled = DynamicCache(config=model.config)
    model(input_ids=input_ids, past_key_values=filled, use_cache=True, logits_to_keep=1)
    token = input_ids[:, -1:]
    return lambda: partial(model, input_ids=token, past_key_values=_branch(filled), use_cache=True, logits_to_keep=1)


def _branch(cache: Cache) -> Cache:
    """The same cached tokens; what is added to the branch leaves `cache` as it is, for layers grow by concatenation."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _replayed(prepare: Step, device: torch.device) -> Step:
    """The step as a CUDA graph: captured here, replayed at every run."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_EAGER_RUNS):
                prepare()()
        torch.cuda.current_stream().wait_stream(aside)
        graph, run = torch.cuda.CUDAGraph(), prepare()
        with torch.cuda.graph(graph):
            run()

    def replay() -> Callable[[], object]:
        prepare()
        return graph.replay

    return replay
