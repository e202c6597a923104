"""Settings have one form: a frozen dataclass, whose fields are keyword arguments in Python and options of commands."""

import inspect
import shlex
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner

from nas_engine import HealingSettings, SearchSettings, TrainingSettings, heal, search, train
from nas_engine.cli import app
from nas_engine.errors import SearchError
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.jobs.recipe_job import ShearsSettings, SqftSettings
from nas_engine.keywords import merged
from nas_engine.options import command, command_line
from nas_engine.settings_file import described

SETTINGS = (TrainingSettings, HealingSettings, SearchSettings, JobSettings, ShearsSettings, SqftSettings)


@dataclass(frozen=True)
class Baking:
    """Bake a cake.

    Args:
        hours: in the oven; half an hour
            is 0.5.
        layers: of it.
        top: icing or none.
        warm: serve at once.
        tin: folder.
    """

    hours: float = 1.0
    layers: tuple[int, ...] = (2, 1)
    top: Literal["icing", "none"] = "icing"
    warm: bool = True
    tin: Path | None = None


def baked(*arguments: str) -> Baking:
    made: list[Baking] = []
    kitchen = typer.Typer()
    kitchen.command()(command(Baking, made.append))
    done = CliRunner().invoke(kitchen, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return made[0]


@pytest.mark.parametrize(
    "settings",
    [
        Baking(),
        Baking(0.5, (3, 2, 1), "none", False, Path("a folder/it's")),
        Baking(warm=True, layers=(5,), top="icing"),
    ],
)
def test_a_command_makes_the_settings_that_it_was_made_of(settings: Baking) -> None:
    name, verb, *arguments = shlex.split(command_line("bake", settings))
    assert (name, verb) == ("nas-engine", "bake")
    assert baked(*arguments) == settings


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_setting_is_described(settings) -> None:
    assert {f.name for f in fields(settings)} <= set(described(settings))


@pytest.mark.parametrize(
    ("function", "settings"), [(train, TrainingSettings), (heal, HealingSettings), (search, SearchSettings)]
)
def test_functions_show_their_settings_with_their_defaults(function, settings) -> None:
    shown = inspect.signature(function).parameters
    for field in fields(settings):
        assert shown[field.name].default == getattr(settings(), field.name)


def test_settings_are_completed_by_name_and_checked() -> None:
    assert merged(TrainingSettings, None, {"steps": 7}) == TrainingSettings(steps=7)
    assert merged(TrainingSettings, TrainingSettings(steps=7), {"seed": 3}) == TrainingSettings(steps=7, seed=3)
    assert merged(TrainingSettings, 7, {"seed": 3}, "steps") == TrainingSettings(steps=7, seed=3)
    with pytest.raises(SearchError, match="driver is 7"):
        merged(SearchSettings, 7, {}, "driver")
    with pytest.raises(TypeError, match="'stepz' is no setting here; the settings are steps, batch_size"):
        merged(TrainingSettings, None, {"stepz": 7})
    with pytest.raises(TypeError, match=r"settings is 7; give TrainingSettings\(...\), or its fields by name"):
        merged(TrainingSettings, 7, {})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        merged(TrainingSettings, TrainingSettings(), {"steps": 0})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"driver": "genetic"}, "driver is 'genetic'; choose one of auto"),
        ({"evaluations": 0}, "evaluations is 0 and population is 20; give at least 1 and 2"),
        ({"population": 1}, "population is 1; give at least 1 and 2"),
        ({"seed": -1}, "seed is -1; give at least 0"),
        ({"time_limit_seconds": 0}, "time_limit_seconds is 0; give seconds above 0"),
    ],
)
def test_a_search_setting_out_of_range_is_refused_when_made(wrong, message: str) -> None:
    with pytest.raises(SearchError, match=message):
        SearchSettings(**wrong)


def test_options_are_the_fields_with_their_types_and_defaults() -> None:
    assert baked() == Baking()
    given = baked("--hours", "2", "--layer", "3", "--layer", "4", "--top", "none", "--no-warm", "--tin", "a")
    assert given == Baking(2.0, (3, 4), "none", False, Path("a"))


def test_help_is_what_the_docstring_says() -> None:
    assert described(Baking)["hours"] == "In the oven; half an hour is 0.5."
    for name, settings in (("search", JobSettings), ("shears", ShearsSettings), ("sqft", SqftSettings)):
        shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "400"}).output
        for field in fields(settings):
            flag = field.name.removesuffix("s") if isinstance(field.default, tuple) else field.name
            assert f"--{flag.replace('_', '-')}" in shown
            assert " ".join(described(settings)[field.name].split()[:3]) in shown
