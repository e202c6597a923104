"""Sub-networks timed in the runtimes where they are deployed, beside PyTorch.

Per runtime: a latency table is calibrated on it and predicts random sub-networks that it has not seen (`mean_error` of
the ratio to the largest, timed in turns with it); `rank_correlation` is Spearman's, of their times in PyTorch and in
the runtime; `prefill_speedup` and `decode_speedup` are those of the sub-network with every MLP at half its width and
two thirds of its heads, over the largest one. With ``--folder``, the chosen model of a run or of a `save_pretrained`
folder is exported in every weight type and timed in turns with the whole model of the same type: `models`, with bytes
and tokens a second.

`stolen` is the share of the processor's time that other guests of the host took meanwhile, where Linux tells; threads
that wait for each other, as in decoding, suffer from it most.

Run as ``python -m benchmarks.runtimes [--quick] [--runtimes llama.cpp openvino onnxruntime] [--folder RUN]
[--models-only] [--threads 1] [--dtype q8_0] [--figure FILE]``. Weights have 8 bits while runtimes are compared;
``--dtype`` is for one of them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from matplotlib.figure import Figure

from benchmarks._common import arguments, load, print_json
from evaluators import Latency, LatencyTable
from nas_engine import Subnetwork, SuperNetwork
from nas_engine.deploy import FORMATS, export, export_folder
from nas_engine.deploy.graph_runtimes import ONNX, OPENVINO
from nas_engine.deploy.llama_cpp import time_files
from search_spaces import attention_heads, layer_skip, lora_rank, mlp_width

SPACE = (
    lora_rank((8,))
    + mlp_width((1.0, 0.75, 0.5, 0.25), multiple_of=32)
    + attention_heads((1.0, 0.67, 0.34))
    + layer_skip()
)
# By runtime: the format of its files, and what weights are stored as while runtimes are compared.
RUNTIMES = {"llama.cpp": ("gguf", "q8_0"), "openvino": ("openvino", "int8"), "onnxruntime": ("onnx", "int8")}


def half(supernet: SuperNetwork) -> Subnetwork:
    """Half the width, two thirds of the heads, no block left out."""
    fractions = {"mlp_width": 0.5, "attention_heads": 0.67}
    configuration = dict(supernet.largest.configuration)
    for gene in supernet.space.genes:
        if gene.dimension in fractions:
            wanted = fractions[gene.dimension] * float(gene.values[-1])
            configuration[gene.name] = min(gene.values, key=lambda value: abs(float(value) - wanted))
    return supernet.subnetwork(configuration)


def compared(name: str, supernet: SuperNetwork, given: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """The figures of one runtime, and the ratios of unseen sub-networks there and in PyTorch."""
    quick = given.quick
    settings: dict[str, Any] = {"threads": given.threads, "repeats": 3 if quick else 8, "wait_seconds": 600}
    there: dict[str, Any] = {"runtime": name, "dtype": given.dtype or RUNTIMES[name][1], **settings}
    tokens = 16 if quick else 128
    table = LatencyTable.calibrate(supernet, Latency(tokens=tokens, **there), levels=4, samples=2 if quick else 12)
    genomes = supernet.space.sample(np.random.default_rng(1), 3 if quick else 16)
    subnets = [supernet.subnetwork(supernet.space.configuration(genome)) for genome in genomes]
    frame = table.validate(subnets, supernet.largest, settings["repeats"])
    here = Latency(tokens=tokens, reference=supernet.largest, **settings)
    frame["pytorch_ratio"] = [here(subnet).value for subnet in subnets]
    print(frame.round(3).to_string())
    speedups = {
        f"{phase}_speedup": 1
        / Latency(tokens=tokens, phase=phase, reference=supernet.largest, **there)(half(supernet)).value
        for phase in ("prefill", "decode")
    }
    return {
        "dtype": there["dtype"],
        "mean_error": round(frame["ratio_error"].abs().mean(), 4),
        "max_error": round(frame["ratio_error"].abs().max(), 4),
        "rank_correlation": round(frame["measured_ratio"].corr(frame["pytorch_ratio"], method="spearman"), 4),
        **{key: round(value, 3) for key, value in speedups.items()},
    }, frame


def deployed(folder: Path, name: str, given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The compressed model of `folder` beside the whole one in a runtime, by weight type."""
    format, _ = RUNTIMES[name]
    whole, tokenizer = load(given.quick)
    found = {}
    with tempfile.TemporaryDirectory() as written:
        for weights in FORMATS[format]:
            files = [Path(written) / f"{which}-{weights}.{format}" for which in ("whole", "compressed")]
            stored: dict[str, Any] = {"format": format, "weights": weights, "check": False}
            bytes_of = (
                export(whole, tokenizer, files[0], **stored).bytes,
                export_folder(folder, files[1], **stored).bytes,
            )
            tokens, repeats = 128, 3 if given.quick else 8
            reads, writes = (_times(name, files, tokens, decode, repeats, given.threads) for decode in (False, True))
            found[weights] = {
                "whole_bytes": bytes_of[0],
                "bytes": bytes_of[1],
                "whole_prefill_tokens_per_second": round(tokens / float(np.median(reads[0])), 1),
                "prefill_tokens_per_second": round(tokens / float(np.median(reads[1])), 1),
                "whole_decode_tokens_per_second": round(1 / float(np.median(writes[0])), 1),
                "decode_tokens_per_second": round(1 / float(np.median(writes[1])), 1),
                "prefill_speedup": round(float(np.median(np.divide(*reads))), 3),
                "decode_speedup": round(float(np.median(np.divide(*writes))), 3),
            }
            print(name, weights, found[weights], flush=True)
            for file in files:
                shutil.rmtree(file) if file.is_dir() else file.unlink()
    return found


