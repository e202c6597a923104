"""A run as one HTML file that needs nothing else: no network, no other file, no server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluators.whole_file import replacing
from nas_engine.errors import ReportError
from nas_engine.page import sections
from nas_engine.page.document import document, in_script
from nas_engine.page.figures import healed_figure
from nas_engine.page.run import Run, read_run
from nas_engine.page.summary import SearchSummary

REPORT = "report.html"
MISSING = 'needs plotly and jinja2: pip install "nas-engine[report]"'
_ASSETS = Path(__file__).parent / "assets"
_SCRIPTS = ("theme.js", "layers.js", "page.js")
_SECTIONS = ("head", "confirmed", "about")


def write_page(folder: str | Path, to: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        folder: of the run; nothing in it changes but `report.html`.
        to: another file to write.

    Raises:
        ReportError: plotly or jinja2 is not installed.
        LedgerError: there is no run, or its ledger is damaged.
    """
    require_plotly()
    file = Path(folder) / REPORT if to is None else Path(to)
    text = page_html(read_run(folder))
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return file


def require_plotly() -> None:
    """Refuse to make a page without what it is made with.

    Raises:
        ReportError: plotly or jinja2 is not installed.
    """
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise ReportError(f"a page {MISSING}.") from error


def page_html(run: Run, live: str = "") -> str:
    """The page of a run.

    Args:
        run: what it shows.
        live: the state that it shows, where a server tells of the next ones; empty of a page that stays as it is.
    """
    from plotly.offline import get_plotlyjs

    rendered = rendered_sections(run)
    page: str = _template("page.html").render(
        name=run.name,
        sections=[rendered[name] for name in _SECTIONS],
        live=bool(live),
        style=_asset("page.css"),
        plotly=get_plotlyjs(),
        scripts="\n".join(_asset(name) for name in _SCRIPTS),
        data=in_script(page_data(run) | {"state": live}),
    )
    return page


def page_data(run: Run) -> dict[str, Any]:
    """What the page's script draws."""
    summary, about = run.summary, run.about
    healed = None
    if isinstance(summary, SearchSummary):
        healed = healed_figure(summary, about.selection if about is not None else {})
    return document(run) | {"healed": healed}


def rendered_sections(run: Run) -> dict[str, str]:
    """The parts of the page that are text, by name, as HTML; everything that comes from the run is escaped."""
    failed, shown = sections.failures(run)
    context: dict[str, Any] = {
        "run": run,
        "status": sections.status(run),
        "tiles": sections.tiles(run),
        "notes": sections.notes(run),
        "confirmed": sections.held_out(run),
        "paired": sections.paired(run),
        "reconfirmed": sections.reconfirmed(run),
        "quality": sections.kept_quality(run),
        "finalists": sections.finalists(run),
        "reduced": run.summary.reduced if isinstance(run.summary, SearchSummary) else None,
        "candidates": sections.candidates(run),
        "answers": sections.answers(run),
        "calibrated": sections.calibrated(run),
        "settings": sections.settings(run),
        "versions": sections.versions(run),
        "commands": sections.commands(run),
        "failed": failed,
        "failures": shown,
    }
    return {name: _template(f"{name}.html").render(context) for name in _SECTIONS}


def _template(name: str) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["trusted"] = Markup  # our own files, plotly's, and JSON that cannot end its element
    return environment.get_template(name)


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")
