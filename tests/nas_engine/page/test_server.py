"""The page of a run that goes on: on this machine's loopback alone, from what is on disk, until Ctrl-C."""

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest

from nas_engine.errors import ReportError
from nas_engine.page.server import PageServer
from tests.processes import started
from tests.runs import told, with_records


@pytest.fixture
def served(tmp_path):
    with PageServer(tmp_path, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def asked(server: PageServer, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(server.address + path, headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_only_this_machine_is_served_and_only_its_own_name(served) -> None:
    assert served.server_address[0] == "127.0.0.1"
    assert asked(served, "")[0] == 200
    assert asked(served, "", Host=f"localhost:{served.server_address[1]}")[0] == 200
    assert asked(served, "data.json", Host="elsewhere.example:80")[0] == 403
    assert asked(served, "../ledger.log")[0] == 404


def test_what_is_written_meanwhile_is_told_once(served, tmp_path) -> None:
    status, page = asked(served, "")
    assert status == 200
    assert "nothing measured yet" in page
    assert "connect-src 'self'" in page
    empty = json.loads(asked(served, "data.json")[1])
    assert empty["searches"] == []
    assert asked(served, f"data.json?state={urllib.request.quote(empty['state'])}") == (204, "")
    told(tmp_path)
    with_records(tmp_path, 3)
    status, text = asked(served, f"data.json?state={urllib.request.quote(empty['state'])}")
    data = json.loads(text)
    assert status == 200
    assert len(data["searches"][0]["rows"]) == 3
    assert "searching: 3 of 24 evaluations" in data["sections"]["head"]


def test_a_ledger_that_cannot_be_read_is_told_and_the_server_goes_on(served, tmp_path) -> None:
    (tmp_path / "ledger.log").write_text("no journal\nat all\n")
    assert "is damaged" in asked(served, "")[1]
    (tmp_path / "ledger.log").unlink()
    with_records(tmp_path, 2)
    assert "2 evaluations so far" in asked(served, "")[1]


def test_a_port_that_is_taken_and_a_folder_that_is_not_there_are_refused(served, tmp_path) -> None:
    taken = served.server_address[1]
    with pytest.raises(ReportError, match=rf"port {taken} of 127.0.0.1 is taken; give another one with --port"):
        PageServer(tmp_path, taken)
    with pytest.raises(ReportError, match="port is 70000; give one from 1 to 65535"):
        PageServer(tmp_path, 70000)
    with pytest.raises(ReportError, match="there is no folder"):
        PageServer(tmp_path / "missing", 0)


def watched(folder: str, output: str) -> None:
    from nas_engine.cli import app

    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    app(["report", folder, "--watch", "--port", "0"])


def test_ctrl_c_ends_it_without_a_word(tmp_path) -> None:
    with_records(tmp_path, 2)
    output = tmp_path / "said.txt"
    process = started(watched, str(tmp_path), str(output))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (output.exists() and "http://127.0.0.1:" in output.read_text()):
        time.sleep(0.1)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    assert process.exitcode == 0
    assert "Ctrl-C ends this" in output.read_text().replace("\n", " ")
