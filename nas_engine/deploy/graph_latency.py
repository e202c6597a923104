"""OpenVINO and ONNX Runtime as runtimes in which sub-networks are timed: `Latency(runtime="openvino")`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluators import Subnetwork
from evaluators.latency.timing import Timing
from evaluators.latency.workload import Workload
from nas_engine.deploy.deployed import Deployed
from nas_engine.deploy.formats import export
from nas_engine.deploy.graph_runtimes import ONNX, OPENVINO, GraphRuntime
from search_spaces.fingerprint import fingerprint_of


class _Graphs:
    """Writes graphs, unchecked, and lets the runtime read a prompt or write the tokens behind it."""

    runtime: GraphRuntime
    format: str

    def require(self, workload: Workload, device: str, dtype: str | None) -> None:
        """See `Runtime.require`."""
        self.runtime.require_writers()
        self.runtime.require()
        title = self.runtime.title
        if device != "cpu" or workload.cuda_graphs:
            raise ValueError(f"{title} is timed on the cpu, not on {device!r}; leave device and cuda_graphs out.")
        if dtype is not None and dtype not in self.runtime.weights:
            raise ValueError(f"dtype is {dtype!r}; {title} stores {', '.join(self.runtime.weights)}.")

    def deployed(self, subnet: Subnetwork, dtype: str | None) -> Deployed:
        """See `Runtime.deployed`; ``f16``, in ONNX ``f32``, where no `dtype` is given.

        Raises:
            ExportError: the runtime cannot express the sub-network.
        """
        folder = tempfile.TemporaryDirectory(prefix="nas-engine-")
        extracted = subnet.extract(share_embeddings=True)
        written = export(
            extracted,
            subnet.tokenizer,
            Path(folder.name) / "subnet",
            format=self.format,
            weights=dtype or self.runtime.floats,
            check=False,
        )
        return Deployed(written, folder)

    def time(
        self, deployed: Sequence[Deployed], workload: Workload, repeats: int, warmup: int, threads: int
    ) -> list[Timing]:
        """See `Runtime.time`.

        Raises:
            ExportError: the runtime fails.
        """
        folders = [one.export.file for one in deployed]
        decode = workload.phase == "decode"
        seconds = self.runtime.timed(folders, workload.batch, workload.tokens, decode, repeats, warmup, threads)
        return [Timing(tuple(times)) for times in seconds]

    def fingerprint(self, deployed: Deployed) -> str:
        """See `Runtime.fingerprint`: of the names, shapes and types of weights."""
        sizes = self._sizes(deployed.export.file / self.runtime.file)
        return fingerprint_of(sizes)

    def settings(self) -> Mapping[str, Any]:
        """See `Runtime.settings`."""
        return {"version": version(self.runtime.name), "logits": "last"}

    def _sizes(self, file: Path) -> list[Any]:
        raise NotImplementedError


class OpenVino(_Graphs):
    """OpenVINO, with its own settings for latency."""

    runtime, format = OPENVINO, "openvino"

    def _sizes(self, file: Path) -> list[Any]:
        import openvino

        constants = [node for node in openvino.Core().read_model(file).get_ops() if node.get_type_name() == "Constant"]
        return sorted(
            [node.get_friendly_name(), list(node.shape), node.get_element_type().get_type_name()]
            for node in constants
            if node.get_friendly_name().startswith("self.")
        )


class OnnxRuntime(_Graphs):
    """ONNX Runtime on the processor."""

    runtime, format = ONNX, "onnx"

    def _sizes(self, file: Path) -> list[Any]:
        from nas_engine.deploy.onnx_graph import tensors

        return sorted([tensor.name, list(tensor.dims), tensor.data_type] for tensor in tensors(file))
