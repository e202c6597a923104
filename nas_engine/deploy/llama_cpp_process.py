"""What runs llama.cpp, in a process of its own: it may abort, and its threads stay its own. Imports nothing of ours.

Reads one JSON object from standard input: `files`, `threads`, `context`, `exact`, and `calls`, each the number of a
file and the name of a method below with its arguments. Writes what they gave, a list, to the path in its only argument.
"""

from __future__ import annotations

import json
import sys
import urllib.error
import urllib.request
from typing import Any


class LlamaServer:
    """A server of llama.cpp in this process.

    Args:
        file: GGUF.
        threads: of the processor.
        context: tokens that fit.
        exact: keys and values are cached in fp32, and attention is computed plainly.
    """

    def __init__(self, file: str, threads: int, context: int, exact: bool) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = file
        params.n_ctx = context
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.warmup = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        if exact:
            params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
            params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._server = xllamacpp.Server(params)

    def tokens(self, text: str) -> Any:
        """The tokens that a text is read as."""
        return self._post("tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def greedy(self, prompt: list[int], new_tokens: int, top: int) -> list[dict[str, Any]]:
        """The likeliest continuation: `token` at each position, and `likely`, pairs of a token and its log-probability.

        The server says nothing of positions inside a character of several tokens: `likely` is empty there.
        """
        taken = self._complete(prompt, n_predict=new_tokens, return_tokens=True)["tokens"]
        found = []
        for position, token in enumerate(taken):
            read = prompt + taken[:position]
            said = self._complete(read, n_predict=1, n_probs=top, cache_prompt=True).get("completion_probabilities")
            likely = [(entry["id"], entry["logprob"]) for entry in said[0]["top_logprobs"]] if said else []
            found.append({"token": token, "likely": likely})
        return found

    def timed(self, prompt: list[int], new_tokens: int) -> Any:
        """The server's own clock for reading a prompt and writing new tokens."""
        return self._complete(prompt, n_predict=new_tokens, ignore_eos=True)["timings"]

    def _complete(self, prompt: list[int], **settings: Any) -> Any:
        return self._post("completion", {"prompt": prompt, "temperature": 0, "cache_prompt": False} | settings)

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        address = f"{self._server.listening_address}/{path}"
        request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:  # what was wrong is in the body
            raise RuntimeError(f"error: {error.read().decode(errors='replace')}") from error


def main() -> None:
    """Answer all calls that standard input holds, into the file that the first argument names."""
    given = json.load(sys.stdin)
    files, calls = given.pop("files"), given.pop("calls")
    runtimes = [LlamaServer(file, **given) for file in files]
    result = [getattr(runtimes[call.pop("file")], call.pop("call"))(**call) for call in calls]
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(result, file)


if __name__ == "__main__":
    main()
