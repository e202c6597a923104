"""What may vary in a super-network: genes, spaces, genomes and configurations. Knows no network."""

from search_spaces.attention_heads import attention_heads
from search_spaces.choice import Choice, Value
from search_spaces.errors import ConfigurationError, SpaceError
from search_spaces.layer_skip import layer_skip
from search_spaces.lora_rank import lora_rank
from search_spaces.mlp_width import mlp_width
from search_spaces.presets import lonas, shears, sqft
from search_spaces.shape import ModelShape
from search_spaces.space import Configuration, Genome, SearchSpace
from search_spaces.sparsity import sparsity
from search_spaces.template import Dimension, SpaceTemplate
from search_spaces.weight_bits import weight_bits

__all__ = [
    "Choice",
    "Configuration",
    "ConfigurationError",
    "Dimension",
    "Genome",
    "ModelShape",
    "SearchSpace",
    "SpaceError",
    "SpaceTemplate",
    "Value",
    "attention_heads",
    "layer_skip",
    "lonas",
    "lora_rank",
    "mlp_width",
    "shears",
    "sparsity",
    "sqft",
    "weight_bits",
]
