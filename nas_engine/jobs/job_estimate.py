"""What a search job will need, counted from its settings, its data and the model's configuration, before it begins."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Labelled
from nas_engine.data import DataSplits, labels_of
from nas_engine.errors import EstimateError
from nas_engine.estimation.device import free_bytes
from nas_engine.estimation.estimate import Estimate, estimate
from nas_engine.estimation.outline import base_bytes
from nas_engine.estimation.tensor_bytes import bytes_of_model
from nas_engine.estimation.workload import Workload
from nas_engine.jobs.beginning import data_of
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.models import read_config
from nas_engine.supernet import SuperNetwork
from nas_engine.texts.examples import tokenize
from nas_engine.training.settings import TrainingSettings

_REFITTING_TOKENS = 20_480  # as training takes them
_OPTIONS = 1.5  # tokens of a question with its options, over those of an example
# Bytes of a token: activations of a layer by its hidden size, logits by the vocabulary. Rather too many.
_OF_HIDDEN, _OF_VOCABULARY = 240, 40


def estimate_search(settings: JobSettings, timed: bool = True) -> Estimate:
    """What `nas_engine.run_job` would need of memory and time; no weights are read.

    Args:
        settings: of the job.
        timed: whether the device's speed is measured, for a third of a second.

    Raises:
        ValueError: a model, task or setting that cannot be used.
    """
    if labels_of(settings.task, settings.kind) is not None:
        raise EstimateError("jobs on labels are not estimated yet; encoders that classify are small beside what fits.")
    config, tokenizer = read_config(settings.model)
    data = data_of(settings, config, tokenizer)
    return estimate(
        config,
        settings.template,
        workload(settings, data, tokenizer),
        device=settings.device,
        target=settings.target,
        timed=timed,
    )


def workload(settings: JobSettings, data: DataSplits, tokenizer: PreTrainedTokenizerBase) -> Workload:
    """How much the job does with `data`."""
    pairs = [example for example in data.train if not isinstance(example, Labelled)]
    read = tokenize(pairs, tokenizer, TrainingSettings.max_tokens)
    lengths = [len(example.tokens) for example in read]
    mean = sum(lengths) / len(lengths)
    return Workload(
        batch_size=settings.batch_size,
        longest=max(lengths),
        mean=mean,
        answers=max(sum(end - start for start, end in example.spans) for example in read),
        lora_steps=0 if settings.lora is None else settings.lora_steps,
        steps=settings.steps,
        refit=settings.refit,
        calibration_tokens=min(sum(lengths), _REFITTING_TOKENS),
        evaluations=settings.evaluations,
        evaluation_tokens=round(settings.validation * mean * _OPTIONS),
        hints=settings.hints,
        heal_steps=settings.heal_steps,
        finalists=settings.finalists,
    )


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


def require_room(settings: JobSettings, supernet: SuperNetwork, data: DataSplits) -> None:
    """Check that every stage of the job fits beside the model, which is loaded; counted where that is not plain, and
    of language models alone.

    Raises:
        EstimateError: one does not; how much it needs, and what would need less, is said.
    """
    if data.classes or data.kind == "regression":
        return
    work, loaded = workload(settings, data, supernet.tokenizer), bytes_of_model(supernet.model)
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


def _at_most(work: Workload, model: PreTrainedModel, loaded: int) -> int:
    """Bytes that no stage needs, for jobs that are far from too large: counting takes seconds."""
    config = model.config
    layers, hidden, vocabulary = config.num_hidden_layers, config.hidden_size, config.vocab_size
    tokens = max(work.batch_size, 32) * work.longest
    return int(5 * loaded + tokens * (layers * hidden * _OF_HIDDEN + vocabulary * _OF_VOCABULARY))
