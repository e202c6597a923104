"""What a job begins with: the model, made elastic, and the data, cut; a classifier where the data have labels."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from nas_engine.data import DataSplits, labels_of, load_data, source_of
from nas_engine.data.labels import Labels
from nas_engine.data.sources import Source
from nas_engine.errors import SettingsError
from nas_engine.families.head import Head, label_names
from nas_engine.families.plain import require_plain
from nas_engine.jobs.job_settings import TRANSFORMERS, JobSettings
from nas_engine.jobs.versions import require_versions, without_versions
from nas_engine.models import load_model
from nas_engine.supernet import SuperNetwork
from nas_engine.supernet.narrowing import bound_for
from nas_engine.training.settings import TrainingSettings
from search_spaces import SearchSpace, SpaceError


@dataclass(frozen=True)
class Beginning:
    """What a job begins with.

    Args:
        supernet: untrained; where the space has weight bits or zeros, of all else, until the versions are made.
        data: its examples.
        space: all that is searched.
    """

    supernet: SuperNetwork
    data: DataSplits
    space: SearchSpace


def begin(settings: JobSettings) -> Beginning:
    """The super-network and the examples of a job.

    Raises:
        ValueError: a model, data or a space that do not go together; the message says what to do.
    """
    source = source_of(settings.task)
    labels = labels_of(source, settings.kind)
    if labels is not None:
        require_classifies(settings)
    try:
        supernet, space = _compressible(settings) if settings.compresses else _elastic(settings, labels)
    except SpaceError as error:
        raise SettingsError(str(error), ("space",)) from error
    if not len(space):
        raise SettingsError(
            "nothing can be searched: every part of the space has one value alone in this model; offer two or more.",
            ("space",),
        )
    config = supernet.model.config
    names = () if labels is None else label_names(config)
    return Beginning(supernet, data_of(source, settings, config, supernet.tokenizer, names), space)


def require_classifies(settings: JobSettings) -> None:
    """Check that nothing is set that classifiers cannot have.

    Raises:
        SettingsError: a target whose formats hold language models alone, weight bits or zeros.
    """
    if settings.generated:
        raise SettingsError(
            f"generated is {settings.generated}, and the data are texts with labels: encoders write nothing; leave it "
            "out.",
            ("generated",),
        )
    if settings.compresses:
        raise SettingsError(
            "the data are texts with labels, and weight_bits and sparsity are searched in language models alone "
            "yet; leave them out.",
            ("space",),
        )
    if settings.target != TRANSFORMERS:
        raise SettingsError(
            f"the data are texts with labels, and {settings.target} is a target of language models here; leave target "
            f"out, or give {TRANSFORMERS}.",
            ("target",),
        )


def _elastic(settings: JobSettings, labels: Labels | None) -> tuple[SuperNetwork, SearchSpace]:
    model: str | PreTrainedModel = settings.model
    tokenizer = None
    if labels is not None:
        model, tokenizer = load_model(settings.model, head=Head(labels.classes))
    supernet = SuperNetwork.from_pretrained(
        model, settings.template, tokenizer, seed=settings.seed, device=settings.device, target=settings.target
    )
    return supernet, supernet.space


def _compressible(settings: JobSettings) -> tuple[SuperNetwork, SearchSpace]:
    """The model, elastic in all that needs no versions, and the whole space, of which it was checked that it can be."""
    model, tokenizer = load_model(settings.model)
    space = bound_for(settings.template, require_plain(model).shape(model), model, settings.target)
    require_versions(model, space, settings)
    supernet = SuperNetwork.from_pretrained(
        model, without_versions(space), tokenizer, seed=settings.seed, device=settings.device, target=settings.target
    )
    return supernet, space


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
