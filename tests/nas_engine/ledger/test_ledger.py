"""The ledger: appended, refused where it does not belong, repaired where torn, untouched where damaged."""

import dataclasses
import json
import resource
import signal
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import Measurement
from nas_engine.errors import LedgerError
from nas_engine.ledger.ledger import Ledger, Record, read_ledger
from search_spaces import SearchSpace
from tests.ordered import EVALUATORS, Cost, Quality, space_of
from tests.processes import started

RECORD = Record((0,) * 8, (Measurement(0.5, 0.01, 100), Measurement(64.0)))


def opened(storage, space=None, model: str = "m", evaluators=EVALUATORS) -> Ledger:
    return Ledger(storage, space or space_of(), model, evaluators)


@pytest.mark.parametrize("kind", ["folder", "sqlite"])
def test_records_survive_reopening(tmp_path, kind: str) -> None:
    storage = tmp_path if kind == "folder" else f"sqlite:///{tmp_path}/ledger.db"
    ledger = opened(storage)
    failed = Record((1,) * 8, (), "accuracy: ValueError: returned nan")
    ledger.append(RECORD)
    ledger.append(failed)
    again = opened(storage)
    assert len(again) == 2
    assert again.get(np.zeros(8, dtype=int)) == RECORD
    assert again.get(np.ones(8, dtype=int)) == failed
    assert again.get(np.full(8, 2)) is None


@dataclasses.dataclass(frozen=True)
class OtherQuality(Quality):
    """The same name, other questions."""

    def settings(self) -> dict:
        return {"shape": "linear"}


def reversed_space() -> SearchSpace:
    return SearchSpace.of(list(reversed(space_of().genes)))


CHANGED = [
    ({"space": space_of(9)}, r"another space \(only here: layers.8.width\)"),
    ({"space": space_of(3)}, r"only there: layers.3.width, layers.4.width, layers.5.width, … \(5 in all\)"),
    (
        {"space": space_of(8, 3)},
        "layers.0.width has the values 8, 16, 24, 32 there and 8, 16, 24 here, as 7 more",
    ),
    ({"space": reversed_space()}, "the same genes in another order"),
    ({"model": "n"}, "another model or adapters .*m there, n here"),
    ({"evaluators": [OtherQuality(), Cost()]}, "other settings of accuracy .*shape 'concave' there, 'linear' here"),
    ({"evaluators": [Quality(), Cost(unit="s")]}, "another unit of latency .'ms' there, 's' here"),
    ({"evaluators": [Quality()]}, r"other evaluators \(accuracy, latency there, accuracy here\)"),
]


@pytest.mark.parametrize(("changed", "message"), CHANGED)
def test_ledger_of_another_search_is_refused_with_the_difference(tmp_path, changed: dict, message: str) -> None:
    opened(tmp_path).append(RECORD)
    with pytest.raises(LedgerError, match=message):
        opened(tmp_path, **changed)


def test_database_of_another_search_is_refused_with_the_difference(tmp_path) -> None:
    storage = f"sqlite:///{tmp_path}/ledger.db"
    opened(storage).append(RECORD)
    for changed, message in CHANGED:
        with pytest.raises(LedgerError, match=message):
            opened(storage, **changed)


def test_objectives_have_their_names_and_genes_their_values_in_the_study(tmp_path) -> None:
    opened(tmp_path).append(RECORD)
    path = str(tmp_path / "ledger.log")  # as anybody opens it, without this project
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))
    (study,) = optuna.get_all_study_summaries(storage)
    loaded = optuna.load_study(study_name=study.study_name, storage=storage)
    assert loaded.metric_names == ["accuracy", "latency"]
    assert [d.name for d in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    (trial,) = loaded.trials
    assert trial.params == space_of().configuration(RECORD.genome)
    assert trial.values == [0.5, 64.0]


def three_records(folder) -> tuple[bytes, list[Record]]:
    """A journal of three records, as its bytes."""
    records = [dataclasses.replace(RECORD, genome=(i,) * 2) for i in range(3)]
    ledger = opened(folder, space_of(2))
    for record in records:
        ledger.append(record)
    return (folder / "ledger.log").read_bytes(), records


@pytest.fixture(scope="module")
def journal(tmp_path_factory) -> tuple[bytes, list[Record]]:
    return three_records(tmp_path_factory.mktemp("whole"))


@settings(max_examples=120, deadline=None)
@given(fraction=st.floats(0, 1))
def test_journal_cut_at_any_byte_opens_with_the_records_before(tmp_path_factory, journal, fraction: float) -> None:
    whole, records = journal
    end = round(fraction * len(whole))
    folder = tmp_path_factory.mktemp("cut")
    (folder / "ledger.log").write_bytes(whole[:end])
    kept = opened(folder, space_of(2))
    lines = whole[:end].count(b"\n") + (whole[end : end + 1] == b"\n")  # a line is whole without its line break
    written_before = whole.count(b"\n") - len(records)
    assert kept.records == records[: max(0, lines - written_before)]
    for record in records:  # and goes on as if nothing had happened
        if kept.get(np.array(record.genome)) is None:
            kept.append(record)
    assert opened(folder, space_of(2)).records == records


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), garbage=st.binary(min_size=1, max_size=40))
def test_garbage_in_the_journal_is_reported_and_left(tmp_path_factory, journal, at: float, garbage: bytes) -> None:
    whole, _ = journal
    inner = whole[: whole.rstrip(b"\n").rfind(b"\n")]  # the last line may be torn, and is then cut off
    start = round(at * len(inner))
    damaged = whole[:start] + b"\x00" + garbage + whole[start:]
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "ledger.log"
    path.write_bytes(damaged)
    with pytest.raises(LedgerError, match="is damaged.*left as it is"):
        opened(folder, space_of(2))
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b"\x00" * 512,
        '{"op_code":8,"user_attr":{"é":"日'.encode()[:-1],  # in the middle of a character
        b'{"op_code":4',
    ],
)
def test_torn_tail_of_any_kind_is_cut_off(tmp_path, tail: bytes) -> None:
    whole, records = three_records(tmp_path)
    (tmp_path / "ledger.log").write_bytes(whole + tail)
    ledger = opened(tmp_path, space_of(2))
    assert ledger.records == records
    assert (tmp_path / "ledger.log").read_bytes() == whole + tail, "reading changes nothing"
    ledger.append(dataclasses.replace(RECORD, genome=(3, 3)))
    lines = (tmp_path / "ledger.log").read_bytes().splitlines(keepends=True)
    assert b"".join(lines[:-1]) == whole
    assert len(opened(tmp_path, space_of(2))) == 4


