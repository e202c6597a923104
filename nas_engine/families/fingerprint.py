"""What a base and its tokenizer are known by: digests of all that they compute with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from evaluators.text.encoding import encoding_state
from search_spaces.fingerprint import fingerprint_of

# Fields of a configuration that say where a model is from or how it is run, and not what it computes.
_PROVENANCE = {
    *("_name_or_path", "transformers_version", "architectures", "auto_map", "use_cache", "quantization_config"),
    *("dtype", "torch_dtype"),  # the weights have it
}


def base_fingerprint(model: PreTrainedModel, head: tuple[str, ...]) -> str:
    """16 hexadecimal digits of a model's weights and configuration, without the modules of `head`."""
    described = {key: value for key, value in model.config.to_dict().items() if key not in _PROVENANCE}
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith(tuple(f"{path}." for path in head)):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        # All of them: a change of one row of the embeddings is another model.
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """16 hexadecimal digits of how texts become tokens."""
    described: dict[str, Any] = {
        "encoding": encoding_state(tokenizer),
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id],
        "template": getattr(tokenizer, "chat_template", None),
    }
    if tokenizer.is_fast:
        # Padding and truncation are those of the last call.
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        described["backend"] = {key: value for key, value in backend.items() if key not in ("padding", "truncation")}
    else:
        described["vocabulary"] = tokenizer.get_vocab()
    return fingerprint_of(described)
