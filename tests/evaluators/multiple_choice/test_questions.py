"""Question files: read as written, refused with the line that is wrong."""

import json

import pytest

from evaluators import Question, QuestionFileError, load_questions, save_questions, split

GOOD = {"question": "2 + 2?", "choices": ["3", "4"], "answer": 1}


def test_questions_survive_a_file(tmp_path) -> None:
    questions = [Question("2 + 2?", ("3", "4"), 1), Question("Größe?", ("groß", "klein", "—"), 0)]
    save_questions(questions, tmp_path / "q.jsonl")
    assert load_questions(tmp_path / "q.jsonl") == questions


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        (json.dumps([1, 2]), "line 2 must be an object"),
        (json.dumps({"question": "?", "choices": ["a", "b"]}), "line 2 must be an object"),
        (json.dumps(GOOD | {"answer": 2}), "line 2: answer is 2, but the choices go from 0 to 1"),
        (json.dumps(GOOD | {"answer": "B"}), "line 2.*index of the right choice, not 'B'"),
        (json.dumps(GOOD | {"answer": True}), "line 2.*not True"),
        (json.dumps(GOOD | {"choices": ["a"]}), "line 2: choices are"),
        (json.dumps(GOOD | {"choices": ["a", 3]}), "line 2.*list of texts"),
    ],
)
def test_wrong_line_is_named(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(QuestionFileError, match=message):
        load_questions(path)


def test_separators_in_texts_and_a_byte_order_mark_are_read(tmp_path) -> None:
    asked = [Question("one\u2028two\x85three", ("b\u2029", "c"), 0)]
    save_questions(asked, tmp_path / "questions.jsonl")
    assert load_questions(tmp_path / "questions.jsonl") == asked
    line = '{"question": "a", "choices": ["b\u2028", "c"], "answer": 1}\r\n'
    (tmp_path / "windows.jsonl").write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert load_questions(tmp_path / "windows.jsonl") == [Question("a", ("b\u2028", "c"), 1)]


def test_missing_and_empty_files_are_refused(tmp_path) -> None:
    with pytest.raises(QuestionFileError, match="cannot be read"):
        load_questions(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(QuestionFileError, match="holds no question"):
        load_questions(tmp_path / "empty.jsonl")


def test_split_keeps_a_repeated_question_on_one_side() -> None:
    questions = [Question(f"{i % 10}?", ("a", "b"), 0) for i in range(40)]
    kept, cut = split(questions, 12, seed=0)
    assert len(kept) + len(cut) == 40
    assert not {q.question for q in kept} & {q.question for q in cut}
    assert split(questions, 12, seed=0) == (kept, cut)
    with pytest.raises(ValueError, match="held_out is 40 of 40"):
        split(questions, 40, seed=0)
