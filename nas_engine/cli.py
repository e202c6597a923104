"""The command line. Parses, calls the job, prints; holds no logic of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from nas_engine.deploy import FORMATS, export_folder, lines_of
from nas_engine.drivers.registry import DRIVERS
from nas_engine.jobs.job import JobResult, JobSettings, run_job
from nas_engine.jobs.recipe_job import RecipeSettings, run_recipe
from nas_engine.training.strategies import STRATEGIES

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)
_DEFAULT = JobSettings()


@app.callback()
def main() -> None:
    """Compress large language models by searching a super-network."""


@contextmanager
def _errors(interrupted: str = "nothing was written") -> Iterator[None]:
    """Say what went wrong in a sentence, and end."""
    try:
        yield
    except ValueError as error:  # every error of ours is one; its message is for the person
        Console(stderr=True).print(f"[red]Error:[/red] {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        Console(stderr=True).print(f"Interrupted; {interrupted}.", soft_wrap=True)
        raise typer.Exit(130) from None


@app.command("search")
def search_command(
    folder: Annotated[Path, typer.Option(help="Run folder; start again with the same one to go on.")] = _DEFAULT.folder,
    model: Annotated[str, typer.Option(help="Hugging Face id or folder, or smollm2.")] = _DEFAULT.model,
    task: Annotated[
        str, typer.Option(help="family, chain_sum, a JSONL file or folder of questions, or hf:<dataset>.")
    ] = _DEFAULT.task,
    train: Annotated[int, typer.Option(help="Training questions at most.")] = _DEFAULT.train,
    validation: Annotated[int, typer.Option(help="Questions that guide the search.")] = _DEFAULT.validation,
    selection: Annotated[int, typer.Option(help="Questions on which the finalists are compared.")] = _DEFAULT.selection,
    test: Annotated[int, typer.Option(help="Held-out questions at most.")] = _DEFAULT.test,
    adapter: Annotated[
        Path | None, typer.Option(help="PEFT LoRA adapter of this model, to be the reference instead of a trained one.")
    ] = _DEFAULT.adapter,
    lora_steps: Annotated[
        int, typer.Option(help="Steps of plain LoRA on the whole model: the reference and the teacher.")
    ] = _DEFAULT.lora_steps,
    steps: Annotated[
        int, typer.Option(help="Steps in which sub-networks take turns; 0 leaves it at what plain LoRA has learned.")
    ] = _DEFAULT.steps,
    heal_steps: Annotated[int, typer.Option(help="Steps that heal a finalist alone.")] = _DEFAULT.heal_steps,
    finalists: Annotated[int, typer.Option(help="Sub-networks of the front that are healed.")] = _DEFAULT.finalists,
    batch_size: Annotated[int, typer.Option(help="Questions of a training batch.")] = _DEFAULT.batch_size,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = _DEFAULT.learning_rate,
    strategy: Annotated[
        str, typer.Option(help=f"Sub-networks of a step: {', '.join(STRATEGIES)}.")
    ] = _DEFAULT.strategy,
    refit: Annotated[bool, typer.Option(help="Fit narrower widths to what they leave out.")] = _DEFAULT.refit,
    driver: Annotated[str, typer.Option(help=f"Search algorithm: {', '.join(DRIVERS)}.")] = _DEFAULT.driver,
    evaluations: Annotated[int, typer.Option(help="Sub-networks to measure.")] = _DEFAULT.evaluations,
    population: Annotated[int, typer.Option(help="Sub-networks of a generation.")] = _DEFAULT.population,
    sensitivity: Annotated[
        int | None,
        typer.Option(help="Questions that say beforehand which genes matter; by default 64 with auto and surrogate."),
    ] = _DEFAULT.sensitivity,
    tolerance: Annotated[
        float, typer.Option(help="Accuracy that the chosen one may lose, as a fraction of 1.")
    ] = _DEFAULT.tolerance,
    rank: Annotated[list[int], typer.Option(help="Adapter rank to choose from; repeat.")] = list(_DEFAULT.ranks),  # noqa: B006
    width: Annotated[list[float], typer.Option(help="MLP width to choose from, a fraction; repeat.")] = list(  # noqa: B006
        _DEFAULT.widths
    ),
    head: Annotated[list[float], typer.Option(help="Attention heads to choose from, a fraction; repeat.")] = list(  # noqa: B006
        _DEFAULT.heads
    ),
    skip: Annotated[bool, typer.Option(help="Whole attention and MLP blocks may be left out too.")] = _DEFAULT.skip,
    layers_per_gene: Annotated[int, typer.Option(help="Layers that share a gene.")] = _DEFAULT.layers_per_gene,
    tokens: Annotated[int, typer.Option(help="Prompt length at which prefill is timed.")] = _DEFAULT.tokens,
    target: Annotated[
        str, typer.Option(help="Where the model will run and is timed: pytorch, or llama.cpp, which also gets a file.")
    ] = _DEFAULT.target,
    weights: Annotated[
        str, typer.Option(help="What llama.cpp's weights are stored as: f32, f16, bf16, q8_0, q4_0.")
    ] = _DEFAULT.weights,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = _DEFAULT.seed,
    device: Annotated[str, typer.Option(help="Where all is computed, such as cuda.")] = _DEFAULT.device,
) -> None:
    """Train a super-network, search it for accuracy, latency and size, and save the chosen sub-network."""
    console = Console()
    with _errors(f"the same command goes on from {folder}"):
        report(
            run_job(
                JobSettings(
                    folder=folder,
                    model=model,
                    task=task,
                    train=train,
                    validation=validation,
                    selection=selection,
                    test=test,
                    adapter=adapter,
                    lora_steps=lora_steps,
                    steps=steps,
                    heal_steps=heal_steps,
                    finalists=finalists,
                    batch_size=batch_size,
                    learning_rate=learning_rate,
                    strategy=strategy,  # type: ignore[arg-type]  # checked by JobSettings
                    refit=refit,
                    driver=driver,
                    evaluations=evaluations,
                    population=population,
                    sensitivity=sensitivity,
                    tolerance=tolerance,
                    ranks=tuple(rank),
                    widths=tuple(width),
                    heads=tuple(head),
                    skip=skip,
                    layers_per_gene=layers_per_gene,
                    tokens=tokens,
                    target=target,
                    weights=weights,  # type: ignore[arg-type]  # checked by JobSettings
                    seed=seed,
                    device=device,
                )
            ),
            console,
        )


def report(job: JobResult, console: Console) -> None:
    """Print the front, the confirmed figures and where things are."""
    console.print(front_table(job))
    reference, chosen = job.summary["reference"], job.summary["chosen"]
    console.print("\nMeasured again on held-out questions, latencies in turns:")
    entries = (("plain LoRA", reference), ("largest", job.summary["largest"]), ("chosen", chosen))
    for title, entry in entries:
        accuracy = entry["accuracy"]
        console.print(
            f"  {title:10} accuracy {accuracy['value']:.3f} ± {accuracy['stderr']:.3f}   "
            f"latency {entry['latency_ms']:.1f} ms   {entry['parameters'] / 1e6:.1f} M parameters",
            highlight=False,
        )
    console.print(
        f"  speed-up {job.summary['speedup']:.2f} ×, accuracy drop {100 * job.summary['accuracy_drop']:.1f} points "
        f"against plain LoRA on the whole model; "
        f"{job.summary['evaluations']} evaluations, {job.summary['seconds']:.0f} s in all",
        highlight=False,
    )
    exact = job.summary["exact_match"]
    console.print(
        f"\nThe chosen model in its own words, exactly right on {exact['chosen']['value']:.0%} of "
        f"{exact['chosen']['n']} held-out questions (plain LoRA: {exact['reference']['value']:.0%}):",
        highlight=False,
    )
    for answer in job.summary["answers"]:
        mark = "" if answer["said"] == answer["right"] else f"   (right: {answer['right']})"
        console.print(f"  {answer['question']} {answer['said']}{mark}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"\nIn {job.folder}:", highlight=False)
    for name, content in (
        ("front.csv, front.png", "the Pareto front"),
        ("evaluations.csv", "every sub-network measured"),
        ("finalists.csv, healed.png", "the finalists before and after healing"),
        ("reference/", "plain LoRA on the whole model, as a PEFT adapter"),
        ("compressed/", "the chosen model, for AutoModelForCausalLM.from_pretrained(…, trust_remote_code=True)"),
        *([("compressed.gguf", "the chosen model for llama.cpp")] if "export" in job.summary else []),
        ("supernet/", "the trained super-network, for SuperNetwork.load"),
        ("summary.json", "the figures above"),
    ):
        console.print(f"  {name:25} {content}", highlight=False, soft_wrap=True)


def front_table(job: JobResult) -> Table:
    """The front, the chosen sub-network marked."""
    table = Table(title=f"Pareto front: {len(job.search.front)} of {len(job.search)} sub-networks")
    objectives = job.search.objectives
    table.add_column("evaluation", justify="right")
    for objective in objectives:
        table.add_column(f"{objective.name} ({objective.unit})" if objective.unit else objective.name, justify="right")
    table.add_column("")
    for number, row in job.search.front.sort_values("latency").iterrows():
        cells = [f"{row[o.name]:,.4g}" if row[o.name] < 1e6 else f"{row[o.name] / 1e6:,.1f} M" for o in objectives]
        marks = "chosen" if number == job.chosen.name else ""
        table.add_row(str(number), *cells, marks)
    return table


@app.command("export")
def export_command(
    folder: Annotated[Path, typer.Argument(help="Run folder, or one that save_pretrained wrote.")],
    to: Annotated[Path, typer.Option(help="File to write.")],
    format: Annotated[str, typer.Option(help=f"For which runtime: {', '.join(FORMATS)}.")] = "gguf",
    weights: Annotated[
        str | None,
        typer.Option(help="f32, f16, bf16, q8_0, q4_0; by default a quantized model's own integers, else f16."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="GGUF file of the same base model, to copy the tokenizer from.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file, a text a line, on which the runtime is compared with transformers.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the runtime with transformers.")] = True,
) -> None:
    """Write a compressed model for the runtime where it is deployed, and check it there."""
    settings: dict[str, Any] = {"format": format, "weights": weights, "tokenizer_file": tokenizer, "check": check}
    with _errors():
        if texts is not None:
            settings["texts"] = lines_of(texts)
        made = export_folder(folder, to, **settings)
    console = Console()
    console.print(
        f"{made.file}: {made.bytes / 1e6:.1f} MB, {made.weights or 'as quantized'}, architecture {made.architecture}",
        highlight=False,
        soft_wrap=True,
    )
    if made.check is not None:
        console.print(
            f"  against transformers: at most {made.check.exact:.1g} nats in fp32, {made.check.difference:.2g} as "
            f"stored, {made.check.rounding:.2g} from the model before rounding, over {made.check.positions} positions; "
            f"{'the same' if made.check.same_text else 'another'} greedy text",
            highlight=False,
            soft_wrap=True,
        )


_RECIPE = RecipeSettings()
_FOLDER = Annotated[Path, typer.Option(help="Run folder; start again with the same one to go on.")]
_MODEL = Annotated[str, typer.Option(help="Hugging Face id or folder, or smollm2.")]
_TASK = Annotated[str, typer.Option(help="family, chain_sum, a JSONL file or folder of questions, or hf:<dataset>.")]
_TRAIN = Annotated[int, typer.Option(help="Training questions at most.")]
_VALIDATION = Annotated[int, typer.Option(help="Questions that compare sub-adapters.")]
_CONFIRMATION = Annotated[int, typer.Option(help="Other questions that judge the best ones again; 0 for none.")]
_TEST = Annotated[int, typer.Option(help="Held-out questions at most.")]
_STEPS = Annotated[int, typer.Option(help="Training steps.")]
_BATCH_SIZE = Annotated[int, typer.Option(help="Questions of a training batch.")]
_LEARNING_RATE = Annotated[float, typer.Option(help="Peak learning rate.")]
_HEAL_STEPS = Annotated[int, typer.Option(help="Steps that heal the chosen sub-adapter alone, where it merges.")]
_DRIVERS = Annotated[list[str] | None, typer.Option("--driver", help="Search beside the heuristics; repeat.")]
_EVALUATIONS = Annotated[int, typer.Option(help="Sub-adapters that each search measures.")]
_SPARSITY = Annotated[str, typer.Option(help="Fraction of zeros, or 2:4 or 4:8.")]
_REFIT = Annotated[bool, typer.Option(help="Let the kept weights make up for the zeros before training.")]
_SEED = Annotated[int, typer.Option(help="Of everything random.")]
_DEVICE = Annotated[str, typer.Option(help="Where all is computed, such as cuda.")]


@app.command("shears")
def shears_command(
    folder: _FOLDER = Path("runs/shears"),
    model: _MODEL = _RECIPE.model,
    task: _TASK = _RECIPE.task,
    train: _TRAIN = _RECIPE.train,
    validation: _VALIDATION = _RECIPE.validation,
    confirmation: _CONFIRMATION = _RECIPE.confirmation,
    test: _TEST = _RECIPE.test,
    steps: _STEPS = _RECIPE.steps,
    batch_size: _BATCH_SIZE = _RECIPE.batch_size,
    learning_rate: _LEARNING_RATE = _RECIPE.learning_rate,
    heal_steps: _HEAL_STEPS = _RECIPE.heal_steps,
    driver: _DRIVERS = None,
    evaluations: _EVALUATIONS = _RECIPE.evaluations,
    sparsity: _SPARSITY = _RECIPE.sparsity,
    refit: _REFIT = _RECIPE.refit,
    merge: Annotated[bool, typer.Option(help="Adapt the nonzeros alone, so that the adapter merges.")] = False,
    seed: _SEED = _RECIPE.seed,
    device: _DEVICE = _RECIPE.device,
) -> None:
    """Make a model sparse, train an elastic adapter on it, and save the best sub-adapter."""
    given = {name: value for name, value in locals().items() if name != "driver"}
    _run_recipe("shears", given | {"drivers": tuple(driver or ())})


@app.command("sqft")
def sqft_command(
    folder: _FOLDER = Path("runs/sqft"),
    model: _MODEL = _RECIPE.model,
    task: _TASK = _RECIPE.task,
    train: _TRAIN = _RECIPE.train,
    validation: _VALIDATION = _RECIPE.validation,
    confirmation: _CONFIRMATION = _RECIPE.confirmation,
    test: _TEST = _RECIPE.test,
    steps: _STEPS = _RECIPE.steps,
    batch_size: _BATCH_SIZE = _RECIPE.batch_size,
    learning_rate: _LEARNING_RATE = _RECIPE.learning_rate,
    heal_steps: _HEAL_STEPS = _RECIPE.heal_steps,
    driver: _DRIVERS = None,
    evaluations: _EVALUATIONS = _RECIPE.evaluations,
    sparsity: _SPARSITY = _RECIPE.sparsity,
    refit: _REFIT = _RECIPE.refit,
    bits: Annotated[int, typer.Option(help="Of a weight, 4 or 8.")] = _RECIPE.bits,
    group_size: Annotated[int, typer.Option(help="Inputs that share a scale.")] = _RECIPE.group_size,
    symmetric: Annotated[bool, typer.Option(help="Without zero points.")] = _RECIPE.symmetric,
    adapter: Annotated[str, typer.Option(help="qa-sparsepeft, sparsepeft or sqft.")] = _RECIPE.adapter,
    seed: _SEED = _RECIPE.seed,
    device: _DEVICE = _RECIPE.device,
) -> None:
    """Make a model sparse, quantize it, train an elastic adapter on it, and save the best sub-adapter."""
    given = {name: value for name, value in locals().items() if name != "driver"}
    _run_recipe("sqft", given | {"drivers": tuple(driver or ())})


def _run_recipe(recipe: Literal["shears", "sqft"], given: Mapping[str, Any]) -> None:
    with _errors(f"the same command goes on from {given['folder']}"):
        settings = RecipeSettings(**given)
        made, summary = run_recipe(recipe, settings)
    console = Console()
    console.print(candidates_table(made.candidates))
    accuracy = summary["accuracy"]
    console.print(
        f"\nOn {accuracy['n']} held-out questions {accuracy['value']:.3f} ± {accuracy['stderr']:.3f}; "
        f"{100 * summary['sparsity']:.0f} % zeros, {summary['bits']} bits, {summary['bytes'] / 1e6:.1f} MB, "
        + ("merged" if summary["merged"] else "adapter beside its base")
        + f", in {settings.folder / 'compressed'}",
        highlight=False,
        soft_wrap=True,
    )


def candidates_table(candidates: pd.DataFrame) -> Table:
    """What a recipe compared, the chosen one first."""
    table = Table(title="Sub-adapters on validation questions")
    scores = {"accuracy": "accuracy", "confirmed": "on other questions"}
    scores = {column: title for column, title in scores.items() if column in candidates}
    table.add_column("found by")
    for title in (*scores.values(), "adapter parameters"):
        table.add_column(title, justify="right")
    for _, row in candidates.iterrows():
        known = (
            "" if pd.isna(row[column]) else f"{row[column]:.3f} ± {row[f'{column}_stderr']:.3f}" for column in scores
        )
        table.add_row(row["sub_adapter"], *known, f"{row['adapter_parameters']:,}")
    return table
