"""examples/joint_space.yaml on a tiny model: ranks, widths, bits and zeros, from one file to integers on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from nas_engine.compression.checkpoint import load_quantized
from nas_engine.compression.grid import dequantize, quantize
from nas_engine.compression.sparsification import projections_of
from nas_engine.errors import CompressionError, NasEngineError
from nas_engine.estimation.tensor_bytes import bytes_of_model
from nas_engine.jobs.job import run_job
from nas_engine.jobs.job_estimate import estimate_search
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.models import load_model
from nas_engine.settings_file import read_settings
from nas_engine.supernet import SuperNetwork
from tests.talkative import INTERRUPT
from tests.tiny import tiny_llama, tiny_qwen3_moe, tiny_tokenizer

ROOT = Path(__file__).parents[3]
RANKS = {"lora_rank": {"ranks": [4, 2], "targets": ["q", "k", "v", "o", "gate", "up", "down"]}}
WIDTHS = {"mlp_width": {"widths": [1.0, 0.5], "multiple_of": 8}}
BITS = {"weight_bits": {"bits": [16, 4]}}
ZEROS = {"sparsity": {"sparsities": [0, 0.5]}}


def small(folder: Path, **changes) -> JobSettings:
    """The example's job on a model of two layers."""
    given = read_settings(ROOT / "examples" / "joint_space.yaml", JobSettings)
    settings = {
        "folder": folder / "run", "model": str(folder / "model"), "space": (RANKS, WIDTHS, BITS, ZEROS),
        "group_size": 8, "tokens": 8, "batch_size": 4, "lora_steps": 2, "steps": 2, "heal_steps": 2, "finalists": 2,
        "evaluations": 6, "population": 4, "driver": "nsga2", "tolerance": 1.0, "train": 24, "validation": 8,
        "selection": 8, "test": 8,
    }  # fmt: skip
    return replace(given, **settings | changes)


@pytest.fixture
def folder(tmp_path) -> Path:
    with_model(tmp_path)
    return tmp_path


def with_model(folder: Path, make=tiny_llama) -> None:
    make(num_hidden_layers=2).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")


@pytest.mark.slow
def test_joint_job_goes_on_after_a_kill_and_leaves_integers_and_zeros_of_the_chosen_bits(folder, monkeypatch) -> None:
    settings = small(folder)
    settings = replace(settings, evaluators=(*settings.evaluators, "tests.talkative:interrupting"))
    with monkeypatch.context() as during_the_search:
        during_the_search.setenv(INTERRUPT, "1")
        with pytest.raises(KeyboardInterrupt):
            run_job(settings, progress=False)
    run = folder / "run"
    kept = {file: file.stat().st_mtime_ns for part in ("base", "versions") for file in (run / part).iterdir()}
    assert len(kept) > 4
    done = run_job(settings, progress=False)
    assert kept == {file: file.stat().st_mtime_ns for file in kept}
    summary = json.loads((run / "summary.json").read_text())
    assert {o.name for o in done.search.objectives if o.optimized} == {"accuracy", "weight_bytes"}
    least = summary["minimized"]
    assert least["name"] == "weight_bytes"
    assert least["chosen"] == done.chosen["weight_bytes"] < least["reference"]
    # All keep a tolerance of everything: the one of the fewest bytes is chosen.
    finalists = [row["evaluation"] for row in summary["finalists"]]
    assert least["chosen"] == done.search.frame.loc[finalists[:2], "weight_bytes"].min()
    first = summary["finalists"][0]
    assert first["weight_bytes"] == least["chosen"]
    assert first["reduction"] == pytest.approx(least["reference"] / least["chosen"], abs=1e-4)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<th scope="col">less weight bytes</th>' in page
    assert f"<td>{first['reduction']:.2f} ×</td>" in page
    assert "times less weight bytes than the whole model" in page
    model, _, quantization = load_quantized(run / "compressed")
    bits = {name: value for name, value in summary["chosen"]["configuration"].items() if name.endswith("bits")}
    for i in range(2):
        weight = model.get_submodule(f"model.layers.{i}.mlp.up_proj").weight
        name = f"layers.{i}.up"
        assert (name in quantization.grids) == (bits[f"layers.{i}.weight_bits"] == 4)
        if name in quantization.grids:
            grid = quantization.grids[name]
            assert torch.equal(weight, dequantize(quantize(weight, grid), grid))
        zeros = float((weight == 0).float().mean())
        assert zeros >= 1 - summary["chosen"]["configuration"][f"layers.{i}.density"] - 1e-6
    whole = AutoModelForCausalLM.from_pretrained(run / "reference")
    assert sum(p.numel() for p in whole.parameters()) == summary["reference"]["parameters"]
    assert SuperNetwork.load(run / "supernet").database is not None


