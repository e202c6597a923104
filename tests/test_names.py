"""The names of the three packages: one word, one meaning."""

import ast
from collections import Counter

from tests.test_rooms import PACKAGES, ROOT

# What two formats or two processes do alike, each in a file of its own; and the protocol that a class keeps.
ALIKE = {"compared_as_stored", "converted", "main", "require_exact", "write", "Subnetwork"}


def test_no_two_things_that_another_file_may_import_have_one_name() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    nodes = [node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body]
    found = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef))
    twice = {name for name, count in found.items() if count > 1 and not name.startswith("_")}
    assert twice == ALIKE
