"""The ledger: appended, refused where it does not belong, repaired where torn, untouched where damaged."""

import dataclasses

import numpy as np
import pytest

from evaluators import Measurement
from nas_engine.search import Ledger, LedgerError, Record
from tests.ordered import EVALUATORS, Cost, Quality, space_of

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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": space_of(9)}, r"another space \(genes on one side only: layers.8.width\)"),
        ({"space": space_of(8, 3)}, "the same genes, other values"),
        ({"model": "n"}, "another model or adapters .*m there, n here"),
        ({"evaluators": [OtherQuality(), Cost()]}, "other settings of accuracy .*concave.*linear"),
        ({"evaluators": [Quality()]}, r"other evaluators \(accuracy, latency there, accuracy here\)"),
    ],
)
def test_ledger_of_another_search_is_refused_with_the_difference(tmp_path, changed: dict, message: str) -> None:
    opened(tmp_path).append(RECORD)
    with pytest.raises(LedgerError, match=message):
        opened(tmp_path, **changed)


def test_torn_last_line_is_cut_off_and_the_rest_kept(tmp_path) -> None:
    opened(tmp_path).append(RECORD)
    journal = tmp_path / "ledger.log"
    whole = journal.read_bytes()
    opened(tmp_path).append(dataclasses.replace(RECORD, genome=(1,) * 8))
    full = journal.read_bytes()
    for end in range(len(whole) + 1, len(full), 97):
        journal.write_bytes(full[:end])
        assert len(opened(tmp_path)) == 1
        assert journal.read_bytes() == whole


def test_damaged_line_is_named_and_the_file_left_as_it_is(tmp_path) -> None:
    opened(tmp_path).append(RECORD)
    journal = tmp_path / "ledger.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = b"\x00\x00" + lines[1][2:]
    journal.write_bytes(b"".join(lines))
    before = journal.read_bytes()
    with pytest.raises(LedgerError, match="line 2 is damaged.*left as it is"):
        opened(tmp_path)
    assert journal.read_bytes() == before


def test_unwritable_run_folder_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be written"):
        opened(tmp_path / "file" / "run")
