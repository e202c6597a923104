"""What processes that train together do, alone or as one of several."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nas_engine import Distillation, SuperNetwork, Teacher, heal, train
from nas_engine.training import Example
from search_spaces import SpaceTemplate
from tests.supernets import EVERY_DIMENSION, supernetwork
from tests.tiny import tiny_llama

EXAMPLES = [Example(f"{a} + {b * b * b} =", f" {a + b * b * b}") for a in range(6) for b in range(6)]
STEPS: dict[str, Any] = {"batch_size": 5, "accumulation": 2, "learning_rate": 1e-2, "progress": False}


def join(rank: int, size: int, port: int) -> None:
    """Say what torchrun says to a process that it starts."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)


def taught(space: SpaceTemplate = EVERY_DIMENSION) -> tuple[SuperNetwork, Teacher]:
    """A super-network in which blocks are skipped, after plain LoRA, and the teacher that this left."""
    supernet = supernetwork(tiny_llama(), space)
    train(supernet, EXAMPLES, steps=2, strategy="largest", **STEPS)
    return supernet, Teacher.of(supernet)


def everything(folder: Path, sharded: bool = False) -> None:
    """Plain LoRA, random sub-networks with a teacher, in-place distillation, healing; into `folder`.

    Where the base is sharded, activations are computed anew too, for which weights are gathered once more.
    """
    rank = int(os.environ.get("RANK", 0))
    supernet, teacher = taught()
    learns: dict[str, Any] = {
        "teacher": teacher,
        "distillation": Distillation(0.5, 2.0, hidden=0.1),
        "sharded": sharded,
        "gradient_checkpointing": sharded,
    }
    report = train(supernet, EXAMPLES, steps=4, refit=True, checkpoint=folder / "training", **learns, **STEPS)
    train(supernet, EXAMPLES, steps=2, strategy="sandwich", distill=True, sharded=sharded, **STEPS)
    save_file(supernet.state(), folder / f"supernet-{rank}.safetensors")
    space = supernet.space
    kept = space.configuration(space.largest) | {"layers.1.attention.keep": 0, "layers.0.mlp.width": 24}
    for until in (2, None):  # stopped, and gone on with from the checkpoint
        healed = heal(
            supernet.subnetwork(kept), EXAMPLES, steps=4, until=until, checkpoint=folder / "healing", **learns, **STEPS
        )
    save_file(dict(healed.model.state_dict()), folder / f"healed-{rank}.safetensors")
    (folder / f"losses-{rank}.json").write_text(json.dumps([report.losses, healed.losses]))


def one_of(rank: int, size: int, port: int, folder: Path, sharded: bool = False) -> None:
    """`everything`, as one of `size` processes."""
    join(rank, size, port)
    everything(folder, sharded)


def refused(rank: int, port: int, folder: Path, differing: bool) -> None:
    """Training that must not begin: on other examples in each process, or with fewer examples than processes."""
    join(rank, 2, port)
    examples, settings = (EXAMPLES[rank:], STEPS) if differing else (EXAMPLES, STEPS | {"batch_size": 1})
    try:
        train(supernetwork(tiny_llama()), examples, steps=1, **settings)
    except ValueError as error:
        (folder / f"error-{rank}.txt").write_text(str(error))