def test_empty_file_is_a_new_ledger(tmp_path) -> None:
    (tmp_path / "ledger.log").touch()
    ledger = opened(tmp_path)
    assert len(ledger) == 0
    ledger.append(RECORD)
    assert opened(tmp_path).records == [RECORD]


def test_last_record_without_its_line_break_is_kept(tmp_path) -> None:
    whole, records = three_records(tmp_path)
    (tmp_path / "ledger.log").write_bytes(whole[:-1])
    ledger = opened(tmp_path, space_of(2))
    assert ledger.records == records
    ledger.append(dataclasses.replace(RECORD, genome=(3, 3)))
    assert (tmp_path / "ledger.log").read_bytes().startswith(whole)
    assert opened(tmp_path, space_of(2)).records[:-1] == records


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"\x00\x00garbage", "line 2 is damaged"),
        (b"\xff\xfe{}", "line 2 is damaged"),
        (b"[1, 2]", "line 2 is damaged.*not an object"),
        (b'{"op_code":99,"worker_id":"w"}', "ledger.log is damaged"),
        (b'{"some":"log"}', "ledger.log is damaged"),
    ],
)
def test_damaged_line_is_named_and_the_file_left_as_it_is(tmp_path, line: bytes, message: str) -> None:
    whole, _ = three_records(tmp_path)
    lines = whole.splitlines()
    damaged = b"\n".join([lines[0], line, *lines[1:], b""])
    (tmp_path / "ledger.log").write_bytes(damaged)
    with pytest.raises(LedgerError, match=f"{message}.*left as it is"):
        opened(tmp_path, space_of(2))
    assert (tmp_path / "ledger.log").read_bytes() == damaged


def test_trial_that_is_no_record_is_reported(tmp_path) -> None:
    three_records(tmp_path)
    path = tmp_path / "ledger.log"
    lines = path.read_bytes().splitlines(keepends=True)
    operation = json.loads(lines[-1])
    del operation["user_attrs"]["genome"]
    path.write_bytes(b"".join(lines[:-1]) + json.dumps(operation).encode() + b"\n")
    with pytest.raises(LedgerError, match="trial 2 of the ledger .* is none of a search .*genome: Field required"):
        opened(tmp_path, space_of(2))


def append_on_a_full_disk(folder: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ledger = opened(folder)
    size = (folder / "ledger.log").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, resource.RLIM_INFINITY))
    with pytest.raises(LedgerError, match=r"cannot be written: \[Errno 27\] File too large"):
        ledger.append(RECORD)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ledger.append(RECORD)


def test_record_that_does_not_fit_on_the_disk_leaves_the_journal_whole(tmp_path) -> None:
    """A limit on the file's size stands for a full disk; once lifted, the same process goes on."""
    process = started(append_on_a_full_disk, tmp_path)
    process.join()
    assert process.exitcode == 0
    assert opened(tmp_path).records == [RECORD]


def test_reading_a_ledger_makes_touches_and_locks_nothing(tmp_path) -> None:
    opened(tmp_path).append(RECORD)
    (tmp_path / "ledger.log.lock").unlink()
    journal = tmp_path / "ledger.log"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "worker')  # another process is writing
    before = (journal.read_bytes(), journal.stat().st_mtime_ns)
    assert read_ledger(tmp_path).records == (RECORD,)
    assert (journal.read_bytes(), journal.stat().st_mtime_ns) == before
    assert [file.name for file in tmp_path.iterdir()] == ["ledger.log"]


def test_unknown_database_is_refused_without_its_password() -> None:
    with pytest.raises(LedgerError, match="cannot be opened") as refused:
        opened("nosuch://user:secret@localhost/ledger")
    assert "secret" not in str(refused.value)


def test_unwritable_run_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be written"):
        opened(tmp_path / "file" / "run")
