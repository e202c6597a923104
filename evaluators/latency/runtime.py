"""Where sub-networks run once they are deployed, if not in PyTorch: the seam for timing them there.

A runtime of another package is announced by an entry point in the group `nas_engine.runtimes`; `Latency(runtime=name)`
finds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from evaluators.latency.timing import Timing
from evaluators.latency.workload import Workload
from evaluators.protocol import Subnetwork
from evaluators.registry import loaded_entry_point

GROUP = "nas_engine.runtimes"


class Runtime(Protocol):
    """Loads sub-networks and times them, in processes of its own."""

    def require(self, workload: Workload, device: str, dtype: str | None) -> None:
        """Check that it can time this.

        Raises:
            ValueError: it is not installed, or knows no such workload, device or dtype.
        """
        ...

    def deployed(self, subnet: Subnetwork, dtype: str | None) -> Any:
        """What it loads, such as a file; `dtype` is what weights are stored as, in its own words."""
        ...

    def time(
        self, deployed: Sequence[Any], workload: Workload, repeats: int, warmup: int, threads: int
    ) -> list[Timing]:
        """Time what `deployed` gave, in turns: A B C, then A B C again."""
        ...

    def fingerprint(self, deployed: Any) -> str:
        """A fingerprint of the sizes of what `deployed` gave."""
        ...

    def settings(self) -> Mapping[str, Any]:
        """All that changes a time, such as its version."""
        ...


def load_runtime(name: str) -> Runtime:
    """The installed runtime of this name.

    Raises:
        ValueError: there is none (the known ones are listed), or it cannot be imported.
    """
    runtime: Runtime = loaded_entry_point(GROUP, "runtime", name)()
    return runtime
