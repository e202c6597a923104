"""The ledger on a PostgreSQL server, which the test starts in a temporary folder and stops again."""

import getpass
import glob
import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nas_engine.errors import LedgerError
from nas_engine.loop import search
from tests.nas_engine.ledger.test_ledger import CHANGED, RECORD, opened
from tests.nas_engine.ledger.test_shared_ledger import frames_of_two_processes
from tests.nas_engine.test_search import run
from tests.ordered import EVALUATORS, Ordered, space_of

pytest.importorskip("psycopg", reason="needs psycopg: pip install nas-engine[postgresql]")
pytestmark = pytest.mark.extras


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def binary(name: str) -> str | None:
    installed = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"))
    return installed[-1] if installed else shutil.which(name)


@pytest.fixture(scope="module")
def server():
    """A function of a database's name that makes it and gives its URL."""
    initdb, pg_ctl = binary("initdb"), binary("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip("no PostgreSQL server is installed (initdb and pg_ctl were not found)")
    as_owner: list[str] = []
    if os.geteuid() == 0:  # the server refuses to run as root
        if not shutil.which("runuser") or subprocess.run(["id", "postgres"], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
        as_owner = ["runuser", "-u", "postgres", "--"]
    # A folder of its own: pytest's are closed to other users, and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    if as_owner:
        shutil.chown(folder, "postgres")
    data, port = str(folder / "data"), free_port()
    owner = "postgres" if as_owner else getpass.getuser()
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={folder} -c fsync=off"
    control = [*as_owner, pg_ctl, "-D", data, "-w"]

    def command(arguments: list[str]) -> None:
        done = subprocess.run(arguments, capture_output=True, text=True, cwd=folder, check=False)
        if done.returncode:
            pytest.skip(f"no PostgreSQL server could be started: {done.stderr.strip()[-300:]}")

    try:
        command([*as_owner, initdb, "-D", data, "-A", "trust", "-U", owner, "-E", "UTF8", "--no-sync"])
        command([*control, "-l", str(folder / "log"), "-o", options, "start"])
    except BaseException:
        shutil.rmtree(folder)
        raise
    # Waits for the end of its input, which comes however this process ends.
    stop = f"read -r _; {shlex.join([*control, '-m', 'immediate', 'stop'])}; rm -rf {shlex.quote(str(folder))}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    guard = subprocess.Popen(["sh", "-c", stop], stdin=subprocess.PIPE, start_new_session=True, cwd="/", **quiet)
    yield lambda name: _database(owner, port, name)
    guard.communicate()
    assert not folder.exists(), "the server was not stopped"


def _database(owner: str, port: int, name: str) -> str:
    import psycopg

    with psycopg.connect(f"host=127.0.0.1 port={port} user={owner} dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://{owner}@127.0.0.1:{port}/{name}"


def test_records_survive_reopening_and_reach_other_processes(server) -> None:
    storage = server("records")
    ledger, other = opened(storage), opened(storage)
    assert ledger.append(RECORD) == RECORD
    assert other.get(np.zeros(8, dtype=int)) == RECORD
    assert opened(storage).records == [RECORD]


def test_ledger_of_another_search_is_refused_with_the_difference(server) -> None:
    storage = server("another")
    opened(storage).append(RECORD)
    for changed, message in CHANGED:
        with pytest.raises(LedgerError, match=message):
            opened(storage, **changed)


def test_search_on_the_server_returns_what_one_without_returns(server) -> None:
    storage = server("resumed")
    run(storage=storage, evaluations=15)
    pd.testing.assert_frame_equal(run(storage=storage).frame, run().frame)


def test_processes_with_the_same_seed_return_the_same_rows(server, tmp_path) -> None:
    ((one, two),) = frames_of_two_processes([server("shared")], tmp_path)
    assert len(one) == 40
    pd.testing.assert_frame_equal(one, two)


def test_server_that_does_not_answer_is_reported() -> None:
    storage = f"postgresql+psycopg://nobody:secret@127.0.0.1:{free_port()}/none"
    with pytest.raises(LedgerError, match="cannot be opened") as refused:
        search(Ordered(space_of()), EVALUATORS, driver="nsga2", evaluations=2, storage=storage, progress=False)
    assert "secret" not in str(refused.value)
