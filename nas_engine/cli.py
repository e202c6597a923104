"""The command line. Parses, calls the job, prints; holds no logic of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nas_engine.deploy import FORMATS, export_folder, lines_of
from nas_engine.errors import NasEngineError, ReportError, SettingsError
from nas_engine.jobs.job import JobResult, run_job
from nas_engine.jobs.job_estimate import estimate_search
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.recipe_job import ShearsSettings, SqftSettings, run_recipe
from nas_engine.jobs.report import in_full
from nas_engine.libraries import libraries_in
from nas_engine.named import nearest
from nas_engine.options import command
from nas_engine.page.page import REPORT, write_page
from nas_engine.page.server import PORT, serve
from nas_engine.plots.numbers import shown
from nas_engine.settings_file import schema

_SETTINGS: dict[str, type[Any]] = {"search": JobSettings, "shears": ShearsSettings, "sqft": SqftSettings}
app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_show_locals=False)


@app.callback()
def main() -> None:
    """Compress large language models by searching a super-network."""


@contextmanager
def _errors() -> Iterator[None]:
    """Say what went wrong in a sentence, and end."""
    try:
        with _interruptible("nothing was written"):
            yield
    except (NasEngineError, ValueError) as error:  # of ours; the message is for the person
        Console(stderr=True).print(f"[red]Error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


@contextmanager
def _interruptible(left: str) -> Iterator[None]:
    """End where the person says so, and say what is left."""
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print(f"Interrupted; {left}.", soft_wrap=True)
        raise typer.Exit(130) from None


def _search(settings: JobSettings) -> None:
    with _interruptible(f"the same command goes on from {settings.folder}"):
        report(run_job(settings), Console())


def _estimate(settings: JobSettings) -> None:
    with libraries_in(None):
        found = estimate_search(settings)
    Console().print(found.table())
    found.require_fit()


def report(job: JobResult, console: Console) -> None:
    """Print the front, the confirmed figures and where things are."""
    console.print(front_table(job))
    quality, summary = job.summary["quality"], job.summary
    console.print("\nMeasured again on held-out data, latencies in turns:")
    known = summary["reference_name"]
    entries = ((known, "reference"), ("largest", "largest"), ("chosen", "chosen"))
    widest = max(len(title) for title, _ in entries)
    for title, entry in ((title, summary[name]) for title, name in entries):
        score = entry[quality]
        console.print(
            f"  {title:{widest}} {quality.replace('_', ' ')} {score['value']:.3f} ± {score['stderr']:.3f}   "
            f"latency {entry['latency_ms']:.1f} ms   {entry['parameters'] / 1e6:.1f} M parameters",
            highlight=False,
        )
    console.print(
        f"  speed-up {summary['speedup']:.2f} ×, {_loss(summary)} against {in_full(known)}; "
        f"{summary['evaluations']} evaluations, {summary['seconds']:.0f} s in all",
        highlight=False,
    )
    cost = summary["minimized"]
    if cost["name"] != "latency":
        console.print(
            f"  {cost['name'].replace('_', ' ')} of the chosen {shown(cost['chosen'], 0.0, cost['unit'])}, of {known} "
            f"{shown(cost['reference'], 0.0, cost['unit'])} ({cost['chosen'] / cost['reference']:.0%})",
            highlight=False,
        )
    for warning in summary["warnings"]:
        console.print(f"\n[yellow]Warning:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    if "answers" in summary:
        _report_answers(summary, console)
    console.print(f"\nIn {job.folder}:", highlight=False)
    for name, content in (
        *(
            [("report.html", "all of this as a page, to be opened in a browser")]
            if (job.folder / REPORT).exists()
            else []
        ),
        ("front.csv, front.png", "the Pareto front"),
        ("evaluations.csv", "every sub-network measured"),
        ("finalists.csv, healed.png", "the finalists before and after healing"),
        *(
            [("reference/", f"{in_full(known)}, {_stored(job.folder / 'reference')}")]
            if (job.folder / "reference").exists()
            else []
        ),
        ("compressed/", f"the chosen model, for {summary['loads_with']}.from_pretrained(…, trust_remote_code=True)"),
        *([(job.summary["export"]["file"], "the chosen model for its target")] if "export" in job.summary else []),
        ("supernet/", "the trained super-network, for SuperNetwork.load"),
        ("summary.json", "the figures above"),
        ("job.yaml", "the settings; nas-engine search FOLDER/job.yaml goes on from them"),
    ):
        console.print(f"  {name:25} {content}", highlight=False, soft_wrap=True)


def _stored(reference: Path) -> str:
    return "as a PEFT adapter" if (reference / "adapter_config.json").exists() else "merged"


def _loss(summary: dict[str, Any]) -> str:
    quality = str(summary["quality"])
    said = quality.replace("_", " ")
    if f"{quality}_drop" in summary:
        return f"{said} drop {100 * summary[f'{quality}_drop']:.1f} points"
    return f"{said} rise {summary[f'{quality}_rise']:.1%}"


def _report_answers(summary: dict[str, Any], console: Console) -> None:
    known = summary["reference_name"]
    told = f"{_paired(summary['answers_ended'], known)} of its answers end"
    if exact := summary.get("exact_match"):
        told = f"exactly right on {_paired(exact, known)} of {exact['chosen']['n']} held-out questions; {told}"
    console.print(f"\nThe chosen model in its own words, {told}:", highlight=False)
    for answer in summary["answers"]:
        mark = "" if answer["said"] == answer["right"] else f"   (right: {answer['right']})"
        console.print(f"  {answer['question']} {answer['said']}{mark}", highlight=False, markup=False, soft_wrap=True)


def _paired(compared: Mapping[str, Any], known: str) -> str:
    """The chosen one's share beside the reference's, which is `known`."""
    chosen, reference = (compared[name]["value"] for name in ("chosen", "reference"))
    return f"{chosen:.0%} ({known}: {reference:.0%}; McNemar's p {compared['p_value']:.2g})"


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
    to: Annotated[Path, typer.Option(help="File to write; for OpenVINO, ONNX and vLLM a folder.")],
    format: Annotated[str, typer.Option(help=f"For which runtime: {', '.join(FORMATS)}.")] = "gguf",
    weights: Annotated[
        str | None,
        typer.Option(
            help="; ".join(f"{name}: {', '.join(stored)}" for name, stored in FORMATS.items())
            + ". By default a quantized model's own integers, else f16, in ONNX f32."
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="GGUF file of the same base model, to copy the tokenizer from.")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="Text file, a text a line, on which the runtime is compared with transformers.")
    ] = None,
    check: Annotated[bool, typer.Option(help="Compare the runtime with transformers.")] = True,
    logits: Annotated[
        str,
        typer.Option(help="Of OpenVINO and ONNX: last, of the last token read, or all, for perplexities."),
    ] = "last",
) -> None:
    """Write a compressed model for the runtime where it is deployed, and check it there."""
    settings: dict[str, Any] = {
        "format": format,
        "weights": weights,
        "tokenizer_file": tokenizer,
        "check": check,
        "logits": logits,
    }
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


@app.command("report")
def report_command(
    run: Annotated[Path, typer.Argument(help="Run folder of search, shears or sqft, or the storage of a search.")],
    to: Annotated[Path | None, typer.Option(help="File to write; by default report.html in the run folder.")] = None,
    watch: Annotated[bool, typer.Option(help="Serve the page to this machine while the search goes on.")] = False,
    port: Annotated[int, typer.Option(help="Of --watch; 0 takes any that is free.")] = PORT,
) -> None:
    """Write a run as one page to look at: its front, layers, hypervolume, what was confirmed, and its commands."""
    console = Console()
    with _errors():
        if watch and to is not None:
            raise ReportError("--to writes a file and --watch serves a page; give one of them.")
        if not watch:
            console.print(str(write_page(run, to)), highlight=False, markup=False, soft_wrap=True)
            return
        serve(run, port, lambda address: console.print(
            f"{run} is shown at {address} and follows what is written there; Ctrl-C ends this.",
            highlight=False, markup=False, soft_wrap=True))  # fmt: skip


def _recipe(settings: ShearsSettings | SqftSettings) -> None:
    with _interruptible(f"the same command goes on from {settings.folder}"):
        made, summary = run_recipe(settings)
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


def _command(
    name: str,
    settings: type[Any],
    run: Callable[[Any], None],
    about: str = "",
    instead: Mapping[str, tuple[str, Callable[[Any], None]]] | None = None,
) -> None:
    """Add a command whose options are `settings`; what they refuse is said as everything else is."""
    made = command(settings, run, instead)
    app.command(name, help=about or made.__doc__)(_errors()(made))


_command(
    "search",
    JobSettings,
    _search,
    "Train a super-network, search it for accuracy, latency and size, heal the best, and save the chosen sub-network.",
    {"estimate": ("Say what memory and time each stage would take, load nothing, and end.", _estimate)},
)
_command("shears", ShearsSettings, _recipe)
_command("sqft", SqftSettings, _recipe)


@app.command("schema")
def schema_command(
    command: Annotated[str, typer.Argument(help=f"Whose settings: {', '.join(_SETTINGS)}.")] = "search",
) -> None:
    """Print a JSON schema of a command's YAML file, by which editors complete and check it."""
    with _errors():
        if command not in _SETTINGS:
            raise SettingsError(f"there is no command {command!r} with settings; {nearest(command, _SETTINGS)}")
        typer.echo(json.dumps(schema(_SETTINGS[command]), indent=1))
