"""What a job's heads, channels and widths are fitted to: which texts, and told, how many and in which scripts.

They are the first that are learned, or a mix with what the model writes by itself, kept in the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path

from evaluators import Labelled
from evaluators.classification.labelled import Learnable
from evaluators.documents import read_document
from evaluators.text.examples import Example, TextPair, tokenized
from evaluators.text.positions import most_positions
from evaluators.whole_file import replacing
from nas_engine.data import DataSplits
from nas_engine.data.admission import as_written
from nas_engine.errors import CompressionError, LedgerError
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.page.summary import CalibrationTexts
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.calibration import MOST_TOKENS
from nas_engine.texts.examples import tokenize
from nas_engine.texts.generations import generations
from nas_engine.texts.labelled import Learned
from nas_engine.texts.scripts import scripts_of
from nas_engine.training.settings import TrainingSettings
from nas_engine.training.trainer import calibration_tokens

TEXT_COUNT = 512  # where no sub-networks take turns
GENERATED = "generated.json"
NEW_TOKENS = 64  # of a text that the model writes


@dataclass(frozen=True)
class _Generated:
    """What ``generated.json`` holds: texts, and of which base, seed and prompts they are."""

    made_with: list[str | int]
    texts: list[Example]


def calibration_texts(
    supernet: SuperNetwork, data: DataSplits, settings: JobSettings, folder: Path, progress: bool
) -> tuple[list[Learnable], list[Example]]:
    """The task's own texts, and those that the model writes, which a killed job finds again.

    Args:
        supernet: untrained, so that its largest sub-network is the model as it was given.
        data: of the job.
        settings: of the job.
        folder: of the run.
        progress: show a bar.

    Raises:
        LedgerError: what is kept there is damaged.
        CompressionError: the settings ask for texts of its own, and it writes none that it reads.
    """
    own = list(data.train[:TEXT_COUNT])
    count = round(settings.generated_share * len(own))
    writes = not any(isinstance(example, Labelled) for example in own)
    if not count or not writes or not (supernet.units or settings.compresses):
        return own, []
    file = folder / GENERATED
    made_with: list[str | int] = [supernet.base_fingerprint, settings.seed, count, data.digest]
    if file.exists():
        refusal = f"{file} is damaged; delete it, to have them written anew"
        kept = read_document(file, _Generated, LedgerError, refusal)
        if kept.made_with == made_with:
            return own[: len(own) - count], kept.texts
    # Templates write what opens a text; so does the tokenizer.
    prompts = [e.prompt.removeprefix(data.opening) for e in own if not isinstance(e, Labelled)]
    model = supernet.largest.model
    try:
        drawn = generations(model, supernet.tokenizer, prompts, count, NEW_TOKENS, settings.seed, progress)
        written = _read_again([Example(f"{data.opening}{text.prompt}", text.completion) for text in drawn], supernet)
    except CompressionError:
        if settings.generated is not None:
            raise
        return own, []  # nobody asked for it
    with replacing(file) as unfinished:
        unfinished.write_text(json.dumps(asdict(_Generated(made_with, written))) + "\n", encoding="utf-8")
    return own[: len(own) - count], written


def _read_again(texts: Sequence[Example], supernet: SuperNetwork) -> list[Example]:
    """Those that the model reads: what it wrote may take more tokens than it was written in, behind a long prompt too.

    Raises:
        CompressionError: it reads none of them.
    """
    most = min(most_positions(supernet.model) or MOST_TOKENS, MOST_TOKENS)
    rows = tokenized(texts, supernet.tokenizer)
    kept = [text for text, row in zip(texts, rows, strict=True) if row.spans and len(row.tokens) <= most]
    if not kept:
        raise CompressionError(
            f"none of the {len(texts)} texts that the model wrote is of at most {most} tokens; leave generated out."
        )
    return kept


def told_in_words(found: CalibrationTexts) -> str:
    """What a line says of the calibration texts."""
    scripts = ", ".join(f"{100 * share:.3g} % {name}" for name, share in found.scripts.items())
    own, kind = found.texts - found.generated, found.kind.replace("_", " ")
    parts = [f"the first {own} texts that are learned ({kind})"] if own else []
    parts += [f"{found.generated} that the model wrote by itself"] if found.generated else []
    return f"calibration: {' and '.join(parts)}, {found.tokens} tokens; letters: {scripts or 'none'}"


def calibration_of(
    supernet: SuperNetwork,
    data: DataSplits,
    learned: Sequence[Learned],
    written: Sequence[TextPair],
    settings: JobSettings,
) -> CalibrationTexts | None:
    """What is used; None where nothing has an order and nothing versions: neither heads, widths, bits nor zeros vary.

    Args:
        supernet: that is calibrated.
        data: of the job.
        learned: its training examples, tokenized.
        written: what the model wrote by itself.
        settings: of the job.
    """
    if not (supernet.units or settings.compresses):
        return None
    lengths = [len(example.tokens) for example in learned]
    count = min(TEXT_COUNT, len(lengths))
    if written:
        count -= round(settings.generated_share * count)
    elif settings.training is not None and not settings.compresses:
        wanted = calibration_tokens(settings.refit and supernet.can_refit)
        count = next((i for i, tokens in enumerate(accumulate(lengths), 1) if tokens >= wanted), len(lengths))
    texts = [_text(example) for example in (*data.train[:count], *written)]
    of_written = tokenize(written, supernet.tokenizer, TrainingSettings.max_tokens) if written else []
    tokens = sum(lengths[:count]) + sum(len(example.tokens) for example in of_written)
    return CalibrationTexts(data.kind, count + len(written), tokens, scripts_of(texts), len(written))


def _text(example: Learnable) -> str:
    if isinstance(example, Labelled):
        return f"{example.text} {example.second or ''}"
    return as_written(example)
