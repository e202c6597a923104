"""What runs OpenVINO or ONNX Runtime, in a process of its own: its threads stay its own. Imports nothing of ours.

Reads one JSON object from standard input: `runtime`, `files`, `threads`, `exact`, and `calls`, each the number of a
file and the name of a method below with its arguments. Writes what they gave, a list, to the path in its only argument.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np


class Model:
    """A model that reads tokens behind those that it has read."""

    def forget(self) -> None:
        """Begin anew."""
        raise NotImplementedError

    def read(self, ids: np.ndarray, before: int) -> np.ndarray:
        """Logits of new tokens `ids`, shape (batch, tokens), `before` of which others were read; of the last alone
        where the graph gives no others.
        """
        raise NotImplementedError

    def continued(self, prompt: list[int], new_tokens: int, top: int) -> dict[str, list[dict[str, Any]]]:
        """The likeliest continuation: `token` at each position, and `likely`, pairs of a token and its log-probability.

        ``cached`` was read token by token, ``whole`` all at once and behind nothing; of a graph that gives the last
        token's logits alone, for each position anew.
        """
        self.forget()
        cached = [_position(self.read(np.array([prompt]), 0)[0, -1], top)]
        while len(cached) < new_tokens:
            read = len(prompt) + len(cached) - 1
            cached.append(_position(self.read(np.array([[cached[-1]["token"]]]), read)[0, -1], top))
        tokens = prompt + [position["token"] for position in cached[:-1]]
        self.forget()
        logits = self.read(np.array([tokens]), 0)[0]
        if len(logits) == len(tokens):
            return {"cached": cached, "whole": [_position(row, top) for row in logits[len(prompt) - 1 :]]}
        whole = [_position(logits[-1], top)]
        for end in range(len(tokens) - 1, len(prompt) - 1, -1):
            self.forget()
            whole.insert(0, _position(self.read(np.array([tokens[:end]]), 0)[0, -1], top))
        return {"cached": cached, "whole": whole}

    def timed(self, batch: int, tokens: int, new_tokens: int) -> dict[str, float]:
        """Seconds of reading a prompt, and of each of `new_tokens` behind it."""
        self.forget()
        ids = np.ones((batch, tokens), np.int64)
        started = time.perf_counter()
        self.read(ids, 0)
        read = time.perf_counter()
        for position in range(tokens, tokens + new_tokens):
            self.read(ids[:, :1], position)
        each = (time.perf_counter() - read) / new_tokens if new_tokens else 0.0
        return {"prompt": read - started, "token": each}


class OpenVinoModel(Model):
    """OpenVINO, with the cache as its state."""

    def __init__(self, file: str, threads: int, exact: bool) -> None:
        import openvino

        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        if exact:
            settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32",
                         "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}  # fmt: skip
        compiled = openvino.Core().compile_model(file, "CPU", settings)
        self._request = compiled.create_infer_request()
        self._positions = any("position_ids" in port.get_names() for port in compiled.inputs)

    def forget(self) -> None:
        """See `Model`."""
        self._request.reset_state()

    def read(self, ids: np.ndarray, before: int) -> np.ndarray:
        """See `Model`."""
        given = _inputs(ids, before, self._positions)
        given["beam_idx"] = np.arange(len(ids), dtype=np.int32)
        self._request.infer(given, share_inputs=True)
        logits: np.ndarray = self._request.get_output_tensor(0).data
        return logits


class OnnxModel(Model):
    """ONNX Runtime, with the cache going out and in again."""

    def __init__(self, file: str, threads: int, exact: bool) -> None:
        import onnxruntime

        del exact  # it computes in fp32 unless the file says otherwise
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._tensor = onnxruntime.OrtValue.ortvalue_from_numpy
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        inputs = {port.name: port.shape for port in self._session.get_inputs()}
        self._shapes = {name: shape for name, shape in inputs.items() if name.startswith("past_key_values.")}
        self._asked = {*inputs}  # a graph without attention needs no mask
        self._outputs = ["logits", *(name.replace("past_key_values", "present") for name in self._shapes)]
        self._past: dict[str, Any] = {}

    def forget(self) -> None:
        """See `Model`."""
        self._past = {}

    def read(self, ids: np.ndarray, before: int) -> np.ndarray:
        """See `Model`."""
        if not before:
            self._past = {
                name: self._tensor(np.zeros((len(ids), heads, 0, channels), np.float32))
                for name, (_, heads, _, channels) in self._shapes.items()
            }
        values = _inputs(ids, before, positions=True)
        given = {name: self._tensor(value) for name, value in values.items() if name in self._asked}
        logits, *present = self._session.run_with_ort_values(self._outputs, given | self._past)
        self._past = dict(zip(self._shapes, present, strict=True))
        found: np.ndarray = logits.numpy()
        return found


def _inputs(ids: np.ndarray, before: int, positions: bool) -> dict[str, np.ndarray]:
    batch, tokens = ids.shape
    found = {"input_ids": ids.astype(np.int64), "attention_mask": np.ones((batch, before + tokens), np.int64)}
    if positions:
        found["position_ids"] = np.tile(np.arange(before, before + tokens, dtype=np.int64), (batch, 1))
    return found


def _position(logits: np.ndarray, top: int) -> dict[str, Any]:
    shifted = logits.astype(np.float64) - logits.max()
    log_probabilities = shifted - np.log(np.exp(shifted).sum())
    best = np.argsort(-log_probabilities, kind="stable")[:top]
    return {"token": int(best[0]), "likely": [(int(i), float(log_probabilities[i])) for i in best]}


RUNTIMES = {"openvino": OpenVinoModel, "onnxruntime": OnnxModel}


def main() -> None:
    """Answer all calls that standard input holds, into the file that the first argument names."""
    given = json.load(sys.stdin)
    runtime = RUNTIMES[given["runtime"]]
    models = [runtime(file, given["threads"], given["exact"]) for file in given["files"]]
    result = [getattr(models[call.pop("file")], call.pop("call"))(**call) for call in given["calls"]]
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
