"""The main job from a model to a compressed one, as the command line runs it: train, search, choose, save, confirm.

Every stage leaves its result in the run folder and is not repeated when the same job starts again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class JobSettings:
    """What to compress and how long to work at it; the defaults take at most a quarter of an hour on two cores.

    Args:
        folder: of the run; everything that the job makes is below it.
        model: Hugging Face id or folder, or ``smollm2``.
        task: ``chain_sum``, a JSONL file or folder of questions, or ``hf:<dataset>``.
        train: questions to train on; likewise `validation` (guides the search) and `test` (held out).
        tolerance: accuracy that the chosen sub-network may lose on the validation set, as a fraction.
        ranks: adapter ranks to choose from, and `widths`, fractions of the MLPs' intermediate sizes.
        layers_per_gene: consecutive layers that share a rank and a width.
        latency_tokens: prompt length at which prefill is timed, batch 1.
    """

    folder: Path = Path("runs/quickstart")
    model: str = "smollm2"
    task: str = "chain_sum"
    train: int = 4000
    validation: int = 200
    test: int = 1000
    steps: int = 150
    batch_size: int = 16
    learning_rate: float = 5e-4
    strategy: str = "sandwich"
    driver: str = "nsga2"
    evaluations: int = 60
    population: int = 20
    tolerance: float = 0.0
    ranks: tuple[int, ...] = (32, 16)
    widths: tuple[float, ...] = (1.0, 0.75, 0.5)
    layers_per_gene: int = 3
    latency_tokens: int = 128
    seed: int = 0
