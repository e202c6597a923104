"""A GGUF file, which llama.cpp and what is built on it load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
from transformers import PreTrainedTokenizerBase

from nas_engine.deploy.gguf_architecture import sizes
from nas_engine.deploy.gguf_tensors import GgufPlan, tensors_of
from nas_engine.deploy.gguf_tokenizer import copy_tokenizer, write_tokenizer

_FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
    None: gguf.LlamaFileType.GUESSED,
}


def write_gguf(plan: GgufPlan, tokenizer: PreTrainedTokenizerBase | Path, file: Path, title: str) -> None:
    """Write `plan` to `file`.

    Args:
        tokenizer: a BPE of transformers, or the GGUF file that has the model's.
        title: the model's name, which runtimes show.

    Raises:
        ExportError: a tensor or the tokenizer cannot be expressed.
    """
    config = plan.model.config
    writer = gguf.GGUFWriter(file, plan.built)
    try:
        writer.add_name(title)
        writer.add_file_type(_FILE_TYPES[plan.weights])
        per_layer = plan.built != plan.architecture.name
        metadata = sizes(config, plan.written_blocks, per_layer) | plan.architecture.metadata(config)
        for key, value in metadata.items():
            _add(writer, f"{plan.built}.{key}", value)
        if isinstance(tokenizer, Path):
            copy_tokenizer(tokenizer, writer, config.vocab_size)
        else:
            write_tokenizer(tokenizer, writer, config.vocab_size)
        for name, (array, kind) in tensors_of(plan):
            writer.add_tensor(name, array, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
    add[type(value)](key, value)  # type: ignore[operator]
