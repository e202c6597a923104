"""What a training step of a super-network costs beside one of PEFT's LoRA, in time and memory.

The same model, targets, largest rank, batches and optimizer; the steps take turns in one process, in an order that
turns round every time, and the ratios are medians over pairs. Mode A makes ranks elastic, Mode B ranks and MLP widths,
both with a sub-network drawn uniformly at random for every step. Memory is the peak of one step above what lies idle,
on the CPU from the allocator's own events.

Run as ``python -m benchmarks.training_overhead [--quick] [--steps N]``.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedModel

from benchmarks._common import arguments, batch_of, load, print_json, texts
from nas_engine import SuperNetwork
from search_spaces import SpaceTemplate, lora_rank, mlp_width

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
RANKS, WIDTHS = (32, 24, 16), (1.0, 0.875, 0.75, 0.625, 0.5)
Step = Callable[[int], float]


def stepper(model: nn.Module, batches: list[dict[str, Tensor]], before: Callable[[int], None]) -> Step:
    """One optimizer step on a batch, and its loss; the same code for every contestant."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-4)

    def step(i: int) -> float:
        before(i)
        loss = model(**batches[i % len(batches)], use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    model.train()
    return step


def ours(quick: bool, space: SpaceTemplate, batches: list[dict[str, Tensor]], largest: bool = False) -> Step:
    """A super-network's step on a random sub-network, or on the largest at every step."""
    model, tokenizer = load(quick)
    supernet = SuperNetwork.from_pretrained(model, space, tokenizer, alpha=64.0)
    supernet.order_by_importance(batches[:1])
    genomes = supernet.space.sample(np.random.default_rng(0), 1000)
    before = (lambda i: None) if largest else lambda i: supernet.activate_genome(genomes[i])
    return stepper(supernet.model, batches, before)


def peft(quick: bool, batches: list[dict[str, Tensor]]) -> Step:
    """PEFT's step at the largest rank."""
    model: PreTrainedModel = load(quick)[0]
    config = LoraConfig(r=max(RANKS), lora_alpha=64, target_modules=[f"{name}_proj" for name in TARGETS])
    return stepper(get_peft_model(model, config), batches, lambda i: None)


def in_turns(steps: dict[str, Step], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds and losses of every contestant, by round; the first is warm-up and left out."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name in list(steps) if i % 2 else reversed(list(steps)):
            started = time.perf_counter()
            loss = steps[name](i)
            if i:
                seconds[name].append(time.perf_counter() - started)
            losses[name].append(loss)
    return seconds, losses


def peak_bytes(step: Step, i: int) -> int:
    """The most memory that one step holds above what was held before."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step(i)
        return torch.cuda.max_memory_allocated() - held
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(i)
    changes = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
    return int(held.max())


def ratio(seconds: dict[str, list[float]], name: str) -> float:
    """The median over rounds of a contestant's time over PEFT's of the same round."""
    return round(statistics.median(a / b for a, b in zip(seconds[name], seconds["peft"], strict=True)), 4)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, help="timed steps of each (12; 6 with --quick)")
    given = parser.parse_args()
    rounds = given.steps or (6 if given.quick else 12)
    tokenizer = load(given.quick)[1]
    lines = texts(None, 16, 1)[0]
    batches = [batch_of([line[:400] for line in lines[k : k + 4]], tokenizer) for k in range(0, 16, 4)]
    for batch in batches:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    ranks = lora_rank(RANKS, TARGETS)
    steps = {
        "peft": peft(given.quick, batches),
        "mode_a": ours(given.quick, ranks, batches),
        # At its largest rank at every step Mode A is plain LoRA: what elastic layers themselves cost.
        "mode_a_largest": ours(given.quick, ranks, batches, largest=True),
        "mode_b": ours(given.quick, ranks + mlp_width(WIDTHS), batches),
    }
    seconds, losses = in_turns(steps, rounds)
    memory = {name: peak_bytes(step, rounds) for name, step in steps.items()}
    print_json(
        {
            **{f"{name}_time_ratio": ratio(seconds, name) for name in steps if name != "peft"},
            **{f"{name}_memory_ratio": round(memory[name] / memory["peft"], 4) for name in steps if name != "peft"},
            "peft_step_seconds": round(statistics.median(seconds["peft"]), 4),
            "peft_step_megabytes": round(memory["peft"] / 1e6, 1),
            "last_losses": {name: round(statistics.fmean(values[-4:]), 4) for name, values in losses.items()},
            "steps": rounds,
        }
    )


if __name__ == "__main__":
    main()
