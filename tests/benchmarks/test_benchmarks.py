"""Every benchmark runs, and its last line is one JSON object with figures that can be right."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.figures import CHECKS

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("_"))
AGAINST_THE_HARNESS = "evaluation_throughput"
SLOW = {"alternatives", "calibration_mix", "joint_space", "latency_table", "quantization_error", "runtimes", "sizes",
        "training_overhead", "training_quality"}  # fmt: skip
FORKING = "kills"  # copies of its process, which may have no threads but its own


def figures_of(name: str, monkeypatch, capsys) -> dict:
    """What ``python -m benchmarks.NAME --quick`` prints last; in this process, which has imported torch."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", [name, "--quick"])
    importlib.import_module(f"benchmarks.{name}").main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in sorted({*BENCHMARKS} - {AGAINST_THE_HARNESS, FORKING})
])  # fmt: skip
def test_benchmark_prints_figures_that_can_be_right_as_its_last_line(name: str, monkeypatch, capsys) -> None:
    CHECKS[name](figures_of(name, monkeypatch, capsys))


@pytest.mark.slow
def test_nothing_is_lost_by_kills() -> None:
    command = [sys.executable, "-m", f"benchmarks.{FORKING}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["kills"] >= 10
    assert figures["lost"] == figures["different"] == figures["orphans"] == 0


@pytest.mark.extras
def test_throughput_is_compared_with_the_harness(monkeypatch, capsys) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install nas-engine[lm-eval]")
    figures = figures_of(AGAINST_THE_HARNESS, monkeypatch, capsys)
    assert figures["speedup_vs_harness"] > 0
    assert figures["max_difference_from_harness"] < 1e-3
