"""Data cut into what is learned, what guides, what selects and what judges; and how well a model does on each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evaluators import Labelled
from evaluators.classification.labelled import Learnable
from evaluators.documents import read_document
from evaluators.text.examples import Example, ScoredText, TextPair, Turn
from evaluators.whole_file import replacing
from nas_engine.data.forms import Kind
from nas_engine.data.quality import Answers, Metric, Quality, quality_of
from nas_engine.data.report import DataReport
from nas_engine.errors import TaskError

FILE = "data.json"
Split = Literal["validation", "selection", "test"]
_FORMAT = 1


@dataclass(frozen=True)
class DataSplits:
    """Examples, no two splits of which ask the same; made by `nas_engine.data.load_data`.

    Args:
        source: as it was named.
        digest: of all that was read.
        kind: of data.
        metric: by which models are judged.
        train: what is learned.
        validation: what guides the search.
        selection: what finalists are compared on.
        test: held out: what the chosen one is judged by.
        rows: by split, the row of each example in what was read.
        report: what was read, kept and left out.
        seed: of the cut.
        max_tokens: of an example.
        answers: how models answer in their own words.
        opening: what the tokenizer writes before every text, if chat templates write it too.
        classes: names of labels, by their index; empty where there are none, or they are numbers.
    """

    source: str
    digest: str
    kind: Kind
    metric: Metric
    train: tuple[Learnable, ...]
    validation: tuple[Learnable, ...]
    selection: tuple[Learnable, ...]
    test: tuple[Learnable, ...]
    rows: Mapping[str, tuple[int, ...]]
    report: DataReport
    seed: int
    max_tokens: int
    answers: Answers
    opening: str = ""
    classes: tuple[str, ...] = ()

    def quality(self, split: Split) -> Quality:
        """The evaluator of a split: `name`, `direction`, `unit`, `settings()`, a sub-network's score, any model's.

        On ``validation``, an accuracy drops sub-networks early that cannot enter the front (`evaluators.Racing`).

        Raises:
            TaskError: the split has fewer than two examples.
        """
        examples = self._examples(split)
        if len(examples) < 2:
            raise TaskError(
                f"{split} has {len(examples)} examples; ask for two or more, so that errors can be estimated."
            )
        return quality_of(self.kind, self.metric, examples, self.max_tokens, self.answers, split == "validation")

    def prompts(self, split: Split, count: int) -> tuple[TextPair, ...]:
        """The first prompts of a split, at most `count`, each with its right completion, to be answered in own words.

        Of a conversation the last answer is asked for; of a plain text the second half. Of texts with labels there is
        none.
        """
        examples = (example for example in self._examples(split)[:count] if not isinstance(example, Labelled))
        return tuple(self._asked(example) for example in examples)

    def write(self, folder: str | Path) -> None:
        """Write `data.json` into a run folder: where the data are from, all counts, and which rows are in which split.

        Raises:
            TaskError: the folder's run was begun with other data, another seed or other splits.
        """
        path = Path(folder) / FILE
        described = {
            "format": _FORMAT,
            "source": self.source,
            "digest": self.digest,
            "kind": self.kind,
            "metric": self.metric,
            "classes": list(self.classes),
            "seed": self.seed,
            "max_tokens": self.max_tokens,
            "report": self.report.as_json(),
            "splits": {split: list(rows) for split, rows in self.rows.items()},
        }
        if path.exists():
            self._require_same(path, described)
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    def _require_same(self, path: Path, described: Mapping[str, object]) -> None:
        found = read_document(path, dict[str, object], TaskError, f"{path} cannot be gone on from")
        for name, what in (("format", "by another version"), ("digest", "with other rows"), ("kind", "as another kind"),
                           ("seed", "with another seed")):  # fmt: skip
            if found.get(name) != described[name]:
                raise TaskError(
                    f"the run in {path.parent} was begun {what} of {found.get('source')} ({name} {found.get(name)} "
                    f"there, {described[name]} here); give the same data, or another folder."
                )
        before, now = found.get("splits"), described["splits"]
        assert isinstance(now, dict)
        # A larger or smaller test changes nothing that was learned or searched.
        differing = [
            split
            for split in now
            if split != "test" and (not isinstance(before, dict) or before.get(split) != now[split])
        ]
        if differing:
            raise TaskError(
                f"the run in {path.parent} was begun with other rows in {' and '.join(differing)}; ask for as many "
                "examples as then, of the same length and with the same model, or give another folder."
            )

    def _examples(self, split: Split) -> tuple[Learnable, ...]:
        examples = {"validation": self.validation, "selection": self.selection, "test": self.test}
        if split not in examples:
            raise TaskError(f"split is {split!r}; choose one of {', '.join(examples)}.")
        return examples[split]

    def _asked(self, example: TextPair) -> TextPair:
        if self.kind == "multiple_choice":
            return example  # a question, which knows its text apart from the prompt
        prompt, completion = example.prompt, example.completion
        if self.kind == "text":
            half = completion.rfind(" ", 1, len(completion) // 2 + 1)
            half = half if half > 0 else len(completion) // 2
            return Example(completion[:half], completion[half:])
        if self.kind != "chat":
            return Example(prompt, completion)
        prompt = prompt.removeprefix(self.opening)
        turn = example.turn if isinstance(example, ScoredText) else None
        return Example(prompt, completion) if turn is None else Turn(prompt, completion, *turn)
