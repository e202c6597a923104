"""From a compressed model to a file for a runtime, checked in that runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.documents import read_document
from evaluators.multiple_choice.questions import prompt_of
from evaluators.whole_file import replacing
from nas_engine.deploy.exported import Export, ExportRequest, Logits, Weights
from nas_engine.deploy.graph_export import export_graph
from nas_engine.deploy.graph_runtimes import ONNX, OPENVINO
from nas_engine.errors import ExportError

if TYPE_CHECKING:
    from nas_engine.compression.grid import Grid

GRAPHS = {"openvino": OPENVINO, "onnx": ONNX}
# What matrices are stored as, by format.
FORMATS: Mapping[str, tuple[str, ...]] = {"gguf": get_args(Weights), "vllm": ("f32", "f16", "bf16")} | {
    name: runtime.weights for name, runtime in GRAPHS.items()
}
CHECKED_TEXTS = (
    "The capital of France is Paris, and the river that runs through it is the",
    "In 2024, 3 x 17 = 51 and 1234567 + 89 =",
    "def area(width, height):\n    return width *",
    "Où est la bibliothèque?  图书馆在哪里？\n\n\t- Là-bas, à côté de l'école 🏫 it's",
)


def export(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    file: str | Path,
    *,
    format: str = "gguf",
    weights: str | None = None,
    grids: Mapping[str, Grid] | None = None,
    tokenizer_file: str | Path | None = None,
    texts: Sequence[str] = CHECKED_TEXTS,
    check: bool = True,
    logits: Logits = "last",
) -> Export:
    """Write `model` for a runtime, and compare what that computes with what transformers does.

    Layers that differ in width or heads, or lack a block, leave too: for OpenVINO and ONNX Runtime in all families that
    generate; for llama.cpp where it has an architecture for them, in Llama, Mistral, SmolLM2 and Qwen2, and in Qwen3
    with a tied output. vLLM takes widths that differ in nearly all families, and blocks left out in Llama, Mistral,
    SmolLM2 and Qwen2.

    Args:
        model: an extracted sub-network, or any of a known family.
        tokenizer: its own.
        file: to write; it appears once it is whole and checked. For OpenVINO, ONNX and vLLM a folder, with the
            configuration and the tokenizer in it.
        format: ``"gguf"``, ``"openvino"``, ``"onnx"``, or ``"vllm"``: a folder that ``vllm serve`` takes, which is
            checked by loading it again in transformers, for vLLM lives in an environment of its own.
        weights: of matrices. GGUF: ``"f32"``, ``"f16"``, ``"bf16"``, ``"q8_0"``, ``"q4_0"``. OpenVINO: ``"f32"``,
            ``"f16"``, ``"int8"``, ``"int4"``. ONNX: ``"f32"``, ``"int8"``, ``"int4"``. With 4 bits embeddings and the
            output head have 8. vLLM: ``"f32"``, ``"f16"``, ``"bf16"``. None keeps the integers of quantized matrices,
            and is f16 elsewhere, f32 in ONNX, and what there is for vLLM.
        grids: of quantized matrices, by path in `model`.
        tokenizer_file: GGUF file of the same base model, to copy the tokenizer of a GGUF file from; needed where the
            tokenizer is no BPE that llama.cpp has a name for.
        texts: of the kind that the model is for; on them tokens, log-probabilities and greedy text are compared, first
            with everything in fp32, where nothing but the order of sums may differ, then as stored.
        check: False leaves that out, and needs no llama.cpp or ONNX Runtime.
        logits: that an OpenVINO or ONNX graph gives: ``"last"``, of the last token read, which is all that writing
            takes and spares a prompt the output head, or ``"all"``, for perplexities and assisted decoding.

    Raises:
        ExportError: the runtime cannot express the model, is not installed, or computes something else; no file is
            left.
    """
    if format not in FORMATS:
        raise ExportError(f"format is {format!r}; choose one of {', '.join(FORMATS)}.")
    if weights is not None and weights not in FORMATS[format]:
        raise ExportError(f"weights is {weights!r}; {format} stores {', '.join(FORMATS[format])}.")
    if logits not in get_args(Logits):
        raise ExportError(f"logits is {logits!r}; choose one of {', '.join(get_args(Logits))}.")
    if logits == "all" and format not in GRAPHS:
        raise ExportError(
            f"logits is of graphs; what reads {format} computes those that it is asked for. Leave it out."
        )
    if check and not any(text.strip() for text in texts):
        raise ExportError("texts is empty; give at least one, or check=False.")
    file = Path(file)
    asked = ExportRequest(model, tokenizer, file, weights, grids or {}, texts, check, logits)
    if format == "vllm":
        from nas_engine.deploy.vllm_folder import export_vllm  # it needs all of compression

        return export_vllm(asked)
    with replacing(file) as unfinished:
        if format == "gguf":
            result = _gguf(asked, unfinished, tokenizer_file)
        else:
            if tokenizer_file is not None:
                raise ExportError(f"tokenizer_file is of GGUF; for {format} the tokenizer is saved as it is.")
            size, found = export_graph(GRAPHS[format], asked, unfinished)
            result = Export(file, model.config.model_type, weights, size, found)
    about = json.dumps(asdict(result) | {"file": file.name}, indent=2)
    with replacing(file.with_name(f"{file.name}.json")) as unfinished:
        unfinished.write_text(about + "\n", encoding="utf-8")
    return result


def _gguf(asked: ExportRequest, unfinished: Path, tokenizer_file: str | Path | None) -> Export:
    if find_spec("gguf") is None:
        raise ExportError("the package gguf is not installed; install it with: pip install 'nas-engine[llamacpp]'.")
    from nas_engine.deploy.gguf_export import export_gguf  # the package is an extra

    architecture, found = export_gguf(asked, Path(tokenizer_file) if tokenizer_file else asked.tokenizer, unfinished)
    return Export(asked.file, architecture, asked.weights, unfinished.stat().st_size, found)


@dataclass(frozen=True)
class _Answer:
    question: str
    prompt: str = ""  # as the model read it; earlier versions kept the question alone


@dataclass(frozen=True)
class _Summary:
    """What a job's summary holds of this among other things."""

    answers: list[_Answer]


def export_folder(folder: str | Path, file: str | Path, **settings: Any) -> Export:
    """`export` of a folder that `save_pretrained` of a sub-network or a healed one wrote, or of a job's run folder.

    The chosen model of a run is checked on the questions in its summary, unless other `texts` are given.

    Raises:
        ModelError: nothing that loads is there.
        ExportError: as `export`.
    """
    folder = Path(folder)
    summary = folder / "summary.json"
    if summary.is_file() and (folder / "compressed").is_dir():
        answers = read_document(
            summary, _Summary, ExportError, f"{summary} is damaged; export {folder / 'compressed'} instead"
        ).answers
        settings = {
            "texts": [answer.prompt or prompt_of(answer.question) for answer in answers] or CHECKED_TEXTS
        } | settings
        folder = folder / "compressed"
    from nas_engine.deploy.folder import load_compressed  # it needs all of compression

    model, tokenizer, grids = load_compressed(folder)
    return export(model, tokenizer, file, grids=grids, **settings)


def lines_of(file: Path) -> list[str]:
    """The lines of a text file that are not empty.

    Raises:
        ExportError: it cannot be read as UTF-8, or has none.
    """
    try:
        found = [line for line in file.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise ExportError(f"{file} cannot be read: {error}.") from error
    if not found:
        raise ExportError(f"{file} has no text; give one a line.")
    return found
