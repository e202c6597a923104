"""The table of families and dimensions in docs/deployment.md, made by exporting to llama.cpp and comparing there.

Run as ``python -m tests.deployment_table`` to write it anew.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from nas_engine import SuperNetwork
from nas_engine.errors import ExportError
from search_spaces import SpaceTemplate, Value, attention_heads, layer_skip, lora_rank, mlp_width
from tests.family_table import replace_table
from tests.supernets import random_adapters
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


if __name__ == "__main__":
    replace_table(PAGE, START, table())
