"""How much faster extracted sub-networks run than the full model: as their MACs predict, and measured.

Every MLP is cut to the same fraction of its width. Prefill is a prompt of 128 tokens, decode one token after 128; the
models are timed in turns.

Run as ``python -m benchmarks.subnetwork_speedup [--quick]``.
"""

from __future__ import annotations

from typing import Literal

from benchmarks._common import arguments, load, print_json
from evaluators import compare_latency
from nas_engine import Subnetwork, SuperNetwork
from search_spaces import mlp_width

WIDTHS = (1.0, 0.875, 0.75, 0.625, 0.5)
TOKENS = 128


def macs(subnet: Subnetwork, phase: Literal["prefill", "decode"]) -> int:
    """Multiply-accumulates of one forward pass."""
    tokens, past = (TOKENS, 0) if phase == "prefill" else (1, TOKENS)
    return sum(op.macs for op in subnet.operators(batch=1, tokens=tokens, past=past))


def main() -> None:
    """Measure, and print one JSON object."""
    quick = arguments(__doc__).parse_args().quick
    model, tokenizer = load(quick)
    supernet = SuperNetwork.from_pretrained(model, mlp_width(WIDTHS), tokenizer)
    genomes = [[i] * len(supernet.space) for i in range(len(WIDTHS))]
    subnets = [supernet.subnetwork(supernet.space.configuration(genome)) for genome in reversed(genomes)]
    models = [subnet.extract(share_embeddings=True) for subnet in subnets]
    figures = {}
    for phase in ("prefill", "decode"):
        measured = compare_latency(models, tokens=TOKENS, phase=phase, repeats=3 if quick else 20)
        full = macs(subnets[0], phase)
        figures[f"{phase}_speedup"] = {
            f"{100 * width:g}": {
                "predicted": round(full / macs(subnet, phase), 3),
                "measured": round(speedup, 3),
                "stderr": round(error, 3),
            }
            for width, subnet, speedup, error in zip(
                WIDTHS, subnets, measured.speedups, measured.speedup_stderrs, strict=True
            )
        }
    print_json(figures)


if __name__ == "__main__":
    main()
