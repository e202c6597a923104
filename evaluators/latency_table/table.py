"""Predicted latency: blocks are calibrated once on a device, and any sub-network's time is the sum of its blocks.

Timing a sub-network takes seconds and an otherwise idle machine; a prediction takes neither. (The idea of a latency
table is that of ProxylessNAS, arXiv 1812.00332, section 3.3, and Once-for-All, arXiv 1908.09791, section 3.4.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from evaluators.checks import require_at_least
from evaluators.documents import read_document
from evaluators.latency.evaluator import Latency
from evaluators.latency.machine import device_name, require_device
from evaluators.latency.workload import Workload
from evaluators.latency_table.block_costs import DecoderCosts, UnknownSizeError
from evaluators.latency_table.calibration import Calibratable, Progress, calibrated_costs, reports_in_turns
from evaluators.latency_table.document import TableDocument
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.whole_file import replacing
from search_spaces import NasEngineError
from search_spaces.fingerprint import fingerprint_of

_FORMAT = 1


class LatencyTableError(NasEngineError, ValueError):
    """A latency table cannot be read, or says nothing about what it was asked."""


@dataclass(frozen=True)
class LatencyTable(EvaluatorDefaults):
    """Predicts the latency of sub-networks, in milliseconds. Made by `calibrate` or `load`.

    All layers are taken to cost alike at equal sizes. Adapters are merged where sub-networks are extracted, so ranks
    cost nothing and are not in the table.

    Args:
        costs: what blocks cost, in milliseconds.
        workload: what was timed.
        device: the device that it was timed on, as its maker calls it.
        device_type: as torch calls it, such as ``cpu``.
        threads: CPU threads that it was timed with.
        dtype: what models were cast to; None left them as they were.
        model: kind and sizes of the model, which all sub-networks share.
        name: column name of the score.
        runtime: where it was timed, None in PyTorch.
    """

    costs: DecoderCosts
    workload: Workload
    device: str
    device_type: str
    threads: int
    dtype: str | None
    model: Mapping[str, Any]
    name: str = "latency"
    runtime: str | None = None
    direction: Direction = "minimize"
    unit: str = "ms"

    computed: ClassVar[bool] = True

    @classmethod
    def calibrate(
        cls,
        supernet: Calibratable,
        latency: Latency | None = None,
        levels: int = 5,
        samples: int = 20,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> LatencyTable:
        """Time sub-networks of `supernet` in turns with the largest, and fit the costs of blocks to their times.

        Timed are even sub-networks, which have one size in all layers, and random ones, without which the table would
        know how blocks run among large neighbours alone.

        Args:
            supernet: whose sub-networks are to be predicted.
            latency: how to time: workload, device, threads, dtype, repeats, warm-up; its reference is not used.
            levels: sizes of each kind of block to time at most, evenly among those that the space offers; costs
                between them are interpolated.
            samples: random sub-networks to time.
            seed: of these.
            progress: is told how many sub-networks are timed, of how many.

        Raises:
            ValueError: `levels` below 2, `samples` below 0, or layers that are mixtures of experts.
            BusyError: other evaluations run on the device.
        """
        require_at_least(2, levels=levels)
        require_at_least(0, samples=samples)
        whole = supernet.subnetwork(supernet.space.configuration(supernet.space.largest))
        if any(layer.experts for layer in whole.layer_sizes):
            raise ValueError(
                "a latency table knows heads and MLP widths, and not how many experts a layer has; time mixtures of "
                "experts by Latency."
            )
        latency = latency or Latency()
        costs = calibrated_costs(supernet, latency, levels, samples, seed, progress)
        device = torch.device(latency.device)
        threads = torch.get_num_threads() if latency.threads is None else latency.threads
        largest = supernet.subnetwork(supernet.space.configuration(supernet.space.largest))
        return cls(
            costs,
            latency.workload,
            device_name(device),
            device.type,
            threads,
            latency.dtype,
            _model(largest),
            runtime=latency.runtime,
        )

    def settings(self) -> Mapping[str, Any]:
        """What was timed, where and how, and a fingerprint of the table."""
        digest = fingerprint_of(self.to_json())
        return {
            **asdict(self.workload),
            "device": self.device,
            "threads": self.threads,
            "dtype": self.dtype or "as extracted",
            "table": digest,
            **({} if self.runtime is None else {"runtime": self.runtime}),
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """The predicted time of `subnet`."""
        return Measurement(self.predict(subnet))

    def predict(self, subnet: Subnetwork) -> float:
        """The time of `subnet` on the table's device, in milliseconds.

        Raises:
            LatencyTableError: `subnet` is of another model, or has a block of a size that the table does not cover.
        """
        asked = _model(subnet)
        for key, value in self.model.items():
            if asked.get(key) != value:
                raise LatencyTableError(
                    f"the latency table was made for a model with {key} {value}, but this one has {asked.get(key)}; "
                    "calibrate a table with this super-network."
                )
        try:
            return self.costs.predict(subnet.layer_sizes)
        except UnknownSizeError as error:
            raise LatencyTableError(
                f"the latency table was made for another space: {error}. Calibrate a table with this super-network."
            ) from error

    def validate(
        self,
        subnets: Sequence[Subnetwork],
        reference: Subnetwork | None = None,
        repeats: int = 10,
        warmup: int = 2,
        progress: Progress | None = None,
    ) -> pd.DataFrame:
        """Time `subnets`, which should not be those that the table was made with, and compare.

        Args:
            subnets: what to time.
            reference: a sub-network that takes turns with them, usually ``supernet.largest``. It adds the columns
                `predicted_ratio`, `measured_ratio` and `ratio_error`, from which the machine's drift since the
                calibration is taken off.
            repeats: timed runs of each.
            warmup: runs before, not timed.
            progress: is told how many are timed, of how many.

        Returns:
            A row for each sub-network, with `predicted` and `measured` milliseconds and the relative `error`, predicted
            over measured less 1.

        Raises:
            LatencyTableError: the table was made on another device, or does not cover a sub-network.
            BusyError: other evaluations run on the device.
        """
        self._require_this_device()
        predicted = np.array([self.predict(subnet) for subnet in subnets])
        latency = Latency(
            **asdict(self.workload),
            repeats=repeats,
            warmup=warmup,
            device=self.device_type,
            threads=self.threads,
            dtype=self.dtype,
            runtime=self.runtime,
        )
        reports = list(reports_in_turns(latency, subnets, reference, progress))
        frame = pd.DataFrame({"predicted": predicted, "measured": [report.median_ms for report in reports]})
        frame["error"] = frame["predicted"] / frame["measured"] - 1
        if reference is not None:
            frame["predicted_ratio"] = predicted / self.predict(reference)
            frame["measured_ratio"] = [report.ratio for report in reports]
            frame["ratio_error"] = frame["predicted_ratio"] / frame["measured_ratio"] - 1
        return frame

    def save(self, path: str | Path) -> Path:
        """Write the table as JSON."""
        path = Path(path)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path, any_device: bool = False, name: str = "latency") -> LatencyTable:
        """The table that `save` wrote.

        Args:
            path: of the file.
            any_device: also take a table of a device other than this machine's, to search here for deployment there.
            name: column name of the score.

        Raises:
            LatencyTableError: the file is missing or no latency table, or was made on another device.
        """
        try:
            saved = read_document(path, TableDocument, LatencyTableError, f"{path} is no latency table of this version")
            table = cls.from_json(asdict(saved), name)
        except LatencyTableError:
            raise
        except ValueError as error:
            raise LatencyTableError(f"{path} is no latency table of this version: {error}.") from error
        if not any_device:
            table._require_this_device()
        return table

    def to_json(self) -> dict[str, Any]:
        """The table as JSON data."""
        return {
            "format": _FORMAT,
            "device": self.device,
            "device_type": self.device_type,
            "threads": self.threads,
            "dtype": self.dtype,
            "workload": asdict(self.workload),
            "model": dict(self.model),
            "milliseconds": self.costs.to_json(),
            **({} if self.runtime is None else {"runtime": self.runtime}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], name: str = "latency") -> LatencyTable:
        """The table that `to_json` described.

        Raises:
            ValueError, KeyError, TypeError: `data` is no table.
        """
        if data["format"] != _FORMAT:
            raise ValueError(f"format is {data['format']!r}, not {_FORMAT}")
        return cls(
            DecoderCosts.from_json(data["milliseconds"]),
            Workload(**data["workload"]),
            str(data["device"]),
            str(data["device_type"]),
            int(data["threads"]),
            data["dtype"],
            dict(data["model"]),
            name,
            data.get("runtime"),
        )

    def _require_this_device(self) -> None:
        try:
            require_device(self.device_type)
            here = device_name(torch.device(self.device_type))
        except ValueError:
            here = f"a machine without {self.device_type}"
        if here != self.device:
            raise LatencyTableError(
                f"the latency table was made on {self.device}, but this is {here}; calibrate one here, or load it with "
                "any_device=True to predict times on that device."
            )


def _model(subnet: Subnetwork) -> dict[str, Any]:
    """What sub-networks of a table have in common."""
    config, layers = subnet.model.config.get_text_config(), subnet.layer_sizes
    return {
        "type": config.model_type,
        "layers": len(layers),
        "hidden size": config.hidden_size,
        "head size": layers[0].head_size,
        "vocabulary": config.vocab_size,
    }
