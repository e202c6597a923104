"""A local Ray cluster of two workers: the rows of one process, also where a worker is lost."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from evaluators import ParameterCount
from nas_engine.errors import SearchError
from nas_engine.execution.ray_executor import RayCluster
from nas_engine.loop import search
from tests.ordered import EVALUATORS, Ordered, space_of
from tests.supernets import random_adapters, supernetwork
from tests.tiny import tiny_llama

ray = pytest.importorskip("ray", reason="needs ray: pip install nas-engine[ray]")
pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
    yield RayCluster(2)
    ray.shutdown()


class Deadly(ParameterCount):
    """Kills its process twice, at one sub-network."""

    def __init__(self, folder: Path, at: dict) -> None:
        super().__init__()
        self.__dict__ |= {"folder": folder, "at": at}

    def __call__(self, subnet):
        (self.folder / str(os.getpid())).touch()
        deaths = len(list(self.folder.glob("died-*")))
        if dict(subnet.configuration) == self.at and deaths < 2:
            (self.folder / f"died-{deaths}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(subnet)


class Alone(ParameterCount):
    """As if it were timed."""

    alone = True


def test_lost_worker_is_replaced_and_the_rows_are_those_of_one_process(cluster, tmp_path) -> None:
    supernet = random_adapters(supernetwork(tiny_llama()), seed=1)
    smallest = supernet.space.configuration(supernet.space.smallest)
    evaluators = [Deadly(tmp_path, smallest), Alone(merged=False, name="alone")]
    arguments = {"evaluations": 24, "population": 12, "progress": False}
    found = search(supernet, evaluators, driver="nsga2", executor=cluster, **arguments).frame
    assert len(list(tmp_path.glob("died-*"))) == 2
    processes = {file.name for file in tmp_path.iterdir()} - {"died-0", "died-1"}
    assert len(processes) >= 3  # both lost ones, and who measured the rest
    assert str(os.getpid()) not in processes
    expected = search(
        supernet, [ParameterCount(), Alone(merged=False, name="alone")], driver="nsga2", **arguments
    ).frame
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: .*refused"),
        ("auto", "no Ray cluster at auto"),
        ("ray://127.0.0.1:1", "a client outside of the cluster"),
    ],
)
def test_cluster_that_cannot_be_reached_is_named(address: str, message: str) -> None:
    ray.shutdown()  # a cluster that the process is connected to would be used
    with pytest.raises(SearchError, match=message):
        search(
            supernetwork(tiny_llama()),
            [ParameterCount()],
            driver="nsga2",
            progress=False,
            executor=RayCluster(2, address=address),
        )


def test_supernetwork_on_a_gpu_is_not_given_to_workers_without_one() -> None:
    @dataclass(frozen=True)
    class OnGpu(Ordered):
        device: str = "cuda:0"

    with pytest.raises(SearchError, match="workers are given none; set gpus="):
        search(OnGpu(space_of()), EVALUATORS, driver="nsga2", progress=False, executor=RayCluster(2))


@pytest.mark.parametrize("arguments", [{"workers": 0}, {"workers": 1, "cpus": 0}, {"workers": 1, "gpus": -1.0}])
def test_bad_clusters_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"workers is 0|cpus is"):
        RayCluster(**arguments)
