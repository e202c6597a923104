"""What later stages of a job need, checked before the first begins: whatever can be known is not found out hours later.

| stage | needs | checked by |
|---|---|---|
| all | one process, for a run folder that can be written | `require_one_process`, `writable` |
| accuracies on any split | two questions or more, that the model reads with their options | `require_answerable` |
| searches | prompts and texts of the settings' evaluators that the model reads | `require_readable_evaluators` |
| searches | evaluators of sizes that say something of the whole model | `require_computed` |
| answers in own words | prompts and new tokens that the model reads | `require_generable` |
| training, healing | examples that the model reads | `require_learnable` |
| searches | a driver that exists, and what it imports | `require_driver` |
| timing | a prompt that the model reads | `Workload.require_readable` |
| saving | adapters that merge; integers that the format holds | `SuperNetwork.largest.merges`, `require_packable` |
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators import Evaluator, ModelEvaluator
from evaluators.classification.labelled import Learnable
from evaluators.protocol import Subnetwork
from nas_engine.drivers.driver import DriverProblem, Objectives
from nas_engine.drivers.registry import make_driver
from nas_engine.errors import LedgerError, SettingsError
from nas_engine.texts.labelled import Learned, tokenize_for
from nas_engine.training.data_parallel import started_processes
from nas_engine.training.run import require_readable
from nas_engine.training.settings import TrainingSettings
from search_spaces import Genome, SearchSpace


def require_one_process() -> None:
    """Check that nobody started several processes for one job.

    Raises:
        SettingsError: torchrun or accelerate did.
    """
    count = started_processes()
    if count > 1:
        raise SettingsError(
            f"{count} processes were started for this job (by torchrun or accelerate launch), and they would write the "
            "same run folder: a job's stages run in one. Start it with nas-engine alone; its executor setting "
            "evaluates on several devices, and a script that calls train and heal may train under torchrun "
            "(docs/training.md)."
        )


def writable(folder: Path, folders: Sequence[str] = (), files: Sequence[str] = ()) -> Path:
    """`folder`, made where it is not there.

    Args:
        folder: of a run.
        folders: that will be made in it; likewise `files`.

    Raises:
        LedgerError: it cannot be made or written, or something of another kind has one of those names.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LedgerError(f"the run folder {folder} cannot be written: {error}. Choose another one.") from error
    in_the_way = [name for name in folders if (folder / name).exists() and not (folder / name).is_dir()]
    in_the_way += [name for name in files if (folder / name).is_dir()]
    if in_the_way:
        kind = "folder" if in_the_way[0] in folders else "file"
        raise LedgerError(
            f"{folder / in_the_way[0]} is no {kind}, as it will have to be; move it, or choose another run."
        )
    return folder


def require_counts(least: int, **questions: int) -> None:
    """Check that each split has enough questions for an accuracy with its error.

    Raises:
        ValueError: one has not; it is named.
    """
    for name, count in questions.items():
        if count < least:
            raise ValueError(f"{name} is {count}; give {least} questions or more, so that errors can be estimated.")


def require_answerable(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, asked: Sequence[ModelEvaluator]
) -> None:
    """Check that `model` can read all that the evaluators of `asked` ask, as far as they can tell.

    Raises:
        ValueError: it cannot (the question is named).
    """
    for evaluator in asked:
        evaluator.require_readable(model, tokenizer)


def require_readable_evaluators(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, evaluators: Sequence[Evaluator]
) -> None:
    """Check that `model` can read what those of `evaluators` that ask it something ask, as far as they can tell.

    Args:
        model: as it is before training.
        tokenizer: its tokenizer.
        evaluators: the settings', in their order.

    Raises:
        SettingsError: it cannot.
    """
    for i, evaluator in enumerate(evaluators):
        if not (require := getattr(evaluator, "require_readable", None)):
            continue
        try:
            require(model, tokenizer)
        except ValueError as error:
            raise SettingsError(f"{evaluator.name}: {error}", ("evaluators", i)) from error


def require_computed(subnet: Subnetwork, evaluators: Sequence[Evaluator]) -> None:
    """Check that those of `evaluators` that follow from sizes say something of `subnet`; each takes a moment.

    Args:
        subnet: the largest.
        evaluators: the settings', in their order.

    Raises:
        SettingsError: one does not, such as a user's function with a mistake in it.
    """
    for i, evaluator in enumerate(evaluators):
        if not evaluator.computed:
            continue
        said = f"{evaluator.name} cannot tell of the whole model"
        try:
            value = evaluator(subnet).value
        except Exception as error:  # a function of the user's stumbles on whatever it stumbles on
            raise SettingsError(f"{said}: {type(error).__name__}: {error}", ("evaluators", i)) from error
        if not np.isfinite(value):
            raise SettingsError(f"{said}: it gives {value:g}; give a finite number.", ("evaluators", i))


def require_learnable(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Learnable]
) -> Sequence[Learned]:
    """`examples`, tokenized, after a check that `model` can be trained on every one of them.

    Raises:
        ValueError: it cannot (the example is named).
    """
    tokenized = tokenize_for(model, examples, tokenizer, TrainingSettings.max_tokens)
    require_readable(model, [len(example.tokens) for example in tokenized])
    return tokenized


def require_driver(
    driver: str,
    space: SearchSpace,
    objectives: int,
    population: int,
    seed: int,
    measured: int | None = None,
    hinted: bool = False,
) -> None:
    """Check that a driver can be made for such a search.

    Args:
        driver: its name.
        space: that is searched.
        objectives: how many are optimized.
        population: of a generation.
        seed: of the driver.
        measured: how many of the objectives are measured; the others are sums over layers. None where all are.
        hinted: whether a sensitivity will be there.

    Raises:
        SearchError: there is none of that name, a package that it needs is missing, or it makes nothing of such a
            search.
    """
    if not len(space):  # a space of one sub-network is never searched
        return
    first = objectives if measured is None else measured

    def computed(genomes: Genome) -> Objectives:
        known = np.repeat(genomes.sum(axis=1, keepdims=True).astype(float), objectives, axis=1)
        known[:, :first] = np.nan
        return known

    hint = tuple(np.zeros(len(gene)) for gene in space.genes) if hinted else None
    make_driver(driver, DriverProblem(space, objectives, population, seed, computed=computed, sensitivity=hint))
