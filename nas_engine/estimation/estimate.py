"""The stages of a job beside what the device has: as a table, and as a refusal of what cannot fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.table import Table
from transformers import PreTrainedConfig

from nas_engine.errors import EstimateError
from nas_engine.estimation.device import free_bytes, operations_a_second
from nas_engine.estimation.job_size import JobSize
from nas_engine.estimation.stages import Stage, count_stages
from search_spaces import SpaceTemplate


@dataclass(frozen=True)
class Estimate:
    """What a job needs.

    Args:
        stages: in their order.
        device: where it would run.
        free: bytes that are free there.
        speed: additions and multiplications a second, about; None where it was not measured.
    """

    stages: Sequence[Stage]
    device: str
    free: int
    speed: float | None

    @property
    def worst(self) -> Stage:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.bytes)

    @property
    def fits(self) -> bool:
        """Whether every stage fits into the memory that is free."""
        return self.worst.bytes <= self.free

    @property
    def without(self) -> dict[str, int]:
        """By what could be changed, the bytes that the job would need at its peak, about."""
        unhealed = [stage for stage in self.stages if stage.name != "healing"]
        fewer = {
            "with refit=False": [stage.bytes - stage.fits for stage in self.stages],
            "with heal_steps=0": [stage.bytes - stage.finalist for stage in unhealed],
            "with half the batch_size": [
                stage.bytes - (stage.passing / 2 if stage.by_batch else 0) for stage in self.stages
            ],
        }
        return {what: round(max(needed)) for what, needed in fewer.items()}

    def require_fit(self) -> None:
        """Check that every stage fits.

        Raises:
            EstimateError: one does not; how much it needs, and what would need less, is said.
        """
        if self.fits:
            return
        less = sorted(self.without.items(), key=lambda entry: entry[1])
        changes = "; ".join(f"{what}: {_gigabytes(needed)}" for what, needed in less if needed < self.worst.bytes)
        raise EstimateError(
            f"{self.worst.name} needs {_gigabytes(self.worst.bytes)} of memory, and {_gigabytes(self.free)} are free "
            f"on {self.device}. " + (f"It would need, {changes}. " if changes else "")
            + "Change that, take another device, or start with --no-check-memory."
        )  # fmt: skip

    def seconds(self, stage: Stage) -> float | None:
        """About how long a stage takes."""
        return None if self.speed is None else stage.operations / self.speed

    def table(self) -> Table:
        """A row a stage: memory at its peak, what of it stays, and the time."""
        table = Table(title=f"On {self.device}, with {_gigabytes(self.free)} free", caption=self._conclusion())
        table.add_column("stage")
        for title in ("memory", "of it held", "about"):
            table.add_column(title, justify="right")
        for stage in self.stages:
            mark = "" if stage.bytes <= self.free else " does not fit"
            time = _said(self.seconds(stage))
            table.add_row(stage.name + mark, _gigabytes(stage.bytes), _gigabytes(stage.held), time)
        return table

    def _conclusion(self) -> str:
        total = None if self.speed is None else sum(stage.operations for stage in self.stages) / self.speed
        whole = "" if total is None else f"{_said(total)} of arithmetic in all; "
        written = sum(stage.written for stage in self.stages)
        disk = f" {_gigabytes(written)} of disk for what later stages read." if written else ""
        return f"{whole}most memory in {self.worst.name}.{disk} Tensors are counted, not what an allocator keeps."


def estimate(
    config: PreTrainedConfig,
    template: SpaceTemplate,
    work: JobSize,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    target: str | None = None,
    timed: bool = True,
    loaded: int = 0,
) -> Estimate:
    """What a job would need of memory and time, from the model's configuration alone.

    Memory is counted from the code that will run, on tensors without numbers; time follows from the operations and from
    what the device multiplies in a third of a second, and is rough: loading, saving and tokenizing are not in it.

    Args:
        config: of a model of a known family.
        template: of the space.
        work: how much is done.
        dtype: of the weights.
        device: where, such as ``cuda``.
        target: as `SuperNetwork.from_pretrained` takes it.
        timed: whether the device's speed is measured.
        loaded: bytes of the job that are in memory already.

    Raises:
        FamilyError: the family is not supported.
        SpaceError: the space does not fit the model.
    """
    stages = count_stages(config, template, work, dtype, target, device)
    free = free_bytes(device) + loaded
    speed = operations_a_second(device, dtype) if timed else None
    return Estimate(stages, device, free, speed)


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _said(seconds: float | None) -> str:
    if seconds is None or seconds == 0:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
