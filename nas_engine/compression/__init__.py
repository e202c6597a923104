"""Sparse and quantized bases: Wanda, GPTQ, their baselines, and files that other tools load."""

from nas_engine.compression.calibration import calibrated_layers
from nas_engine.compression.checkpoint import load_quantized, save_quantized
from nas_engine.compression.grid import Grid, GridSettings, dequantize, find_grid, quantize
from nas_engine.compression.quantization import Quantization, quantize_model
from nas_engine.compression.rounding import QuantizedWeight, gptq, round_to_nearest
from nas_engine.compression.sparsification import sparsify, sparsity_report
from nas_engine.compression.sparsity import NOfM, Unstructured, magnitude_mask, pattern_of, wanda_mask
from nas_engine.errors import CompressionError

__all__ = [
    "CompressionError",
    "Grid",
    "GridSettings",
    "NOfM",
    "Quantization",
    "QuantizedWeight",
    "Unstructured",
    "calibrated_layers",
    "dequantize",
    "find_grid",
    "gptq",
    "load_quantized",
    "magnitude_mask",
    "pattern_of",
    "quantize",
    "quantize_model",
    "round_to_nearest",
    "save_quantized",
    "sparsify",
    "sparsity_report",
    "wanda_mask",
]
