"""A space for where its sub-networks will run."""

from __future__ import annotations

import warnings
from dataclasses import replace

from transformers import PreTrainedModel

from nas_engine.deploy.targets import target_named
from nas_engine.errors import NasEngineWarning
from search_spaces import ModelShape, SearchSpace, SpaceTemplate
from search_spaces.narrowing import changed_choices, require_within


def bound_for(
    space: SpaceTemplate | SearchSpace, shape: ModelShape, model: PreTrainedModel, target: str | None
) -> SearchSpace:
    """`space` in a model of `shape`, as far as `target` can run it.

    Raises:
        ExportError: there is no such target, or it cannot run `model`.
        SpaceError: the space does not fit the model, or has a value, given as such, that the target cannot run.
    """
    if target is None:
        return space.bind(shape) if isinstance(space, SpaceTemplate) else space
    limited = replace(shape, limits=target_named(target).limits(model))
    if isinstance(space, SearchSpace):
        require_within(space.choices, limited)
        return space
    wide, narrow = space.bind(shape), space.bind(limited)
    changed = "; ".join(changed_choices(wide.choices, narrow.choices))
    if changed:
        warnings.warn(
            f"for {target} the space is narrower than it was written: {changed}.", NasEngineWarning, stacklevel=3
        )
    return narrow
