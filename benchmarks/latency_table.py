"""How well a latency table predicts sub-networks that it has not seen, and how well measured latencies repeat.

Widths, heads and whole blocks vary, and adapter ranks, which merging takes out. The table is calibrated, then random
sub-networks of another seed are timed. Errors are relative: `mean_error` of the predicted ratio to the largest
sub-network, timed in turns with it; `mean_error_ms` of the predicted milliseconds, with the machine's drift since the
calibration in them. `repeatability` is the largest minus the smallest of several measurements of one sub-network, each
a ratio to the reference, over their median.

Run as ``python -m benchmarks.latency_table [--quick] [--phase decode]``.
"""

from __future__ import annotations

import statistics
import time
from typing import get_args

import numpy as np
import torch

from benchmarks._common import arguments, load, print_json
from evaluators import Latency, LatencyTable, Phase
from nas_engine import SuperNetwork
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width

SPACE = (
    lora_rank((32, 24, 16))
    + mlp_width((1.0, 0.875, 0.75, 0.625, 0.5))
    + attention_heads((1.0, 0.67, 0.34))
    + layer_skip()
)


def repeatability(latency: Latency, supernet: SuperNetwork, times: int) -> float:
    """The range of repeated measurements of the middle sub-network, as a fraction of their median."""
    subnet = supernet.subnetwork(supernet.space.configuration(supernet.space.median))
    ratios = [latency(subnet).value for _ in range(times)]
    return (max(ratios) - min(ratios)) / statistics.median(ratios)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--phase", choices=get_args(Phase), default="prefill")
    parser.add_argument("--threads", type=int, help="CPU threads; 2, or 1 with --quick")
    given = parser.parse_args()
    threads = given.threads or (1 if given.quick else 2)
    model, tokenizer = load(given.quick)
    supernet = SuperNetwork.from_pretrained(model, SPACE, tokenizer)
    unseen, samples, tokens = (3, 2, 16) if given.quick else (30, 20, 128)
    latency = Latency(tokens=tokens, phase=given.phase, threads=threads, repeats=3 if given.quick else 10)

    started = time.perf_counter()
    table = LatencyTable.calibrate(supernet, latency, samples=samples, seed=0)
    calibration_seconds = time.perf_counter() - started

    genomes = supernet.space.sample(np.random.default_rng(1), unseen)
    subnets = [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]
    frame = table.validate(subnets, supernet.largest, latency.repeats)
    print(frame.round(3).to_string())
    started = time.perf_counter()
    for subnet in subnets:
        table.predict(subnet)
    prediction_ms = 1e3 * (time.perf_counter() - started) / unseen

    in_turns = Latency(
        tokens=tokens,
        phase=given.phase,
        threads=threads,
        repeats=3 if given.quick else 20,
        reference=supernet.largest,
    )
    errors = frame["ratio_error"].abs()
    print_json(
        {
            "device": table.device,
            "threads": table.threads,
            "torch": torch.__version__,
            "phase": given.phase,
            "unseen": unseen,
            "mean_error": round(errors.mean(), 4),
            "max_error": round(errors.max(), 4),
            "bias": round(frame["ratio_error"].mean(), 4),
            "mean_error_ms": round(frame["error"].abs().mean(), 4),
            "spearman": round(frame["predicted_ratio"].corr(frame["measured_ratio"], method="spearman"), 4),
            "calibration_seconds": round(calibration_seconds, 1),
            "prediction_ms": round(prediction_ms, 3),
            "repeatability": round(repeatability(in_turns, supernet, 3 if given.quick else 5), 4),
        }
    )


if __name__ == "__main__":
    main()
