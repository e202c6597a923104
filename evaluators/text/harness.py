"""Any task of the lm-evaluation-harness as an evaluator of extracted sub-networks (extra ``lm-eval``)."""

from __future__ import annotations

import copy
import difflib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.checks import require_at_least
from evaluators.protocol import Direction, EvaluatorDefaults, Measurement, Subnetwork
from evaluators.text.halving import Halving
from evaluators.text.positions import switching_lengths

_FEWSHOT_SEED = 1234  # the harness's own default
_BOOTSTRAP_ITERATIONS = 1000  # for metrics that have no formula of their error


class HarnessTask(EvaluatorDefaults):
    """One metric of one task or group of the lm-evaluation-harness.

    The task is loaded, with its data, when the evaluator is made; the direction is the one that the task gives.
    Multiple choice is many times faster with `MultipleChoiceAccuracy`, which gives the same scores.

    Args:
        task: name of a task or a group, such as ``arc_easy``.
        metric: such as ``acc``; where a task has several filters, with the filter's name: ``exact_match,strict-match``.
        limit: only the first so many documents of each task.
        num_fewshot: worked examples before each; None takes the task's own.
        include_path: a folder with tasks of your own as YAML files, besides those of the harness.
        batch_size: rows of one batch; halves where memory runs out. Models with LongRoPE get one row.
        name: column name of the score; ``task_metric`` by default.

    Raises:
        ImportError: the harness is not installed.
        ValueError: an unknown task or metric (those there are get named), a folder that does not exist, or another
            argument out of range.
    """

    unit = ""

    def __init__(
        self,
        task: str,
        metric: str = "acc",
        limit: int | None = None,
        num_fewshot: int | None = None,
        include_path: str | Path | None = None,
        batch_size: int = 8,
        name: str | None = None,
    ) -> None:
        if find_spec("lm_eval") is None:
            raise ImportError("HarnessTask needs the lm-evaluation-harness: pip install 'nas-engine[lm-eval]'.")
        require_at_least(1, batch_size=batch_size, limit=1 if limit is None else limit)
        require_at_least(0, num_fewshot=num_fewshot or 0)
        if include_path is not None and not Path(include_path).is_dir():
            raise ValueError(f"include_path is {str(include_path)!r}, which is no folder.")
        self.task, self.metric, self.limit, self.num_fewshot = task, metric, limit, num_fewshot
        self.name = name or f"{task}_{metric.replace(',', '_')}"
        self._budget = Halving(batch_size)
        with _quiet():
            self._loaded = _load(task, include_path)
            for single in self._loaded["tasks"].values():
                if num_fewshot is not None:
                    single.set_config(key="num_fewshot", value=num_fewshot)
                elif single.get_config("num_fewshot") is None:
                    single.set_config(key="num_fewshot", value=0)
                single.set_fewshot_seed(seed=_FEWSHOT_SEED)
        self.direction: Direction = self._direction()

    def __repr__(self) -> str:
        return f"HarnessTask({self.task!r}, metric={self.metric!r})"

    def settings(self) -> Mapping[str, Any]:
        """The task with its version, the metric, and how much of it is run."""
        return {
            "task": self.task,
            "versions": {name: str(single.VERSION) for name, single in sorted(self._loaded["tasks"].items())},
            "metric": self.metric,
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
        }

    def __call__(self, subnet: Subnetwork) -> Measurement:
        """Extract `subnet` and run the task on it."""
        return self.measure(subnet.extract(share_embeddings=True), subnet.tokenizer)

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Measurement:
        """Run the task on any Hugging Face causal language model.

        The standard error is the harness's, and 0 where it gives none.

        Raises:
            ValueError: several filters give the metric, and none was named (they are).
            MemoryError: not even one row fits.
        """
        results = self._budget.run(lambda batch_size: self._evaluate(model, tokenizer, batch_size))
        scores: dict[str, Any] = results["results"][self.task]
        key = self._key(scores)
        stderr = scores.get(key.replace(",", "_stderr,", 1))
        n = sum(results["n-samples"][name]["effective"] for name in self._loaded["tasks"])
        return Measurement(float(scores[key]), float(stderr) if isinstance(stderr, int | float) else 0.0, n)

    def _evaluate(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> dict[str, Any]:
        from lm_eval.evaluator import evaluate
        from lm_eval.models.huggingface import HFLM

        if switching_lengths(model):  # the harness asks for no company of ours
            batch_size = 1
        with _quiet():
            # A copy of the tokenizer, for the harness gives it a padding token where it has none.
            lm = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size, backend="causal")
            for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
                setattr(lm, kind, partial(getattr(lm, kind), disable_tqdm=True))
            results: dict[str, Any] = evaluate(
                lm=lm,
                task_dict=self._loaded,
                limit=self.limit,
                bootstrap_iters=_BOOTSTRAP_ITERATIONS,
                log_samples=False,
            )
        return results

    def _direction(self) -> Direction:
        better: dict[str, bool] = {}
        for single in self._loaded["tasks"].values():
            better |= single.higher_is_better()
        metric = self.metric.partition(",")[0]
        if metric not in better:
            raise ValueError(f"{self.task} has no metric {metric!r}; it has {', '.join(sorted(better))}.")
        return "maximize" if better[metric] else "minimize"

    def _key(self, scores: Mapping[str, Any]) -> str:
        metric, _, wanted = self.metric.partition(",")
        keys = [key for key in scores if key.partition(",")[0] == metric]
        found = [key for key in keys if not wanted or key.partition(",")[2] == wanted]
        if len(found) != 1:
            raise ValueError(f"{self.task} gives {self.metric!r} as {', '.join(keys) or 'nothing'}; name one of them.")
        return found[0]


def _load(task: str, include_path: str | Path | None) -> dict[str, Any]:
    """The task or group with all its tasks, as the harness's `TaskManager.load` gives them."""
    folder = None if include_path is None else str(include_path)
    index = None if folder is None else _index(folder, with_defaults=False)
    if index is None or task not in index.all_subtasks:  # a group may be made of the harness's tasks too
        index = _everything(folder)
        _require_known(task, index)
    loaded: dict[str, Any] = index.load([task])
    return loaded


def _require_known(task: str, everything: Any) -> None:
    if task not in everything.all_tasks:
        near = difflib.get_close_matches(task, everything.all_tasks, n=5)
        raise ValueError(
            f"the harness has no task {task!r}{', but ' + ', '.join(near) if near else ''}; "
            "`lm-eval ls tasks` lists them all, and include_path= adds a folder of your own."
        )
    if task in everything.all_tags:
        raise ValueError(f"{task!r} is a tag of several tasks and has no score of its own; name one of them.")


@lru_cache(maxsize=2)
def _everything(folder: str | None) -> Any:
    """The index of the harness's own 15,000 tasks and those of `folder`, which takes seconds to make."""
    return _index(folder, with_defaults=True)


def _index(folder: str | None, with_defaults: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder, include_defaults=with_defaults)


@contextmanager
def _quiet() -> Iterator[None]:
    """A search runs a task hundreds of times: warnings stay, what is told each time does not."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
