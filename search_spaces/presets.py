"""The papers' published spaces as compositions, for any number of layers."""

from __future__ import annotations

from search_spaces.dimensions.lora_rank import lora_rank
from search_spaces.dimensions.mlp_width import mlp_width
from search_spaces.template import SpaceTemplate


def lonas_space(multiple_of: int = 1) -> SpaceTemplate:
    """LoNAS's space for LLaMA-7B (LREC-COLING 2024, appendix): 3 genes a layer, 96 with 32 layers.

    Attention rank 32 or 28, MLP rank 32 or 28, and MLP width from 100 to 50 % in steps of 12.5 %. The adapter of
    `down` keeps rank 32.
    """
    return (
        lora_rank((32, 28), targets=("q", "k", "v"))
        + mlp_width((1.0, 0.875, 0.75, 0.625, 0.5), multiple_of)
        + lora_rank((32, 28), targets=("gate", "up"), skip_missing=True)
        + lora_rank((32,), targets=("down",))
    )


def shears_space() -> SpaceTemplate:
    """Shears' space (arXiv 2404.10934, section 3): ranks 32, 24, 16; q, k and v share one."""
    return lora_rank((32, 24, 16), targets=("q", "k", "v", "up", "down"), share=(("q", "k", "v"), ("up",), ("down",)))


def sqft_space() -> SpaceTemplate:
    """SQFT's default space (arXiv 2410.03750, section 4): one rank of 32, 24, 16 a layer, shared by q, k and v."""
    return lora_rank((32, 24, 16), targets=("q", "k", "v"))