def _times(name: str, files: list[Path], tokens: int, decode: bool, repeats: int, threads: int) -> list[list[float]]:
    if name == "llama.cpp":
        return time_files(files, tokens, decode, repeats, 1, threads)
    runtime = {"openvino": OPENVINO, "onnxruntime": ONNX}[name]
    return runtime.timed(files, 1, tokens, decode, repeats, 1, threads)


def _processor_seconds() -> tuple[float, float]:
    """So far, those that other guests took, where the system tells, and all."""
    times = psutil.cpu_times()
    return getattr(times, "steal", 0.0), sum(times)


def draw(frame: Any, name: str, file: Path) -> None:
    """Times in the runtime over those in PyTorch, each a fraction of the largest sub-network's."""
    figure = Figure(figsize=(3.4, 3.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":", label="the same ratio")
    axes.scatter(frame["pytorch_ratio"], frame["measured_ratio"], s=18, color="#1f4e79", label="sub-networks")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.set_xlabel("time in PyTorch, of the largest's", fontsize=9)
    axes.set_ylabel(f"time in {name}, of the largest's", fontsize=9)
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.legend(fontsize=8, frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=200)


def main() -> None:
    """Measure, and print one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--folder", type=Path, help="a run, or what save_pretrained wrote, to be timed in every type")
    parser.add_argument("--models-only", action="store_true", help="with --folder: time its model alone")
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=[*RUNTIMES], help="all by default")
    parser.add_argument("--dtype", help="of weights while runtimes compare, in the words of the only one asked for")
    parser.add_argument("--threads", type=int, default=2, help="of the processor")
    parser.add_argument("--figure", type=Path, help="draw the runtime over PyTorch")
    given = parser.parse_args()
    if given.dtype and len(given.runtimes) > 1:
        parser.error("--dtype is in the words of one runtime; give --runtimes and one name")
    if given.models_only and not given.folder:
        parser.error("--models-only times the model of a --folder; give one")
    torch.set_num_threads(given.threads)
    before = _processor_seconds()
    runtimes = {} if given.models_only else _all_compared(given)
    models = {"models": {name: deployed(given.folder, name, given) for name in given.runtimes}} if given.folder else {}
    stolen, passed = (now - then for now, then in zip(_processor_seconds(), before, strict=True))
    about = {"threads": given.threads, "torch": torch.__version__, "stolen": round(stolen / max(passed, 1.0), 4)}
    print_json({"runtimes": runtimes, **models, **about})


def _all_compared(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    quick = {"hidden_size": 192, "intermediate_size": 128, "num_attention_heads": 6, "num_key_value_heads": 2}
    sizes = quick if given.quick else {}
    model, tokenizer = load(given.quick, **sizes)
    supernet = SuperNetwork.from_pretrained(model, SPACE, tokenizer)
    runtimes = {}
    for name in given.runtimes:
        runtimes[name], frame = compared(name, supernet, given)
        if given.figure:
            draw(frame, name, given.figure.with_stem(f"{given.figure.stem}-{name}"))
    return runtimes


if __name__ == "__main__":
    main()
