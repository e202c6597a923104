"""Evaluators of another package: installed by pip, found by name, and objectives of a search."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder into which the example package is installed, built from a copy so that this tree stays clean."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(Path(__file__).parent / "example_package", source)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(source)], check=True, capture_output=True, text=True)
    return target


def run(installed: Path, code: str) -> str:
    path = os.pathsep.join([str(installed), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_evaluators_of_an_installed_package_are_found_and_searched_for(installed: Path) -> None:
    out = run(
        installed,
        """
        from evaluators import Evaluator, evaluator_names, load_evaluator
        from nas_engine import search
        from tests.supernets import supernetwork
        from tests.tiny import tiny_llama

        assert {"abacus_energy", "abacus_latency", "macs"} <= set(evaluator_names())
        energy, latency = load_evaluator("abacus_energy"), load_evaluator("abacus_latency")(array=8)
        assert isinstance(energy, Evaluator) and isinstance(latency, Evaluator)
        supernet = supernetwork(tiny_llama())
        result = search(supernet, [energy, latency], driver="random", evaluations=6, progress=False)
        largest = energy(supernet.largest).value
        assert result.frame.abacus_energy.between(0, largest, inclusive="right").all()
        assert result.frame.abacus_latency.nunique() > 1
        print("searched", len(result.frame))
        try:
            load_evaluator("abacus_noise")
        except ValueError as error:
            print(error)
        """,
    )
    assert out.startswith("searched 6")
    assert "no evaluator is named 'abacus_noise'; installed are abacus_energy, abacus_latency" in out
