"""The names of the dimensions that a super-network knows, as its space's choices carry them."""

RANK, WIDTH, HEADS, SKIP = "lora_rank", "mlp_width", "attention_heads", "layer_skip"
EXPERTS = "experts"  # which is also the module that has them
BITS, DENSITY = "weight_bits", "density"
