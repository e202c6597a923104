"""The page of a run: whole in one file, honest about what is missing, and harmless whatever the run says."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evaluators import Measurement
from nas_engine.cli import app
from nas_engine.errors import LedgerError, ReportError
from nas_engine.ledger.ledger import Ledger, Record
from nas_engine.page.about import About, Candidate, Compared, tell
from nas_engine.page.document import in_script
from nas_engine.page.page import page_data, rendered_sections, write_page
from nas_engine.page.run import read_run
from nas_engine.plots.numbers import shown
from nas_engine.results.result import SearchResult
from tests.ordered import EVALUATORS, Configured, Quality
from tests.processes import started
from tests.runs import HURTFUL, THREE, layered_space, searched, told, with_records


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "report.html"
    }


def text_of(folder: Path) -> str:
    """What the page says outside its scripts and styles."""
    page = write_page(folder).read_text(encoding="utf-8")
    return re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL)


def data_of(folder: Path) -> dict:
    page = write_page(folder).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, flags=re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_page_is_one_file_that_asks_for_nothing_else(tmp_path) -> None:
    searched(tmp_path)
    text = text_of(tmp_path)
    assert not re.findall(r"""(?:src|href|action)\s*=\s*["']?(?!#|data:)[^"'>\s]+""", text)
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(), flags=re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|http", style[1])
    assert "default-src 'none'" in text
    assert "connect-src 'none'" in text
    assert len(re.findall("<script", (tmp_path / "report.html").read_text())) >= 3


def test_reading_a_run_changes_nothing_in_it(tmp_path) -> None:
    searched(tmp_path)
    told(tmp_path)
    (tmp_path / "ledger.log.lock").unlink()
    before = contents(tmp_path)
    write_page(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / "elsewhere").mkdir()
    report = tmp_path / "report.html"
    report.unlink()
    assert write_page(tmp_path, tmp_path / "elsewhere" / "page.html").is_file()
    assert not report.exists()


def test_data_hold_every_evaluation_and_every_two_objectives(tmp_path) -> None:
    result = searched(tmp_path, evaluators=THREE)
    data = data_of(tmp_path)["searches"][0]
    assert set(data["figures"]) == {f"{i},{j}" for i in range(3) for j in range(3) if i != j}
    assert data["first"] == [1, 0]
    for row in data["rows"]:
        known = result.frame.loc[row["n"]]
        assert row["values"] == [known[o.name] for o in result.objectives]
        assert row["front"] == known["on_front"]
        genes = [values[i] for values, i in zip(data["genes"], row["genome"], strict=True)]
        assert genes == [known[name] for name in layered_space().names]
    assert len(data["rows"]) == len(result) == len(data["hover"])


def test_step_line_is_the_front_of_the_two_and_errors_stand_on_it(tmp_path) -> None:
    result = searched(tmp_path, evaluators=THREE)
    figure = data_of(tmp_path)["searches"][0]["figures"]["1,0"]
    step = next(trace for trace in figure["data"] if trace["mode"] == "lines")
    points = next(trace for trace in figure["data"] if trace["meta"]["role"] == "front" and trace is not step)
    best = result.frame.sort_values(["latency", "accuracy"], ascending=[True, False])
    best = best[best["accuracy"].cummax().shift(fill_value=-1) < best["accuracy"]]
    assert step["x"] == points["x"] == best["latency"].tolist()
    assert step["y"] == best["accuracy"].tolist()
    assert step["line"]["shape"] == "hv"
    assert points["error_y"]["array"] == [0.01] * len(best)
    assert figure["layout"]["yaxis"]["title"]["text"] == "accuracy (higher is better)"
    assert figure["layout"]["xaxis"]["title"]["text"] == "latency (ms, lower is better)"
    drawn = [n for trace in figure["data"] if trace["meta"]["role"] != "largest" for n in trace.get("customdata", [])]
    assert sorted(drawn) == list(result.frame.index)


def test_constraints_and_reference_of_the_job_are_on_its_page(tmp_path) -> None:
    searched(tmp_path)
    told(tmp_path)
    data = data_of(tmp_path)["searches"][0]
    roles = {trace["meta"]["role"]: trace for trace in data["figures"]["1,0"]["data"]}
    assert data["constraints"] == ["accuracy >= 0.5 * reference"]
    assert roles["infeasible"]["marker"]["symbol"] == "x-thin"
    assert [row["n"] for row in data["rows"] if not row["feasible"]] == sorted(roles["infeasible"]["customdata"])
    assert roles["reference"]["y"] == [0.97]
    assert roles["reference"]["x"] == roles["largest"]["x"]


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda folder: told(folder), "No sub-network was measured yet"),
        (lambda folder: with_records(folder, 1), "1 evaluation so far"),
        (lambda folder: with_records(folder, 0, failed=2), "2 evaluations failed"),
        (lambda folder: with_records(folder, 3, failed=1), "1 evaluation failed"),
        (lambda folder: searched(folder, evaluators=[Quality()]), "24 evaluations so far"),
    ],
)
def test_little_in_a_run_is_said_in_a_sentence(tmp_path, prepare, said: str) -> None:
    prepare(tmp_path)
    assert said in text_of(tmp_path)


