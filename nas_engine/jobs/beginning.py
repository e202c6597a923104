"""What a job begins with: the model, made elastic, and the data, cut; a classifier where the data have labels."""

from __future__ import annotations

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from nas_engine.data import DataSplits, labels_of, load_data, source_of
from nas_engine.data.sources import Source
from nas_engine.families.head import Head, label_names
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.models import load_model
from nas_engine.supernet import SuperNetwork
from nas_engine.training.settings import TrainingSettings


def begin(settings: JobSettings) -> tuple[SuperNetwork, DataSplits]:
    """The super-network and the examples of a job.

    Raises:
        ValueError: a model, data or a space that do not go together; the message says what to do.
    """
    source = source_of(settings.task)
    labels = labels_of(source, settings.kind)
    if labels is None:
        supernet = SuperNetwork.from_pretrained(
            settings.model, settings.template, seed=settings.seed, device=settings.device, target=settings.target
        )
        return supernet, data_of(source, settings, supernet.model.config, supernet.tokenizer)
    settings.require_classifies()
    model, tokenizer = load_model(settings.model, head=Head(labels.classes))
    supernet = SuperNetwork.from_pretrained(
        model, settings.template, tokenizer, seed=settings.seed, device=settings.device, target=settings.target
    )
    return supernet, data_of(source, settings, model.config, tokenizer, label_names(model.config))


def data_of(
    source: str | Source,
    settings: JobSettings,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    classes: tuple[str, ...] = (),
) -> DataSplits:
    """The job's data out of `source`, no example longer than the model reads."""
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    return load_data(
        source,
        tokenizer,
        train=settings.train,
        validation=settings.validation,
        selection=settings.selection,
        test=settings.test,
        seed=settings.seed,
        kind=settings.kind,
        metric=settings.metric,
        max_tokens=TrainingSettings.max_tokens if most is None else min(TrainingSettings.max_tokens, most),
        classes=classes,
    )
