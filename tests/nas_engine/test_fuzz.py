"""Wrong input of every kind is accepted and right, or refused with a sentence, and never touched."""

import pytest

from benchmarks.fuzz import fuzz


@pytest.mark.slow
def test_spoiled_input_is_read_rightly_or_refused_with_a_sentence(tmp_path) -> None:
    found = list(fuzz(300, seed=0, here=tmp_path))
    assert [entry for entry in found if entry[1] != "inputs"] == []
    assert sum(int(number) for _, _, number in found) >= 290