def test_text_of_a_run_is_never_markup(tmp_path) -> None:
    with_records(tmp_path, 3, failed=1, evaluators=[Quality(name=HURTFUL), Quality()])
    told(tmp_path, model=HURTFUL, task=f"'\">{HURTFUL}")
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert HURTFUL not in page
    assert "&lt;script&gt;window.hurt" in page
    assert "\\u003cscript\\u003e" in page


@pytest.mark.parametrize("text", ["</script>", "<!--", "\u2028", "&lt;", float("nan")])
def test_data_cannot_leave_their_element_and_come_back_whole(text) -> None:
    written = in_script({"a": [text]})
    assert not set(written) & set("<>&\u2028")
    assert json.loads(written) == {"a": [None if isinstance(text, float) else text]}


def test_a_summary_of_another_version_is_said_and_the_rest_shown(tmp_path) -> None:
    searched(tmp_path)
    (tmp_path / "summary.json").write_text('{"reference": 4}')
    assert "summary.json is none that this version writes" in text_of(tmp_path)
    assert data_of(tmp_path)["searches"][0]["rows"]


def test_what_was_confirmed_before_a_job_began_again_is_not_shown(tmp_path) -> None:
    searched(tmp_path)
    (tmp_path / "summary.json").write_text('{"reference": 4}')
    told(tmp_path, finished=False)
    assert read_run(tmp_path).summary is None
    assert "all 24 evaluations measured, what follows is not finished" in text_of(tmp_path)


def of_40(value: float) -> dict:
    return {"value": value, "stderr": 0.05, "n": 40}


def test_what_both_models_answer_is_paired_and_the_cost_that_was_minimized_comes_first(tmp_path) -> None:
    searched(tmp_path)
    told(tmp_path, finished=True)
    space = layered_space()
    model = {"accuracy": of_40(0.8), "latency_ms": 2.0, "parameters": 1000}
    chosen = {**model, "configuration": space.configuration(space.smallest), "heal_steps": 3}
    summary = {
        "reference": model, "chosen": chosen, "largest": model, "speedup": 1.5, "evaluations": 24, "seconds": 3.0,
        "exact_match": {"chosen": of_40(0.4), "reference": of_40(0.6), "p_value": 0.021},
        "answers_ended": {"chosen": of_40(0.9), "reference": of_40(0.7), "p_value": 0.5},
        "minimized": {"name": "weight_bytes", "unit": "B", "chosen": 83_061.0, "reference": 116_858.0},
        "calibration": {"kind": "chat", "texts": 59, "tokens": 4640, "scripts": {"Latin": 0.985}, "generated": 29},
    }  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "compressed").mkdir()
    (tmp_path / "compressed" / "config.json").write_text('{"quantization_config": {"format": "pack-quantized"}}')
    text = text_of(tmp_path)
    for said in (
        "exactly right", "0.40 ± 0.05", "0.60 ± 0.05", "answers that end", "0.90 ± 0.05", "0.70 ± 0.05",
        "the same 40 questions", "test of the difference: p = 0.021 for exactly right, p = 0.5 for answers that end.",
        "weight bytes", "83,061 B", "71 % of 116,858 B", "--to chosen.gguf --weights f16",
        "the first 30 texts that were learned (chat) and 29 that the model wrote by itself, 4,640 tokens", "Latin",
    ):  # fmt: skip
        assert said in text, said


