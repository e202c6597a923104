"""Several processes that train one network: each takes its rows of every batch, and gradients are added up.

Gradients go through `torch.distributed` by hand, and not through DistributedDataParallel: a step reaches only the
adapters of the blocks that its sub-network keeps, and what no process reached must stay without a gradient, for AdamW
to leave it alone as one process would. Every process draws the same sub-networks, from the seed, and takes the same
step.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from nas_engine.errors import NasEngineError
from nas_engine.training.answers import WHOLE, BatchFraction

T = TypeVar("T")
_STARTED_BY = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what torchrun and accelerate launch set
_SHARDED_BY = "ACCELERATE_USE_FSDP"  # what accelerate launch sets where it is configured so


def started_processes() -> int:
    """How many processes there are that torchrun or `accelerate launch` started as this one, itself included."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    started = all(name in os.environ for name in _STARTED_BY)
    return int(os.environ.get("WORLD_SIZE", "1")) if started else 1


def shards_by_accelerate() -> bool:
    """Whether accelerate is configured to shard what it is given."""
    return os.environ.get(_SHARDED_BY, "").lower() in ("1", "true", "yes", "on")


def require_whole(models: Sequence[nn.Module], sharded: bool) -> None:
    """Check that each process holds whole networks, and that nobody else is to shard them.

    Args:
        models: that train together.
        sharded: whether their frozen weights are then spread over processes here.

    Raises:
        ValueError: one is in parts, or accelerate was to shard it.
    """
    # Empty is what an interrupted healing leaves of embeddings that it shared.
    parameters = [parameter for model in models for parameter in model.parameters()]
    if any(hasattr(parameter, "device_mesh") or not parameter.numel() for parameter in parameters):
        raise ValueError(
            "the network is in parts, spread over processes by FSDP or by a sharded training that was interrupted; "
            "load it anew, and let train(…, sharded=True) spread it."
        )
    if not sharded and shards_by_accelerate():
        raise ValueError(
            "accelerate is configured to shard the network (FSDP), and here each process holds the whole one; give "
            "sharded=True, which spreads the frozen base over the processes, or start with accelerate's multi-GPU "
            "setting or torchrun."
        )


class Ranks:
    """The processes that train together, and which of them this one is.

    Args:
        rank: of this process, from 0.
        size: how many there are; with 1, nothing is sent.
        device: where tensors that are sent are put.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size, self.device = rank, size, device or torch.device("cpu")

    @classmethod
    def joined(cls, device: torch.device) -> Ranks:
        """The processes of the group that there is, or that torchrun or `accelerate launch` started this process for.

        Args:
            device: where the network is.
        """
        if not dist.is_available():
            return cls()
        if not dist.is_initialized():
            if started_processes() < 2:
                return cls()
            dist.init_process_group()
            atexit.register(_leave)
        return cls(dist.get_rank(), dist.get_world_size(), device)

    @property
    def first(self) -> bool:
        """Whether this process is the one that shows a bar and writes files."""
        return self.rank == 0

    def require_same(self, identity: Mapping[str, Any], batch_size: int) -> None:
        """Check that all processes are about to train the same network in the same way, and that each has a row.

        Raises:
            ValueError: they are not, with what differs; or there are more processes than examples in a batch.
        """
        if batch_size < self.size:
            raise ValueError(
                f"batch_size is {batch_size}, for {self.size} processes; each takes its rows of a batch, so give at "
                f"least {self.size}."
            )
        if self.size == 1:
            return
        given: list[Any] = [None] * self.size
        dist.all_gather_object(given, {key: repr(value) for key, value in identity.items()})
        for rank, other in enumerate(given):
            for key, value in given[0].items():
                if other.get(key) != value:
                    raise ValueError(
                        f"{key} is {value} in process 0 and {other.get(key)} in process {rank}; all processes must "
                        "train the same network on the same examples."
                    )

    def own(self, indices: Sequence[int]) -> Sequence[int]:
        """This process's rows of a batch, which are alike in length for all of them."""
        return indices[self.rank :: self.size]

    def part(self, indices: Sequence[int], labelled: Sequence[int], tokens: Sequence[int]) -> BatchFraction:
        """How much of the batch of examples at `indices` this process has.

        Args:
            labelled: scored tokens of each example.
            tokens: of each.
        """
        if self.size == 1:
            return WHOLE
        mine = self.own(indices)
        of_all, of_mine = ([sum(counts[i] for i in rows) for counts in (labelled, tokens)] for rows in (indices, mine))
        return BatchFraction(*(own / whole for own, whole in zip(of_mine, of_all, strict=True)))

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all gradients. One that some process lacks counts as zero there; one that
        none has, as in blocks that are skipped, stays missing.
        """
        if self.size == 1:
            return
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=self.device)
        dist.all_reduce(there, dist.ReduceOp.MAX)
        reached = [p for p, anywhere in zip(parameters, there.tolist(), strict=True) if anywhere]
        if not reached:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).float().flatten() for p in reached])
        dist.all_reduce(flat)
        for parameter, total in zip(reached, flat.split([p.numel() for p in reached]), strict=True):
            parameter.grad = total.view_as(parameter).to(parameter.dtype)

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """The sum over processes of each number."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(number) for number in total]

    def from_first(self, made: Callable[[], T]) -> T:
        """What `made` gives in process 0, which alone calls it; what it raises there is raised everywhere."""
        if self.size == 1:
            return made()
        said: list[Any] = [None, None]
        raised: NasEngineError | OSError | None = None
        if self.first:
            try:
                said[0] = made()
            except (NasEngineError, OSError) as error:
                said[1] = raised = error
        dist.broadcast_object_list(said)
        if said[1] is not None:
            raise said[1] if raised is None else raised
        result: T = said[0]
        return result

    def tensors_of_first(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Process 0's tensors, in every process."""
        if self.size == 1:
            return dict(own)
        kinds = self.from_first(lambda: {name: (tuple(t.shape), t.dtype) for name, t in own.items()})
        found = {}
        for name, (shape, dtype) in kinds.items():
            sent = own[name].detach().to(self.device).contiguous() if self.first else None
            found[name] = torch.empty(shape, dtype=dtype, device=self.device) if sent is None else sent
            dist.broadcast(found[name], 0)
        return found


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
