"""What a job measures before its search and keeps in the run folder: which genes matter, and how long blocks take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evaluators import LatencyTable, LatencyTableError
from evaluators.classification.labelled import Learnable
from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.errors import LedgerError
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.progress import note, progress_bar
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.calibration import calibration_batches
from search_spaces import SearchSpace


def measured_sensitivity(
    supernet: SuperNetwork, examples: Sequence[Learnable], count: int, folder: Path, progress: bool
) -> dict[str, Sequence[float]] | None:
    """What the first `count` examples say of the genes, kept in the run folder for a search that goes on."""
    if not count:
        return None
    file, made_with = folder / "sensitivity.json", (supernet.fingerprint(), count)
    kept = kept_sensitivity(file, made_with, supernet.space) if file.exists() else None
    if kept is not None:
        return kept
    found = supernet.sensitivity(calibration_batches(examples, supernet.tokenizer, count), progress)
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps({"made_with": made_with, "genes": dict(found)}) + "\n", encoding="utf-8")
    return dict(found)


@dataclass(frozen=True)
class _KeptSensitivity:
    made_with: tuple[str, int]
    genes: dict[str, list[float]]


def kept_sensitivity(file: Path, made_with: tuple[str, int], space: SearchSpace) -> dict[str, Sequence[float]] | None:
    """What `file` holds of the genes of `space`; None where it was made with something else.

    Raises:
        LedgerError: it is damaged.
    """
    kept = read_document(file, _KeptSensitivity, LedgerError, f"{file} is damaged; delete it, to measure anew")
    if kept.made_with != made_with:
        return None
    if {name: len(values) for name, values in kept.genes.items()} != {gene.name: len(gene) for gene in space.genes}:
        raise LedgerError(f"{file} holds other genes than this space has; delete it, to measure anew.")
    return dict(kept.genes)


def calibrated_latency(supernet: SuperNetwork, settings: JobSettings, folder: Path, progress: bool) -> LatencyTable:
    """What blocks cost on this machine, timed once in turns with the largest and kept in the run folder."""
    file = folder / "latency_table.json"
    latency = replace(settings.latency, repeats=4, warmup=1)
    if file.exists():
        try:
            table = LatencyTable.load(file)
            table(supernet.subnetwork(supernet.space.configuration(supernet.space.smallest)))
            if (table.workload, table.runtime, table.dtype) == (latency.workload, latency.runtime, latency.dtype):
                return table
        except LatencyTableError as error:
            note(f"Timing blocks anew: {error}", enabled=progress)
    with progress_bar("Timing blocks, in per cent", 100, enabled=progress) as bar:
        done = 0

        def tell(timed: int, of: int) -> None:
            nonlocal done
            bar.advance(100 * timed // of - done)
            done = 100 * timed // of

        table = LatencyTable.calibrate(supernet, latency, samples=8, seed=settings.seed, progress=tell)
    table.save(file)
    return table
