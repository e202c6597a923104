"""What may vary in a super-network: genes, spaces, genomes and configurations. Knows no network."""

from search_spaces.choice import Choice, Value
from search_spaces.dimensions.attention_heads import attention_heads
from search_spaces.dimensions.experts import experts
from search_spaces.dimensions.layer_skip import layer_skip
from search_spaces.dimensions.lora_rank import lora_rank
from search_spaces.dimensions.mlp_width import mlp_width
from search_spaces.dimensions.sparsity import sparsity
from search_spaces.dimensions.weight_bits import weight_bits
from search_spaces.errors import ConfigurationError, NasEngineError, SpaceError
from search_spaces.limits import Limits
from search_spaces.module_name import ModuleName
from search_spaces.presets import lonas_space, shears_space, sqft_space
from search_spaces.shape import ModelShape
from search_spaces.space import Configuration, Genome, SearchSpace
from search_spaces.template import Dimension, SpaceTemplate

__all__ = [
    "Choice",
    "Configuration",
    "ConfigurationError",
    "Dimension",
    "Genome",
    "Limits",
    "ModelShape",
    "ModuleName",
    "NasEngineError",
    "SearchSpace",
    "SpaceError",
    "SpaceTemplate",
    "Value",
    "attention_heads",
    "experts",
    "layer_skip",
    "lonas_space",
    "lora_rank",
    "mlp_width",
    "shears_space",
    "sparsity",
    "sqft_space",
    "weight_bits",
]
