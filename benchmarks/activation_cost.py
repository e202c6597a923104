"""What it costs to switch a super-network from one random sub-network to another, beside one forward pass.

Run as ``python -m benchmarks.activation_cost [--quick]``; ``--quick`` takes a tiny random Llama,
else it is SmolLM2-135M.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from nas_engine import SuperNetwork
from nas_engine.supernet import family_of
from search_spaces import lonas


def supernetwork(quick: bool) -> SuperNetwork:
    """A super-network over LoNAS's space, three genes a layer."""
    if not quick:
        return SuperNetwork.from_pretrained("smollm2", lonas(multiple_of=8))
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4, vocab_size=64
    )
    model = LlamaForCausalLM(config).eval()
    space = lonas(multiple_of=8).bind(family_of(model).shape(model))
    return SuperNetwork(model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(BPE())), space)


def seconds_of(action, repeats: int) -> float:  # type: ignore[no-untyped-def]
    """The median time of `action(i)`, in seconds."""
    times = []
    for i in range(repeats):
        started = time.perf_counter()
        action(i)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    supernet = supernetwork(quick)
    genomes = supernet.space.sample(np.random.default_rng(0), 200)
    activation = seconds_of(lambda i: supernet.activate_genome(genomes[i]), 200)
    ids = torch.arange(32)[None] % supernet.model.config.vocab_size
    with torch.inference_mode():
        forward = seconds_of(lambda i: supernet.model(ids, logits_to_keep=1), 5)
    figures = {
        "genes": len(supernet.space),
        "activation_ms": round(1e3 * activation, 4),
        "forward_32_tokens_ms": round(1e3 * forward, 3),
        "activation_to_forward": round(activation / forward, 5),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