REFUSED = {
    "an adapter": ({"adapter": Path("reference"), "lora_steps": 110}, "leave adapter out"),
    "llama.cpp": ({"target": "llama.cpp"}, "llama.cpp .*zeros"),
    "OpenVINO": ({"target": "openvino"}, "openvino stores and times all matrices alike"),
    "no whole model": ({"space": (RANKS, {"weight_bits": {"bits": [8, 4]}})}, "never 16: the reference is the whole"),
    "no dense model": ({"space": (RANKS, {"sparsity": {"sparsities": [0.5, 0.3]}})}, "never 1: the reference"),
    "a group too large": ({"group_size": 64}, "group_size is 64, which does not divide the 32 inputs of layers.0.q"),
    "a group cut": ({"group_size": 16}, "cuts a group of 16 inputs"),
    "nothing of that name": ({"minimize": "bytes"}, "minimize is 'bytes'; choose one of latency, parameters, weight"),
    "no objective": ({"minimize": "latency"}, "which is not among the objectives accuracy, weight_bytes"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused_before_anything_is_made(folder, changes: dict, said: str) -> None:
    with pytest.raises(NasEngineError, match=said):
        run_job(small(folder, **changes), progress=False)
    assert not [file for file in (folder / "run").iterdir() if file.is_dir()]


def test_models_of_which_no_versions_are_made_are_refused(tmp_path) -> None:
    with_model(tmp_path, tiny_qwen3_moe)
    with pytest.raises(NasEngineError, match="mixtures of experts"):
        run_job(small(tmp_path, space=({"lora_rank": {"ranks": [4], "targets": ["q"]}}, BITS)), progress=False)


def test_an_estimate_counts_versions_and_what_is_read_of_them(folder) -> None:
    found = estimate_search(small(folder), timed=False)
    names = [stage.name for stage in found.stages]
    assert names[:5] == ["load", "calibration texts", "order", "versions", "plain LoRA"]
    order, versions = found.stages[2:4]
    model = load_model(folder / "model")[0]
    numbers = sum(weight.numel() for _, _, weight in projections_of(model))
    assert versions.written == numbers * (4 + 3 * 2)  # the dense one, and three others in half precision
    assert order.written == bytes_of_model(model)
    assert versions.operations > order.operations
    # Nothing to put in order, and nothing is written.
    _, fewer, *_ = estimate_search(small(folder, space=(RANKS, BITS), generated=0.0), timed=False).stages
    assert (fewer.name, fewer.written) == ("versions", numbers * (4 + 2))
    assert not (folder / "run").exists()


def test_an_estimate_refuses_what_a_job_refuses(folder, tmp_path) -> None:
    with pytest.raises(CompressionError, match="group_size is 64, which does not divide the 32 inputs"):
        estimate_search(small(folder, group_size=64), timed=False)
    with_model(tmp_path, tiny_qwen3_moe)
    with pytest.raises(CompressionError, match="mixtures of experts"):
        estimate_search(small(tmp_path, space=({"lora_rank": {"ranks": [4], "targets": ["q"]}}, BITS)), timed=False)