def test_a_recipes_candidates_are_shown_by_name(tmp_path) -> None:
    space = layered_space()
    genomes = [space.largest, space.smallest, space.median]
    told_of = zip(["nsga2", "largest", "median"], genomes, [0.8, 0.7, 0.5], [9.0, 3.0, 5.0], strict=True)
    named = [
        Candidate(name, genome.tolist(), [value, size], [0.02, 0.0], [100, 1], [0.7, 0.03] if value > 0.6 else [])
        for name, genome, value, size in told_of
    ]
    compared = Compared(space.to_json(), [("accuracy", "maximize", ""), ("adapter_parameters", "minimize", "")], named)
    tell(About("shears", "nas-engine shears", {}, compared=compared, finished=True), tmp_path)
    (tmp_path / "summary.json").write_text(
        json.dumps(
            {"recipe": "shears", "sub_adapter": "nsga2", "configuration": space.configuration(space.largest),
             "accuracy": {"value": 0.75, "stderr": 0.02, "n": 400}, "sparsity": 0.5, "bits": 32, "merged": False,
             "bytes": 5_000_000, "seconds": 3.0}
        )
    )  # fmt: skip
    text, data = text_of(tmp_path), data_of(tmp_path)["searches"][0]
    assert "Sub-adapters compared" in text
    assert "0.700 ± 0.030" in text
    assert "5 MB" in text
    assert [row["name"] for row in data["rows"]] == ["nsga2", "largest", "median"]
    assert data["chosen"] == 1


def test_folder_without_a_run_and_damaged_ledgers_are_refused(tmp_path) -> None:
    for empty in (tmp_path, tmp_path / "missing"):
        with pytest.raises(LedgerError, match="there is no run in"):
            write_page(empty)
    (tmp_path / "ledger.log").write_text("no journal\nat all\n")
    with pytest.raises(LedgerError, match="is damaged"):
        write_page(tmp_path)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("package", ["plotly", "jinja2"])
def test_without_what_draws_it_says_how_to_get_it(tmp_path, monkeypatch, package: str) -> None:
    searched(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(ReportError, match=r"pip install \"nas-engine\[report\]\""):
        write_page(tmp_path)


def test_command_without_what_draws_it_says_the_whole_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)  # as where it is not installed
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert 'pip install "nas-engine[report]"' in done.stderr


def test_command_writes_the_page_and_says_where(tmp_path) -> None:
    searched(tmp_path / "run")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "run"), "--to", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "page.html" in done.output
    assert (tmp_path / "page.html").stat().st_size < 6e6
    refused = CliRunner().invoke(app, ["report", str(tmp_path), "--watch", "--to", "page.html"])
    assert refused.exit_code == 1
    assert "give one of them" in refused.output


def append_without_end(folder: str) -> None:
    space = layered_space()
    ledger = Ledger(folder, space, "m", EVALUATORS)
    for genome in space.sample(np.random.default_rng(0), 5000):
        ledger.append(Record(tuple(genome.tolist()), (Measurement(0.5, 0.01, 100), Measurement(64.0))))


def test_a_run_is_read_while_another_process_writes_to_it(tmp_path) -> None:
    with_records(tmp_path, 2)
    writer = started(append_without_end, str(tmp_path))
    try:
        counts = [2]
        while counts[-1] < 40:
            run = read_run(tmp_path)
            counts.append(len(run.searches[0].result))
            rendered_sections(run)
            assert page_data(run)["searches"][0]["rows"]
            assert writer.is_alive() or counts[-1] > 2
    finally:
        writer.kill()
    assert counts == sorted(counts)


class Other(Quality):
    """Other questions, on which all sub-networks are as good: the cheapest alone stays on the front."""

    def settings(self) -> dict:
        return {"shape": "concave", "questions": "other"}

    def __call__(self, subnet: Configured) -> Measurement:
        return Measurement(0.5, 0.02, 50)


def test_front_confirmed_in_python_is_on_the_page_row_by_row(tmp_path) -> None:
    result = searched(tmp_path)
    assert "result.confirm(…) a front" in text_of(tmp_path)
    assert result.confirmed() == []
    confirmed = result.confirm(Other(), progress=False)
    assert len(confirmed.dropped) == len(confirmed) - 1 > 0
    (kept,) = SearchResult.load(tmp_path, objectives=["accuracy", "latency"]).confirmed()
    pd.testing.assert_frame_equal(kept.frame, confirmed.frame)
    before = contents(tmp_path)
    text = text_of(tmp_path)
    assert contents(tmp_path) == before
    assert "The front again: accuracy" in text
    assert f"{len(confirmed.front)} of {len(confirmed)} sub-networks measured again still are on the front." in text
    assert text.count("no longer") == len(confirmed.dropped)
    for _, row in confirmed.frame.iterrows():
        assert f"<td>{shown(row['accuracy'], 0.02)}</td>" in text
    # That of another model says nothing of this one.
    searched(tmp_path / "other", evaluators=EVALUATORS)
    assert read_run(tmp_path / "other").searches[0].confirmed == []
