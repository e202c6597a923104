"""OpenVINO and ONNX Runtime as they are asked: what each stores, and the process that computes with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

from nas_engine.deploy.exported import OnnxWeights, OpenVinoWeights
from nas_engine.deploy.processes import answered
from nas_engine.errors import ExportError

_PROCESS = Path(__file__).with_name("graph_process.py")
_DECODED = 16  # tokens of which the mean time is taken


@dataclass(frozen=True)
class GraphRuntime:
    """A runtime that computes graphs.

    Args:
        name: as a process and `Latency` know it.
        title: as people know it.
        extra: of this package, which installs it.
        writers: packages that write its graphs.
        weights: what it stores matrices as.
        floats: what a matrix that lies on no grid is stored as, unless asked otherwise.
        rounds: it computes with fewer bits than stored ones, unless told otherwise.
        file: the graph in its folder.
        tolerances: differences of log-probabilities that are usual, in nats, by what is stored; None for integers kept.
    """

    name: str
    title: str
    extra: str
    writers: tuple[str, ...]
    weights: tuple[str, ...]
    floats: str
    rounds: bool
    file: str
    tolerances: Mapping[str | None, float]

    def require_writers(self) -> None:
        """Check that what writes its graphs is installed.

        Raises:
            ExportError: it is not.
        """
        self._require(*self.writers)

    def require(self) -> None:
        """Check that the runtime is installed.

        Raises:
            ExportError: it is not.
        """
        self._require(self.name)

    def _require(self, *packages: str) -> None:
        for package in packages:
            if find_spec(package) is None:
                raise ExportError(
                    f"the package {package} is not installed; install it with: pip install 'nas-engine[{self.extra}]'."
                )

    def answers(
        self, folders: Sequence[Path], calls: Sequence[Mapping[str, Any]], threads: int = 1, exact: bool = False
    ) -> list[Any]:
        """What it answers to each call of `graph_process.Model`'s methods.

        Args:
            folders: of graphs, all loaded at once.
            calls: `file`, which of them, and `call`, the method's name, beside its arguments.
            threads: of the processor.
            exact: everything is computed in fp32, also where the runtime would rather not.

        Raises:
            ExportError: it is missing, does not load the graph, or fails; the end of what it said is given.
        """
        self.require()
        files = [str(folder / self.file) for folder in folders]
        given = {"runtime": self.name, "files": files, "threads": threads, "exact": exact, "calls": list(calls)}
        return answered(_PROCESS, given, self.title)

    def timed(
        self,
        folders: Sequence[Path],
        batch: int,
        tokens: int,
        decode: bool,
        repeats: int,
        warmup: int,
        threads: int,
    ) -> list[list[float]]:
        """Seconds of reading a prompt, or with `decode` of each token behind it, of every graph, taken in turns.

        Raises:
            ExportError: as `answers`.
        """
        call = {"call": "timed", "batch": batch, "tokens": tokens, "new_tokens": _DECODED if decode else 0}
        rounds = [{"file": number} | call for _ in range(warmup + repeats) for number in range(len(folders))]
        said = self.answers(folders, rounds, threads)[warmup * len(folders) :]
        times = [one["token" if decode else "prompt"] for one in said]
        return [times[number :: len(folders)] for number in range(len(folders))]


OPENVINO = GraphRuntime(
    "openvino", "OpenVINO", "openvino", ("openvino",), get_args(OpenVinoWeights), "f16", True, "openvino_model.xml",
    dict.fromkeys(("f32", "f16", "int8", "int4", None), 0.5),
)  # fmt: skip
ONNX = GraphRuntime(
    "onnxruntime", "ONNX Runtime", "onnx", ("onnx",), get_args(OnnxWeights), "f32", False, "model.onnx",
    dict.fromkeys(("f32", "int8", "int4", None), 0.5),
)  # fmt: skip
