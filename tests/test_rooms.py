"""The rooms of the three packages, their folders and the files beside them: imports between them run one way."""

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search_spaces", "evaluators", "nas_engine")  # each imports itself and those before it alone


def room_of(module: str) -> str:
    """The folder of a package that `module` is in, or the module where it lies beside them."""
    return ".".join(module.split(".")[:2])


def modules() -> dict[str, Path]:
    """The files of the packages by the names they are imported by; a package's front door is not one of its rooms."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    named = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}
    return {name: file for name, file in named.items() if name not in PACKAGES}


def imports(file: Path, known: frozenset[str]) -> Iterator[str]:
    """Modules of `known` that `file` imports, anywhere in it, for types too."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports by dots"
            for name in node.names:
                submodule = f"{node.module}.{name.name}"
                yield submodule if submodule in known else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def arrows() -> dict[str, set[str]]:
    """By room, the rooms that it imports."""
    files = modules()
    known = frozenset({*files, *PACKAGES})
    found: dict[str, set[str]] = {}
    for module, file in files.items():
        targets = {room_of(target) for target in imports(file, known) if target.split(".")[0] in PACKAGES}
        found.setdefault(room_of(module), set()).update(targets - {room_of(module)})
    return found


def in_order(arrows: dict[str, set[str]]) -> list[str]:
    """What is imported before what imports it; a circle has no order."""
    try:
        return list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail(f"in a circle: {' <- '.join(error.args[1])}")


def test_no_room_imports_one_that_imports_it() -> None:
    doors = {room: {target for target in targets if target not in PACKAGES} for room, targets in arrows().items()}
    assert len(in_order(doors)) == len(doors)


def told() -> list[tuple[list[str], str]]:
    """The rows of `docs/architecture.md` on `nas_engine`: rooms, and what is said that they import."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("| `nas_engine/` |")[2]
    rows = [line.split("|") for line in table.partition("\n\n")[0].splitlines()[2:]]
    return [(re.findall(r"`(\w+)(?:\.py|/)`", cells[1]), cells[3].strip()) for cells in rows]


def test_the_architecture_says_which_rooms_import_which() -> None:
    rows = told()
    ground = {room for rooms, _ in rows[:2] for room in rooms}  # whose arrows are not told
    said = {room: imported for rooms, imported in rows for room in rooms}
    found = {room.removeprefix("nas_engine."): targets for room, targets in arrows().items() if "nas_engine" in room}
    assert set(found) == set(said)
    for room in found.keys() - ground:
        named = {target.removeprefix("nas_engine.") for target in found[room] if target.startswith("nas_engine.")}
        if said[room] != "all of the above":
            assert named - ground == set(filter(None, said[room].split(", "))), room


def test_no_file_imports_one_that_imports_it() -> None:
    files = modules()
    known = frozenset(files)
    found = {module: {*imports(file, known)} & known - {module} for module, file in files.items()}
    assert len(in_order(found)) == len(files)


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_those_below_them_alone(package: str) -> None:
    below = PACKAGES[: PACKAGES.index(package)]
    for room, targets in arrows().items():
        if room.startswith(f"{package}."):
            wrong = {target for target in targets if target.split(".")[0] not in (package, *below) or target == package}
            assert not wrong, f"{room} imports {wrong}; a room imports rooms, and the front doors of packages below"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_name_hides_a_module(package: str) -> None:
    root = importlib.import_module(package)
    for found in pkgutil.walk_packages(root.__path__, f"{package}."):
        importlib.import_module(found.name)
        parent, _, name = found.name.rpartition(".")
        shown = getattr(importlib.import_module(parent), name)
        assert isinstance(shown, ModuleType), f"{found.name} is {shown!r}"
