"""What it costs to switch a super-network from one random sub-network to another, beside one forward pass.

Run as ``python -m benchmarks.activation_cost [--quick]``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from benchmarks._common import arguments, load, print_json
from nas_engine import SuperNetwork
from search_spaces import attention_heads, layer_skip, lonas_space


def seconds_of(action: Callable[[int], object], repeats: int) -> float:
    """The median time of `action(i)`, in seconds."""
    times = []
    for i in range(repeats):
        started = time.perf_counter()
        action(i)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main() -> None:
    """Measure, and print one JSON object."""
    model, tokenizer = load(arguments(__doc__).parse_args().quick)
    # LoNAS's space and every other dimension besides: six genes a layer.
    space = lonas_space(multiple_of=8) + attention_heads((1.0, 0.67, 0.34)) + layer_skip()
    supernet = SuperNetwork.from_pretrained(model, space, tokenizer)
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
    print_json(figures)


if __name__ == "__main__":
    main()
