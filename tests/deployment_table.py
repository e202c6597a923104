"""The tables of families and dimensions in docs/deployment.md, made by exporting to runtimes and comparing there.

Run as ``python -m tests.deployment_table [llama.cpp] [graphs]`` to write them anew.
"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from nas_engine import SuperNetwork
from nas_engine.errors import ExportError
from search_spaces import SpaceTemplate, Value, attention_heads, layer_skip, lora_rank, mlp_width
from tests.family_table import replace_table
from tests.supernets import FAMILIES, random_adapters
from tests.tiny import (
    tiny_bloom,
    tiny_gemma2,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_mistral,
    tiny_mpt,
    tiny_opt,
    tiny_phi3,
    tiny_qwen2,
    tiny_qwen3,
    tiny_tokenizer,
)

PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"
START = "| family |"
GRAPHS_START = "| all at once |"
GRAPHS = {"OpenVINO": "openvino", "ONNX Runtime": "onnx"}
MODELS = {
    "llama (SmolLM2)": tiny_llama,
    "mistral": tiny_mistral,
    "qwen2": tiny_qwen2,
    "qwen3, tied output": lambda: tiny_qwen3(tie_word_embeddings=True),
    "qwen3": lambda: tiny_qwen3(tie_word_embeddings=False),
    "gemma2": tiny_gemma2,
    "gemma3": tiny_gemma3,
    "phi3": lambda: tiny_phi3(vocab_size=len(phi3_tokenizer())),
    "gpt2": tiny_gpt2,
    "bloom": tiny_bloom,
    "opt": tiny_opt,
    "mpt": tiny_mpt,
}
_ALL, _ONE = 1000, 1  # layers that share a gene
DIMENSIONS: dict[str, tuple[SpaceTemplate, str]] = {  # a space, and which of its genes are at their smallest
    "rank": (lora_rank((4, 2)), ""),
    "one width": (mlp_width((1.0, 0.5), layers_per_gene=_ALL), ""),
    "different widths": (mlp_width((1.0, 0.5), layers_per_gene=_ONE), "layers.1."),
    "fewer heads": (attention_heads((1.0, 0.5), layers_per_gene=_ALL), ""),
    "different heads": (attention_heads((1.0, 0.5), layers_per_gene=_ONE), "layers.1."),
    "without an MLP": (layer_skip(), "layers.1.mlp"),
    "without attention": (layer_skip(), "layers.1.attention"),
    "without a layer": (layer_skip(), "layers.1."),
}


EVERY_DIMENSION = (
    lora_rank((4, 2), ("q", "k", "v", "o", "gate", "up", "down"), skip_missing=True)
    + mlp_width((1.0, 0.5))
    + attention_heads((1.0, 0.5))
    + layer_skip()
)
_OUT = ("layers.0.attention.keep", "layers.1.attention.keep", "layers.1.mlp.keep", "layers.2.mlp.keep")
_SMALLEST = ("layers.0.mlp.width", "layers.2.attention.heads")


def phi3_tokenizer() -> PreTrainedTokenizerBase:
    """llama.cpp asks a Phi-3 for three tokens by name."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken(token, special=True) for token in ("<unk>", "<s>", "<|endoftext|>")])
    return tokenizer


def table() -> list[str]:
    """The lines of the table, one a family: the architecture that llama.cpp builds, or none."""
    head = [f"{START} {' | '.join(DIMENSIONS)} |", "|---" * (len(DIMENSIONS) + 1) + "|"]
    with tempfile.TemporaryDirectory() as folder:
        return head + [
            f"| {name} | {' | '.join(_cell(name, *of, Path(folder)) for of in DIMENSIONS.values())} |"
            for name in MODELS
        ]


def _cell(family: str, space: SpaceTemplate, smallest: str, folder: Path) -> str:
    tokenizer = phi3_tokenizer() if family == "phi3" else tiny_tokenizer()
    supernet = random_adapters(SuperNetwork.from_pretrained(MODELS[family](), space, tokenizer))
    configuration: Mapping[str, Value] = {
        gene.name: gene.values[0 if gene.name.startswith(smallest) else -1] for gene in supernet.space.genes
    }
    subnet = supernet.subnetwork(configuration)
    try:
        return subnet.export("gguf", folder / "m.gguf", weights="f32", texts=("the water on",)).architecture
    except ExportError:
        return "–"


def graph_row(family: str, folder: Path) -> str:
    """A line of the second table: where every dimension leaves at once.

    The first layer is narrower and has no attention, the second one is gone, the third one has fewer heads and no MLP.
    """
    supernet = random_adapters(SuperNetwork.from_pretrained(FAMILIES[family](), EVERY_DIMENSION, tiny_tokenizer()))
    configuration = {
        gene.name: gene.values[0]
        if gene.dimension == "lora_rank" or gene.name in (*_OUT, *_SMALLEST)
        else gene.values[-1]
        for gene in supernet.space.genes
    }
    assert {*_OUT, *_SMALLEST} <= {*configuration}
    subnet, cells = supernet.subnetwork(configuration), []
    for format in GRAPHS.values():
        try:
            made = subnet.export(format, folder / format, weights="f32", texts=("the water on",))
            cells.append("yes" if made.check and made.check.exact < 1e-3 else "–")
        except ExportError:
            cells.append("–")
    return f"| {family} | {' | '.join(cells)} |"


def graph_table() -> list[str]:
    """The lines of the second table, one a family."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [graph_row(family, Path(folder) / family) for family in FAMILIES]
    return [f"{GRAPHS_START} {' | '.join(GRAPHS)} |", "|---" * (len(GRAPHS) + 1) + "|", *rows]


if __name__ == "__main__":
    asked = sys.argv[1:] or ["llama.cpp", "graphs"]
    if "llama.cpp" in asked:
        replace_table(PAGE, START, table())
    if "graphs" in asked:
        replace_table(PAGE, GRAPHS_START, graph_table())
