"""What a job compresses and how long it works at it, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from evaluators import Evaluator, Latency, evaluator_names
from evaluators.checks import require_one_of
from evaluators.latency.machine import require_device
from nas_engine.data.forms import Kind
from nas_engine.data.quality import Metric
from nas_engine.deploy import FORMATS
from nas_engine.deploy.targets import TARGETS, target_named
from nas_engine.drivers.registry import DRIVERS, NEEDS_SENSITIVITY, TAKES_SENSITIVITY
from nas_engine.errors import SettingsError
from nas_engine.execution.executor import Workplace
from nas_engine.jobs.finalists import FinalistSettings
from nas_engine.jobs.parts import DIMENSIONS, WORKPLACES, evaluators_of, space_of, workplace_of
from nas_engine.jobs.preparations import require_counts
from nas_engine.loop import SearchSettings
from nas_engine.named import Named
from nas_engine.training.settings import HealingSettings, TrainingSettings
from nas_engine.training.strategies import Strategy
from search_spaces import SpaceTemplate, attention_heads, layer_skip, lora_rank, mlp_width
from search_spaces.dimensions.weight_bits import ByProjection

AnyKind = Literal["auto", Kind]
AnyMetric = Literal["auto", Metric]
TRANSFORMERS = "transformers"  # what save_pretrained writes, timed in PyTorch
_HINTS = 64  # training questions
_PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
_UNTRAINED_MIX = 0.5  # of calibration texts, what an untrained model writes
_FIT_TOKENS = 4096  # of a finalist, before its first step


@dataclass(frozen=True)
class JobSettings:
    """What to compress, and how long to work at it; the defaults are the quickstart's.

    Args:
        folder: run folder; start again with the same one to go on.
        model: Hugging Face id or folder, smollm2, or minilm, an encoder, for data with labels.
        task: what to learn: family, chain_sum, a file or folder of data, hf:<dataset>.
        kind: of the data: multiple_choice, prompt_completion, chat, text, classification or regression; auto tells by
            its columns and labels.
        metric: that is kept: accuracy, perplexity, exact_match; of labels accuracy, f1, matthews, pearson, spearman;
            auto takes the first of the data's kind.
        train: training examples at most.
        validation: examples that guide the search.
        selection: examples on which the finalists are compared.
        test: held-out examples at most.
        adapter: folder of a PEFT LoRA adapter of this model, to be the reference instead of a trained one.
        lora_steps: steps of plain LoRA on the whole model: the reference, the teacher of all smaller ones, and their
            start. With 0 and no adapter the model as it is given is the reference.
        stop_unlearned: stop before the search where that has learned nothing: an accuracy no more than two standard
            errors above guessing, or a perplexity not below the untrained model's; else that is a warning.
        steps: in which sub-networks take turns; 0 leaves the super-network at what plain LoRA has learned.
        heal_steps: of a finalist alone, after the search; 0 takes it as the super-network left it.
        finalists: sub-networks of the front that are healed, by successive halving.
        batch_size: examples of a training batch.
        learning_rate: of all training, at its peak.
        strategy: which sub-networks a step visits: uniform, sandwich, cycle or largest.
        refit: fit narrower widths to what they leave out, where the model is neither sparse nor quantized.
        generated: share of the texts that order heads and channels, and to which widths and versions are fitted, that
            the model writes by itself after the prompts of the task; 0 takes the first that are learned alone. By
            default half where that is done before anything is trained, as with bits, zeros or lora_steps of 0, else 0.
        driver: search algorithm, one of nas_engine.drivers.DRIVERS, such as auto, surrogate or nsga2.
        evaluations: sub-networks to measure.
        population: sub-networks of a generation.
        sensitivity: training examples by which it is measured beforehand how much each gene matters, for the drivers
            auto, surrogate and milp; 0 does without, by default 64 with these drivers.
        minimize: what the chosen one has least of, among the finalists that keep the tolerance: latency, parameters, or
            one of the evaluators, such as weight_bytes.
        tolerance: what the chosen one may lose against the reference: of accuracies as a fraction of 1, of perplexities
            as a fraction of the reference's.
        ranks: adapter ranks to choose from.
        widths: MLP widths to choose from, as fractions of the intermediate size.
        heads: attention heads to choose from, as fractions, in whole KV groups.
        skip: whole attention and MLP blocks may be left out too.
        layers_per_gene: consecutive layers that share a gene.
        space: the dimensions that are searched, instead of ranks, widths, heads, skip and layers_per_gene: lora_rank,
            mlp_width, attention_heads, experts, layer_skip, weight_bits, sparsity, each with its arguments, or
            module:function.
        group_size: inputs of a matrix that share a scale, where the space has weight_bits; widths are multiples of it.
        evaluators: what else measures, beside the metric, latency and parameters: installed evaluators by name, or
            module:function, with their arguments.
        objectives: names of what is optimized, where others only bound; by default everything.
        constraints: that a sub-network must keep, such as "latency <= 0.7 * reference".
        executor: where sub-networks are measured, such as pool or ray with their arguments; by default in this process.
        tokens: prompt length at which prefill is timed, batch 1.
        target: where the model will run: transformers; llama.cpp, openvino or onnxruntime, for which the chosen one is
            also written, and in which all are timed; or vllm, for which it is also written as a folder. What to choose
            from is narrowed to what the target runs.
        weights: what the target's matrices are stored as, of what its format has (nas-engine export --help); by default
            q8_0 for llama.cpp, int8 for openvino and onnxruntime, and for vllm what there is.
        seed: of everything random.
        device: where all is computed, such as cuda, and timed unless that is in another runtime.
        check_memory: refuse at the start what the memory that is free cannot hold.
    """

    folder: Path = Path("runs/quickstart")
    model: str = "smollm2"
    task: str = "family"
    kind: AnyKind = "auto"
    metric: AnyMetric = "auto"
    train: int = 4000
    validation: int = 128
    selection: int = 240
    test: int = 600
    adapter: Path | None = None
    lora_steps: int = 110
    stop_unlearned: bool = False
    steps: int = 0
    heal_steps: int = 40
    finalists: int = 3
    batch_size: int = 16
    learning_rate: float = 7e-4
    strategy: Strategy = "uniform"
    refit: bool = True
    generated: float | None = None
    driver: str = field(default="auto", metadata={"names": DRIVERS.keys})
    evaluations: int = 20
    population: int = 12
    sensitivity: int | None = None
    minimize: str = "latency"
    tolerance: float = 0.01
    ranks: tuple[int, ...] = (32,)
    widths: tuple[float, ...] = (1.0, 0.7, 0.5, 0.3, 0.15)
    heads: tuple[float, ...] = (1.0, 0.67, 0.33)
    skip: bool = True
    layers_per_gene: int = 1
    space: tuple[Named, ...] = field(default=(), metadata={"names": DIMENSIONS.keys})
    group_size: int = 64
    evaluators: tuple[Named, ...] = field(default=(), metadata={"names": evaluator_names})
    objectives: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    executor: Named | None = field(default=None, metadata={"names": WORKPLACES.keys})
    tokens: int = 128
    target: str = field(default=TRANSFORMERS, metadata={"names": TARGETS.keys})
    weights: str | None = None
    seed: int = 0
    device: str = "cpu"
    check_memory: bool = True

    def __post_init__(self) -> None:
        # Checked here because the stages that use them come minutes later.
        require_one_of(get_args(AnyKind), kind=self.kind)
        require_one_of(get_args(AnyMetric), metric=self.metric)
        if min(self.lora_steps, self.steps) < 0:
            raise ValueError(f"lora_steps and steps are {self.lora_steps} and {self.steps}; give at least 0.")
        if self.adapter is not None and self.lora_steps != JobSettings.lora_steps and self.lora_steps:
            raise ValueError("an adapter is given, so that none is trained; leave lora_steps out.")
        if self.space:
            for name in ("ranks", "widths", "heads", "skip", "layers_per_gene"):
                if getattr(self, name) != getattr(JobSettings, name):
                    raise SettingsError(f"space is given, so that {name} has no meaning; leave it out.", (name,))
        require_counts(2, validation=self.validation, selection=self.selection, test=self.test)
        if not 0 <= self.tolerance <= 1:
            raise ValueError(f"tolerance is {self.tolerance}; give a fraction from 0 to 1.")
        if self.generated is not None and not 0 <= self.generated <= 1:
            raise ValueError(f"generated is {self.generated}; give a fraction from 0 to 1.")
        if self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}; give at least 1.")
        form = target_named(self.target).format
        if self.weights is not None and self.weights not in (FORMATS[form] if form else ()):
            stored = ", ".join(FORMATS[form]) if form else "no other weights than the model's"
            raise ValueError(f"weights is {self.weights!r}; for {self.target} there are {stored}.")
        # These check themselves.
        _ = self._training(1, self.strategy), self.lora, self.training, self.healing, self.searching, self.latency
        _ = self.template, self.more_evaluators, self.workplace
        given = self.sensitivity or 0
        if given < 0 or (given and self.driver not in TAKES_SENSITIVITY):
            raise ValueError(
                f"sensitivity is {self.sensitivity} with the driver {self.driver!r}; give a number of questions with "
                f"{' or '.join(TAKES_SENSITIVITY)}, or 0."
            )
        if self.driver in NEEDS_SENSITIVITY and not self.hints:
            raise ValueError(
                f"sensitivity is 0 with the driver {self.driver!r}, which needs one; give a number of questions."
            )
        require_device(self.device)

    @property
    def lora(self) -> TrainingSettings | None:
        """How plain LoRA is trained on the whole model; None where an adapter is given, or none is wanted."""
        return self._training(self.lora_steps, "largest") if self.adapter is None else None

    @property
    def training(self) -> TrainingSettings | None:
        """How sub-networks take turns in training; None where none do."""
        return self._training(self.steps, self.strategy)

    @property
    def healing(self) -> HealingSettings | None:
        """How the finalists are healed; None leaves them."""
        if self.heal_steps < 0 or self.finalists < 1:
            raise ValueError(
                f"heal_steps is {self.heal_steps} and finalists is {self.finalists}; give at least 0 and 1."
            )
        if not self.heal_steps:
            return None
        return HealingSettings(
            steps=self.heal_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            fit_tokens=_FIT_TOKENS,
            seed=self.seed,
        )

    @property
    def choosing(self) -> FinalistSettings:
        """How the chosen one is found among finalists."""
        return FinalistSettings(
            latency=self.latency,
            healing=self.healing,
            tolerance=self.tolerance,
            count=self.finalists,
            minimize=self.minimize,
        )

    @property
    def searching(self) -> SearchSettings:
        """How the super-network is searched."""
        return SearchSettings(
            driver=self.driver,
            evaluations=self.evaluations,
            population=self.population,
            seed=self.seed,
            constraints=self.constraints,
            objectives=self.objectives or None,
        )

    @cached_property
    def template(self) -> SpaceTemplate:
        """The space before it meets the model."""
        if not self.space:
            together = self.layers_per_gene
            whole = lora_rank(self.ranks, _PROJECTIONS, layers_per_gene=together, skip_missing=True)
            whole += mlp_width(self.widths, multiple_of=32, layers_per_gene=together)
            whole += attention_heads(self.heads, together)
            return whole + layer_skip(skip_missing=True) if self.skip else whole
        return space_of(self.space)

    @property
    def compresses(self) -> bool:
        """Whether the space varies weight bits or zeros, which takes versions of every projection."""
        return self.plain_template != self.template

    @property
    def reference_name(self) -> str:
        """What a user would have without this project, in words."""
        if self.adapter is not None:
            return "the given adapter"
        return "the model as it is" if self.lora is None else "plain LoRA"

    @property
    def generated_share(self) -> float:
        """Of calibration texts: as given, or the default for what is fitted to them; see docs/jobs.md."""
        if self.generated is not None:
            return self.generated
        untrained = self.compresses or (self.lora is None and self.adapter is None)
        return _UNTRAINED_MIX if untrained else 0.0

    @property
    def plain_template(self) -> SpaceTemplate:
        """The template without weight bits and zeros."""
        return SpaceTemplate(tuple(d for d in self.template.dimensions if not isinstance(d, ByProjection)))

    @cached_property
    def more_evaluators(self) -> list[Evaluator]:
        """What measures beside the metric, latency and parameters."""
        return evaluators_of(self.evaluators)

    @cached_property
    def workplace(self) -> Workplace | None:
        """Where sub-networks are measured; None in this process."""
        return None if self.executor is None else workplace_of(self.executor)

    def _training(self, steps: int, strategy: Strategy) -> TrainingSettings | None:
        if not steps:
            return None
        return TrainingSettings(
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            strategy=strategy,
            seed=self.seed,
        )

    @property
    def latency(self) -> Latency:
        """How finalists are timed."""
        if target_named(self.target).runtime is None:
            return Latency(tokens=self.tokens, repeats=20, warmup=3, device=self.device)
        return Latency(
            tokens=self.tokens, repeats=20, warmup=3, runtime=target_named(self.target).runtime, dtype=self.stored
        )

    @property
    def stored(self) -> str | None:
        """What the target's matrices are stored as; None leaves it to the format."""
        return self.weights or target_named(self.target).weights

    @property
    def hints(self) -> int:
        """How many questions say beforehand which genes matter."""
        return (_HINTS if self.driver in TAKES_SENSITIVITY else 0) if self.sensitivity is None else self.sensitivity
