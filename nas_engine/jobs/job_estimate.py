"""What a search job will need, counted from its settings, its data and the model's configuration, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from nas_engine.compression.database import BUDGET_BYTES
from nas_engine.data import labels_of, source_of
from nas_engine.errors import EstimateError
from nas_engine.estimation.device import free_bytes
from nas_engine.estimation.estimate import Estimate, estimate
from nas_engine.estimation.job_size import JobSize
from nas_engine.estimation.outline import base_bytes
from nas_engine.estimation.tensor_bytes import bytes_of_model
from nas_engine.families.head import Head, label_names
from nas_engine.jobs.beginning import data_of, require_classifies
from nas_engine.jobs.calibration import NEW_TOKENS, TEXT_COUNT
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.models import read_config
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.labelled import Learned, TokenizedLabel, tokenize_learned
from nas_engine.training.settings import TrainingSettings
from nas_engine.training.trainer import calibration_tokens

_OPTIONS = 1.5  # tokens of a question with its options, over those of an example
# Bytes of a token: activations of a layer by its hidden size, logits by the vocabulary. Rather too many.
_OF_HIDDEN, _OF_VOCABULARY = 240, 40


def estimate_search(settings: JobSettings, timed: bool = True) -> Estimate:
    """What `nas_engine.jobs.job.run_job` would need of memory and time; no weights are read.

    Args:
        settings: of the job.
        timed: whether the device's speed is measured, for a third of a second.

    Raises:
        ValueError: a model, task or setting that cannot be used.
    """
    source = source_of(settings.task)
    labels = labels_of(source, settings.kind)
    config, tokenizer = read_config(settings.model)
    if labels is not None:
        require_classifies(settings)
        config = Head(labels.classes).put_on(config)
    data = data_of(source, settings, config, tokenizer, () if labels is None else label_names(config))
    return estimate(
        config,
        settings.template,
        size_of(settings, tokenize_learned(data.train, tokenizer, TrainingSettings.max_tokens)),
        device=settings.device,
        target=settings.target,
        timed=timed,
    )


def size_of(settings: JobSettings, read: Sequence[Learned]) -> JobSize:
    """How much the job does with the training examples that it has `read`."""
    lengths = [len(example.tokens) for example in read]
    mean = sum(lengths) / len(lengths)
    calibration = min(sum(lengths), calibration_tokens(refit=True))
    generated = round(settings.generated_share * min(TEXT_COUNT, len(lengths)))
    if settings.compresses or generated:
        calibration = sum(lengths[:TEXT_COUNT]) + generated * NEW_TOKENS
    return JobSize(
        batch_size=settings.batch_size,
        longest=max(lengths),
        mean=mean,
        answers=max(map(_answers, read)),
        lora_steps=0 if settings.lora is None else settings.lora_steps,
        steps=settings.steps,
        refit=settings.refit,
        generated_tokens=round(generated * (mean + NEW_TOKENS)),
        calibration_tokens=calibration,
        evaluations=settings.evaluations,
        evaluation_tokens=round(settings.validation * mean * _OPTIONS),
        hints=settings.hints,
        heal_steps=settings.heal_steps,
        finalists=settings.finalists,
        group_size=settings.group_size if settings.compresses else None,
    )


def _answers(example: Learned) -> int:
    """Places whose predictions are learned."""
    return 1 if isinstance(example, TokenizedLabel) else sum(end - start for start, end in example.spans)


def require_base_fits(settings: JobSettings) -> None:
    """Check that the model alone can be loaded.

    Raises:
        EstimateError: it cannot.
    """
    config, _ = read_config(settings.model)
    needed, free = base_bytes(config), free_bytes(settings.device)
    if needed > free:
        raise EstimateError(
            f"{settings.model} alone needs {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free on "
            f"{settings.device}. Take a smaller model or another device, or start with --no-check-memory."
        )


def require_room(settings: JobSettings, supernet: SuperNetwork, learned: Sequence[Learned]) -> None:
    """Check that every stage of the job fits beside the model, which is loaded; counted where that is not plain.

    Args:
        settings: of the job.
        supernet: with the model.
        learned: the training examples, tokenized.

    Raises:
        EstimateError: one does not; how much it needs, and what would need less, is said.
    """
    work, loaded = size_of(settings, learned), bytes_of_model(supernet.model)
    if _at_most(work, supernet.model, loaded) <= free_bytes(settings.device) + loaded:
        return
    estimate(
        supernet.model.config,
        settings.template,
        work,
        device=settings.device,
        target=settings.target,
        timed=False,
        loaded=loaded,
    ).require_fit()


def _at_most(work: JobSize, model: PreTrainedModel, loaded: int) -> int:
    """Bytes that no stage needs, for jobs that are far from too large: counting takes seconds."""
    config = model.config
    layers, hidden, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    tokens = max(work.batch_size, 32) * work.longest
    at_most = 5 * loaded + tokens * (layers * hidden * _OF_HIDDEN + vocabulary * _OF_VOCABULARY)
    if work.group_size is not None:  # weights that adapters become part of, versions, and what passes between layers
        at_most += 8 * loaded + BUDGET_BYTES + 8 * hidden * work.calibration_tokens
    return int(at_most)
