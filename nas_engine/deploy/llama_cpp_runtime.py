"""llama.cpp as a runtime in which sub-networks are timed: `Latency(runtime="llama.cpp")`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from evaluators import Subnetwork
from evaluators.latency.timing import Timing
from evaluators.latency.workload import Workload
from nas_engine.deploy.deployed import Deployed
from nas_engine.deploy.exported import Weights
from nas_engine.deploy.formats import export
from nas_engine.deploy.llama_cpp import require_llama_cpp, time_files
from search_spaces.fingerprint import fingerprint_of

_STORED: Weights = "f16"


class LlamaCpp:
    """Writes GGUF files, unchecked, and lets llama.cpp's server time a prompt or the tokens behind it."""

    def require(self, workload: Workload, device: str, dtype: str | None) -> None:
        """See `Runtime.require`."""
        require_llama_cpp()
        if device != "cpu" or workload.cuda_graphs:
            raise ValueError(f"llama.cpp is timed on the cpu, not on {device!r}; leave device and cuda_graphs out.")
        if workload.batch != 1:
            raise ValueError(f"batch is {workload.batch}; llama.cpp is timed on one sequence.")
        if dtype is not None and dtype not in get_args(Weights):
            raise ValueError(f"dtype is {dtype!r}; llama.cpp stores {', '.join(get_args(Weights))}.")

    def deployed(self, subnet: Subnetwork, dtype: str | None) -> Deployed:
        """See `Runtime.deployed`; ``f16`` where no `dtype` is given.

        Raises:
            ExportError: llama.cpp cannot express the sub-network.
        """
        folder = tempfile.TemporaryDirectory(prefix="nas-engine-")
        weights: Any = dtype or _STORED
        file = Path(folder.name) / "subnet.gguf"
        extracted = subnet.extract(share_embeddings=True)
        return Deployed(export(extracted, subnet.tokenizer, file, weights=weights, check=False), folder)

    def time(
        self, deployed: Sequence[Deployed], workload: Workload, repeats: int, warmup: int, threads: int
    ) -> list[Timing]:
        """See `Runtime.time`.

        Raises:
            ExportError: llama.cpp fails.
        """
        files = [one.export.file for one in deployed]
        seconds = time_files(files, workload.tokens, workload.phase == "decode", repeats, warmup, threads)
        return [Timing(tuple(times)) for times in seconds]

    def fingerprint(self, deployed: Deployed) -> str:
        """See `Runtime.fingerprint`: of the names, shapes and types of tensors."""
        import gguf

        tensors = gguf.GGUFReader(deployed.export.file).tensors
        sizes = [(tensor.name, tensor.shape.tolist(), tensor.tensor_type.name) for tensor in tensors]
        return fingerprint_of(sizes)

    def settings(self) -> Mapping[str, Any]:
        """See `Runtime.settings`."""
        return {"version": version("xllamacpp")}
