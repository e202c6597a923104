"""What a space of weight bits or zeros needs before it can be searched: heads and channels in their order, once and for
all, and the versions of every projection in that order, on disk.

What such a job cannot do is refused with the model alone in memory, before anything of this is made.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from evaluators.classification.labelled import Learnable
from evaluators.documents import read_document
from evaluators.whole_file import replacing
from nas_engine.compression.calibration import require_complete
from nas_engine.compression.checkpoint import require_packable
from nas_engine.compression.database import FULL_BITS, LayerDatabase
from nas_engine.compression.database_building import build_database, levels_of
from nas_engine.compression.grid import GridSettings
from nas_engine.compression.quantization import require_unquantized
from nas_engine.compression.sparsification import projections_of
from nas_engine.deploy.targets import target_named
from nas_engine.errors import CompressionError, LedgerError, SettingsError
from nas_engine.estimation.version_stages import versions_size
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.models import load_model, moved
from nas_engine.progress import say
from nas_engine.supernet import SuperNetwork
from nas_engine.supernet.compressed_base import require_whole_groups
from nas_engine.supernet.compression_state import offered_levels
from nas_engine.supernet.dimensions import BITS, DENSITY
from search_spaces import ModuleName, SearchSpace

BASE, VERSIONS = "base", "versions"  # folders of a run
_ORDERED = "base.json"
_ROOM = 1.05  # of what is counted, for headers and scales


def without_versions(space: SearchSpace) -> SearchSpace:
    """What of `space` needs no versions: all but weight bits and zeros."""
    return SearchSpace.of([choice for choice in space.choices if choice.dimension not in (BITS, DENSITY)])


def require_versions(model: PreTrainedModel, space: SearchSpace, settings: JobSettings) -> None:
    """Check that versions of `model` can be made for `space`, and that the job can do with them what it will.

    Args:
        model: as it was loaded.
        space: bound to it, with weight bits or zeros.
        settings: of the job.

    Raises:
        CompressionError: the model is quantized, has experts or several kinds of attention, a width is no whole groups,
            or the disk has no room for the versions.
        SettingsError: an adapter or a target that do not go together with them, a space without the whole model, or
            inputs that are no whole groups.
    """
    require_unquantized(model)
    require_complete(model)
    if settings.adapter is not None:
        raise SettingsError(
            "an adapter is given, and with weight_bits or sparsity the reference is trained here, on a model whose "
            "heads and channels are in another order; leave adapter out.",
            ("adapter",),
        )
    if target_named(settings.target).runtime is not None:
        raise SettingsError(
            f"{settings.target} stores and times all matrices alike, and the space has weight_bits or sparsity; take "
            "the target transformers, or vllm for bits, or leave them out.",
            ("target",),
        )
    for choice in space.choices:
        whole = {BITS: FULL_BITS, DENSITY: 1.0}.get(choice.dimension)
        if whole is not None and choice.values[-1] != whole:
            raise SettingsError(
                f"{choice.name} may be {' or '.join(f'{value:g}' for value in choice.values)}, and never {whole:g}: "
                "the reference is the whole model; let weight_bits offer 16, and sparsity 0.",
                ("space",),
            )
    bits, _ = offered_levels(space)
    if min(bits) < FULL_BITS:
        require_packable(model)
    grid = GridSettings(8, settings.group_size)
    sizes = {}
    for layer, projection, weight in projections_of(model):
        name = str(ModuleName(layer, projection))
        try:
            grid.require_dividing(weight.shape[1], name)
        except CompressionError as error:
            raise SettingsError(str(error), ("group_size",)) from None
        sizes[name] = settings.group_size
    require_whole_groups(model, space, sizes)
    _require_room(model, space, settings)


def _require_room(model: PreTrainedModel, space: SearchSpace, settings: JobSettings) -> None:
    if (settings.folder / VERSIONS).exists():  # begun; what is there need not be written again
        return
    versions = versions_size(model, levels_of(*offered_levels(space)), 0, settings.refit).on_disk
    needed = _ROOM * (versions + sum(p.nbytes for p in model.parameters()))
    settings.folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.folder).free
    if needed > free:
        bits, sparsities = offered_levels(space)
        raise CompressionError(
            f"the versions of all projections at {len(bits)} × {len(sparsities)} levels of bits and zeros take "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in {settings.folder}; offer fewer levels, or "
            "choose another folder."
        )


def with_versions(
    plain: SuperNetwork,
    space: SearchSpace,
    texts: Sequence[Learnable],
    settings: JobSettings,
    folder: Path,
    progress: bool,
) -> SuperNetwork:
    """The super-network of `space`: its base in order and its versions are made in the run folder, or found there.

    Args:
        plain: of what needs no versions, as it was made.
        space: all of it.
        texts: that show what each layer reads.
        settings: of the job.
        folder: of the run.
        progress: show bars.

    Raises:
        LedgerError: the run was begun with another model or other widths.
        CompressionError: it was begun with other levels.
    """
    batches = plain.texts(texts, len(texts))
    base = settings.model
    if plain.units:
        base = str((folder / BASE).resolve())
        made_with = plain.fingerprint()
        if not _is_made(folder, made_with):
            say("Ordering heads and channels", enabled=progress)
            plain.order_by_importance(batches)
            with replacing(folder / _ORDERED) as unfinished:
                unfinished.write_text(json.dumps({"made_with": made_with}) + "\n", encoding="utf-8")
            plain.largest.save_pretrained(folder / BASE)  # adapters say nothing yet
    model, _ = load_model(base)
    bits, sparsities = offered_levels(space)
    database = build_database(
        moved(model, settings.device),
        batches,
        folder / VERSIONS,
        bits,
        sparsities,
        settings.group_size,
        refit=settings.refit,
        progress=progress,
    )
    del model  # before it is loaded once more, to become elastic
    return SuperNetwork.from_pretrained(
        base,
        space,
        plain.tokenizer,
        seed=settings.seed,
        adapter_mode="quantized",
        database=LayerDatabase(database.folder),
        device=settings.device,
        target=settings.target,
    )


@dataclass(frozen=True)
class _Ordered:
    """What ``base.json`` holds: the fingerprint of the super-network that was ordered."""

    made_with: str


def _is_made(folder: Path, made_with: str) -> bool:
    """Whether the base is there already.

    Raises:
        LedgerError: it is another's.
    """
    if not (folder / BASE).is_dir() or not (folder / _ORDERED).exists():
        return False
    kept = read_document(folder / _ORDERED, _Ordered, LedgerError, f"{folder / _ORDERED} is damaged")
    if kept.made_with != made_with:
        raise LedgerError(
            f"{folder / BASE} was put in order from another model, or for other widths, heads or ranks; give those, or "
            "another folder."
        )
    return True
