"""Data as people have them: forms, files, cuts, counts, refusals; and conversations from a file to a healed model."""

import importlib.util
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from evaluators import CompletionPerplexity, ExactMatch, MultipleChoiceAccuracy, ParameterCount, Perplexity, Question
from evaluators.text.encoding import token_ids
from evaluators.text.examples import Example, ScoredText, tokenized
from evaluators.text.written_answers import extracted, normalized
from nas_engine import heal, load_data, search, task_splits, train
from nas_engine.data import DataSplits
from nas_engine.data.admission import everything
from nas_engine.data.contents import Item
from nas_engine.data.splitting import Sizes, apart, divided, unique
from nas_engine.errors import TaskError
from nas_engine.supernet import SuperNetwork
from search_spaces import lora_rank, mlp_width
from tests.tiny import CHATML, tiny_chat_tokenizer, tiny_llama, tiny_tokenizer

SIZES = {"train": 30, "validation": 4, "selection": 3, "test": 5}
TOKENIZER, CHAT_TOKENIZER = tiny_tokenizer(), tiny_chat_tokenizer()


def chat(i: int) -> dict:
    asked, answered = {"role": "user", "content": f"the {i}?"}, {"role": "assistant", "content": f"water {i}"}
    return {"messages": [asked, answered, {"role": "user", "content": "and?"}, answered]}


ROWS = {  # a row of every form, by a number
    "messages": chat,
    "conversations": lambda i: {
        "conversations": [{"from": "human", "value": f"{i}?"}, {"from": "gpt", "value": "the"}]
    },
    "prompt + completion": lambda i: {"prompt": f"the {i} is", "completion": f" {i * i}"},
    "prompt + completion of messages": lambda i: {
        "prompt": chat(i)["messages"][:1],
        "completion": chat(i)["messages"][1:2],
    },
    "alpaca": lambda i: {"instruction": f"do {i}", "input": "" if i % 2 else "it", "output": f"done {i}", "text": "x"},
    "gsm8k": lambda i: {"question": f"{i} and 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"},
    "text": lambda i: {"text": f"{i} cats in the water"},
    "arc": lambda i: {
        "id": "x",
        "question": f"{i}?",
        "choices": {"text": ["a", "b"], "label": ["A", "B"]},
        "answerKey": "B",
    },
    "mmlu": lambda i: {"question": f"{i}?", "choices": ["a", "b"], "answer": i % 2, "subject": "cats"},
}
KINDS = {
    "messages": "chat", "conversations": "chat", "prompt + completion": "prompt_completion",
    "prompt + completion of messages": "chat", "alpaca": "prompt_completion", "gsm8k": "prompt_completion",
    "text": "text", "arc": "multiple_choice", "mmlu": "multiple_choice",
}  # fmt: skip


def written(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loaded(path: Path | str, tokenizer=CHAT_TOKENIZER, **settings) -> DataSplits:
    return load_data(path, tokenizer, **{"max_tokens": 400} | SIZES | settings)


def all_examples(data: DataSplits) -> list:
    return [*data.train, *data.validation, *data.selection, *data.test]


@pytest.mark.parametrize("form", ROWS)
def test_kind_is_found_from_the_columns(form: str, tmp_path: Path) -> None:
    data = loaded(written(tmp_path / "all.jsonl", [ROWS[form](i) for i in range(50)]))
    assert data.kind == KINDS[form]
    assert [len(data.train), len(data.validation), len(data.selection), len(data.test)] == [30, 4, 3, 5]
    assert len({example.prompt + example.completion for example in all_examples(data)}) == 42
    assert data.metric == ("accuracy" if data.kind == "multiple_choice" else "perplexity")
    model = tiny_llama(vocab_size=len(CHAT_TOKENIZER), max_position_embeddings=512)
    measured = data.quality("validation").measure(model, CHAT_TOKENIZER)
    assert measured.n == 4
    assert math.isfinite(measured.value)


def test_pairs_are_learned_as_they_stand_and_others_in_their_usual_prompts(tmp_path: Path) -> None:
    def first(form: str):
        data = loaded(written(tmp_path / "all.jsonl", [ROWS[form](i) for i in range(50)]), TOKENIZER)
        return data.train[data.rows["train"].index(min(data.rows["train"]))], min(data.rows["train"])

    example, i = first("prompt + completion")
    assert example == Example(f"the {i} is", f" {i * i}")
    example, i = first("gsm8k")
    assert example == Example(f"Question: {i} and 1?\nAnswer:", f" {i} + 1 = {i + 1}\n#### {i + 1}")
    example, i = first("alpaca")
    assert f"### Instruction:\ndo {i}\n\n" in example.prompt
    assert ("### Input:\nit\n\n" in example.prompt) == (i % 2 == 0)
    assert example.completion == f"done {i}"


@pytest.mark.parametrize("form", ["prompt + completion", "alpaca", "gsm8k"])
def test_pairs_are_conversations_where_that_is_asked_for(form: str, tmp_path: Path) -> None:
    data = loaded(written(tmp_path / "all.jsonl", [ROWS[form](i) for i in range(50)]), kind="chat")
    example = data.train[0]
    assert isinstance(example, ScoredText)
    assert example.text.startswith("<|im_start|>user\n")
    assert example.completion.endswith("<|im_end|>")


@pytest.mark.parametrize(
    ("rows", "settings", "message"),
    [
        ([{"body": "x"}], {}, r"has the columns body, which are no form of any kind. Give one of multiple_choice: "),
        ([{"text": "x"}], {"kind": "chat"}, "which are no form of chat"),
        ([{"text": "x", "prompt": "y", "completion": "z"}], {}, "may be read as prompt_completion by prompt "),
        ([{"text": "x", "messages": []}], {}, "may be read as chat by messages, or text by text; say which by kind="),
        ([{"text": 3}, {"text": ["x"]}], {}, r"line 2 has \"\['x'\]\" as text; give a text"),
        ([ROWS["mmlu"](0) | {"answer": 7}], {}, "line 1 cannot be read as a question: .* the choices go from 0 to 1"),
        (
            [{"question": "x", "choices": ["a", "b"]}],
            {},
            r"For multiple_choice \(question \+ choices \+ answer\) or .* no ",
        ),
        (
            [{"promt": "x", "completion": "y"}],
            {},
            r"For prompt_completion \(prompt \+ completion\) there is no prompt\. ",
        ),
        (
            [ROWS["mmlu"](0), {"question": "x", "choices": ["a", "b"]}],
            {},
            "line 2 cannot be .*: it has no answer. Its colu",
        ),
        ([ROWS["mmlu"](0) | {"answer": "C"}], {}, "line 1 cannot be .*: the answer is 'C', not the place of a choice"),
        ([ROWS["arc"](0) | {"answerKey": "Z"}], {}, "line 1 cannot be .*: answerKey is 'Z', and the labels are 'A', "),
        ([ROWS["text"](0)], {"kind": "novel"}, "kind is 'novel'; choose one of auto, multiple_choice"),
        ([ROWS["text"](0)], {"metric": "accuracy"}, "metric is 'accuracy' with data of the kind text; choose one of"),
        ([ROWS["text"](0)], {"validation": 1}, "validation is 1; give 2 or more"),
        ([ROWS["text"](0)], {"selection": 1}, "selection is 1; give 2 or more examples or none"),
        ([ROWS["text"](0)], {"max_tokens": 2}, "max_tokens is 2; give at least 8"),
    ],
)
def test_what_is_not_understood_is_refused(rows, settings, message: str, tmp_path: Path) -> None:
    rows = rows + [ROWS["text"](i) for i in range(1, 50)] * (set(rows[0]) == {"text"} and "kind" not in settings)
    with pytest.raises(TaskError, match=message):
        loaded(written(tmp_path / "all.jsonl", rows), **settings)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".txt"])
def test_a_file_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"all{suffix}"
    file.write_bytes("text\ncafé\n".encode("latin-1") if suffix != ".json" else '[{"text": "café"}]'.encode("latin-1"))
    with pytest.raises(TaskError, match=r"cannot be read: it is no text in UTF-8; save it as that\."):
        loaded(file)


def test_kind_decides_between_several(tmp_path: Path) -> None:
    both = [ROWS["text"](i) | chat(i) for i in range(50)]
    assert loaded(written(tmp_path / "all.jsonl", both), kind="text").kind == "text"
    labelled = [ROWS["text"](i) | {"label": 1} for i in range(50)]
    assert loaded(written(tmp_path / "labels.jsonl", labelled), kind="text").kind == "text"


def test_conversations_without_a_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="has no chat template"):
        loaded(written(tmp_path / "all.jsonl", [chat(i) for i in range(50)]), TOKENIZER)


def test_tables_and_lists_say_the_same_as_lines(tmp_path: Path) -> None:
    rows = [ROWS["mmlu"](i) for i in range(50)]
    expected = loaded(written(tmp_path / "all.jsonl", rows))
    (tmp_path / "all.json").write_text(json.dumps(rows))
    frame = pd.DataFrame([row | {"choices": json.dumps(row["choices"])} for row in rows])
    frame.to_csv(tmp_path / "all.csv", index=False)
    frame.to_csv(tmp_path / "all.tsv", index=False, sep="\t")
    for name in ("all.json", "all.csv", "all.tsv"):
        assert all_examples(loaded(tmp_path / name)) == all_examples(expected)
    conversations = [chat(i) for i in range(50)]
    expected = loaded(written(tmp_path / "chat.jsonl", conversations))
    pd.DataFrame([{"messages": json.dumps(row["messages"])} for row in conversations]).to_csv(tmp_path / "chat.csv")
    assert all_examples(loaded(tmp_path / "chat.csv")) == all_examples(expected)


@pytest.mark.extras
def test_parquet_says_the_same_as_lines(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="the extra parquet is not installed; make test-all installs it")
    for form in ("messages", "arc", "mmlu"):
        rows = [ROWS[form](i) for i in range(50)]
        pd.DataFrame(rows).to_parquet(tmp_path / "all.parquet")
        expected = loaded(written(tmp_path / "all.jsonl", rows))
        assert all_examples(loaded(tmp_path / "all.parquet")) == all_examples(expected)


def test_text_file_has_a_text_a_line(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("\n\n".join(f"{i} the water" for i in range(50)))
    data = loaded(tmp_path / "all.txt")
    assert data.kind == "text"
    assert {example.completion for example in all_examples(data)} < {f"{i} the water" for i in range(50)}


@pytest.mark.extras
def test_datasets_of_hugging_face_are_read_from_disk(tmp_path: Path, monkeypatch) -> None:
    if importlib.util.find_spec("datasets") is None:
        pytest.skip("the extra datasets is not installed; make test-all installs it")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "chats"
    folder.mkdir()
    written(folder / "train.jsonl", [chat(i) for i in range(50)])
    cut = loaded(f"hf:{folder}")
    assert all_examples(cut) == all_examples(loaded(folder / "train.jsonl"))
    written(folder / "test.jsonl", [chat(i) for i in range(100, 110)])
    given = loaded(f"hf:{folder}")
    assert all_examples(given) == all_examples(loaded(folder))
    with pytest.raises(TaskError, match="cannot be loaded"):
        loaded(f"hf:{tmp_path / 'nothing'}")


def test_folder_keeps_its_test_set_and_what_both_ask_is_learned_by_nobody(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", [ROWS["gsm8k"](i) for i in range(60)])
    shared = {"question": "3  AND 1?", "answer": "#### 4"}
    written(tmp_path / "test.jsonl", [shared, *(ROWS["gsm8k"](i) for i in range(100, 110))])
    data = loaded(tmp_path, TOKENIZER, test=20)
    assert len(data.test) == 11
    assert not any(
        "Question: 3 and 1?" in example.prompt for example in (*data.train, *data.validation, *data.selection)
    )
    assert data.report.parts["train"].left_out == {"also in the test set": 1}
    assert "train: 60 rows read; left out: 1 also in the test set" in data.report.lines()


def test_more_than_half_in_common_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "train.jsonl", [ROWS["text"](i) for i in range(60)])
    written(tmp_path / "test.jsonl", [ROWS["text"](i) for i in range(55, 64)])
    with pytest.raises(TaskError, match="5 of the 9 different texts in test of .* are in the other split too"):
        loaded(tmp_path)


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    rows = [ROWS["prompt + completion"](i) for i in range(45)]
    rows += [{"prompt": "x", "completion": " "}, {"prompt": "x"}, rows[3], {"prompt": "y", "completion": "the " * 500}]
    data = loaded(written(tmp_path / "all.jsonl", rows), TOKENIZER, train=100)
    assert data.report.parts["train"].read == 49
    assert data.report.left_out == {"empty": 2, "duplicates": 1, "too long": 1}
    assert [split.kept for split in data.report.splits.values()] == [33, 4, 3, 5]
    for split in ("train", "validation", "selection", "test"):
        examples, report = tokenized(getattr(data, split), TOKENIZER), data.report.splits[split]
        assert report.tokens == sum(len(example.tokens) for example in examples)
        assert report.scored == sum(example.scored for example in examples)


def test_longest_choice_of_a_question_counts(tmp_path: Path) -> None:
    rows = [ROWS["mmlu"](i) | {"choices": ["a", "the " * 500 if i == 7 else "b"], "answer": 0} for i in range(50)]
    data = loaded(written(tmp_path / "all.jsonl", rows), TOKENIZER, train=100)
    assert data.report.left_out == {"too long": 1}
    assert 7 not in {row for rows_of in data.rows.values() for row in rows_of}


def test_too_few_that_are_left_are_refused_with_the_reasons(tmp_path: Path) -> None:
    rows = [ROWS["prompt + completion"](i) for i in range(10)]
    rows += [{"prompt": f"{i} {'the ' * 500}", "completion": "x"} for i in range(40)]
    with pytest.raises(
        TaskError,
        match=r"has \d usable examples for \w+, and \d are needed; left out were: \d+ too long \(no more than \d+ to",
    ):
        loaded(written(tmp_path / "all.jsonl", rows), TOKENIZER)
    strict = "{{ raise_exception('only monologues') }}"
    with pytest.raises(TaskError, match=r"50 refused by the chat template \(only monologues\)"):
        loaded(written(tmp_path / "all.jsonl", [chat(i) for i in range(50)]), tiny_chat_tokenizer(strict))


def test_long_texts_are_parted_into_pieces_of_one_split(tmp_path: Path) -> None:
    texts = [" ".join(f"{i}.{k}" for k in range(i % 60)) + " end" for i in range(60)]
    rows = [{"text": text} for text in texts]
    sizes = {"train": 1000, "validation": 6, "selection": 6, "test": 6}
    data = loaded(written(tmp_path / "all.jsonl", rows), TOKENIZER, max_tokens=48, **sizes)
    splits = (data.train, data.validation, data.selection, data.test)
    of = [{piece.completion.split()[0].split(".")[0] for piece in part if "." in piece.completion} for part in splits]
    assert all(not one & other for i, one in enumerate(of) for other in of[:i])
    assert max(len(example.tokens) for example in tokenized(data.train, TOKENIZER)) <= 48
    by_row: dict[int, str] = {}
    for row, piece in zip(data.rows["train"], data.train, strict=True):
        by_row[row] = by_row.get(row, "") + piece.completion
    assert len(by_row) < len(data.train)
    assert all(texts[row] == text for row, text in by_row.items())
    assert isinstance(data.quality("test"), Perplexity)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=60),
    st.one_of(st.none(), st.lists(st.tuples(st.integers(8, 30), st.integers(0, 3)), min_size=1, max_size=20)),
    st.integers(1, 9), st.integers(1, 4), st.integers(0, 4), st.integers(1, 5), st.integers(0, 3),
)  # fmt: skip
def test_any_cut_is_disjoint_complete_and_repeatable(train_set, test_set, learn, guide, select, judge, seed) -> None:
    def items(pairs) -> list[Item]:
        return unique(
            Item(i, Question(f" Q{'  '[: i % 3]}{q}", ("a", "b", f"{c}"), 0)) for i, (q, c) in enumerate(pairs)
        )

    sizes, test = Sizes(learn, guide, select, judge), None if test_set is None else items(test_set)
    try:
        left = items(train_set) if test is None else apart(items(train_set), test, "it")
        first, again = (divided(left, test, sizes, seed, everything, "it") for _ in range(2))
    except TaskError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "usable examples" in refusal or "in the other split too" in refusal
        return
    assert first == again
    asked = {
        name: {" ".join(one.example.question.split()).casefold() for one in taken.admitted}
        for name, taken in first.items()
    }
    for name, of_split in asked.items():
        assert not any(of_split & others for other, others in asked.items() if other != name)
    counts = {name: len(taken.admitted) for name, taken in first.items()}
    assert (counts["validation"], counts["selection"]) == (guide, select)
    assert 1 <= counts["train"] <= learn
    assert counts["test"] == judge if test is None else 1 <= counts["test"] <= judge


@pytest.mark.parametrize("name", ["family", "chain_sum"])
def test_questions_are_those_of_task_splits(name: str) -> None:
    data = loaded(name, TOKENIZER)
    splits = task_splits(name, 30, 7, 5, seed=0)
    assert data.train == splits.train
    assert data.validation + data.selection == splits.validation
    assert data.test == splits.test
    assert data.digest == loaded(name, TOKENIZER).digest != loaded(name, TOKENIZER, seed=1).digest


def test_validation_races_and_the_rest_does_not(tmp_path: Path) -> None:
    data = loaded(written(tmp_path / "all.jsonl", [ROWS["mmlu"](i) for i in range(50)]))
    qualities = [data.quality(part) for part in ("validation", "selection", "test")]
    assert all(isinstance(quality, MultipleChoiceAccuracy) for quality in qualities)
    assert [quality.races for quality in qualities if isinstance(quality, MultipleChoiceAccuracy)] == [
        True,
        False,
        False,
    ]
    with pytest.raises(TaskError, match="selection has 0 examples"):
        loaded(tmp_path / "all.jsonl", selection=0).quality("selection")


def test_exact_match_takes_what_follows_the_mark_the_last_number_or_a_line(tmp_path: Path) -> None:
    def made(row) -> ExactMatch:
        path = written(tmp_path / "all.jsonl", [row(i) for i in range(50)])
        data = loaded(path, TOKENIZER, metric="exact_match", test=12)
        quality = data.quality("test")
        assert isinstance(quality, ExactMatch)
        for example, problem in zip(data.test, quality.problems, strict=True):  # the right answer is right
            said = extracted(example.completion, quality.pattern, quality.take)
            assert said is not None
            assert normalized(said) == normalized(problem.final_answer)
        return quality

    quality = made(ROWS["gsm8k"])
    assert all(problem.question.startswith("Question: ") for problem in quality.problems)
    assert all(problem.final_answer.isdigit() for problem in quality.problems)
    assert quality.stop == ("Question:",)
    assert quality.max_new_tokens % 32 == 0
    said = made(lambda i: {"prompt": f"{i}?", "completion": f" {i} cats and 2 make {i + 2} of them."})
    assert all(int(problem.final_answer) == int(problem.question[:-1]) + 2 for problem in said.problems)
    named = made(lambda i: {"prompt": f"{i}?", "completion": f" cat{'s' * (i % 3)} #### x"[: 5 + i % 3 * 8]})
    assert {problem.final_answer for problem in named.problems} == {"cat", "x"}
    assert named.measure(tiny_llama(), TOKENIZER).n == 12
    marked = made(lambda i: {"prompt": f"{i}?", "completion": f"so\n#### {'cat' if i % 2 else 'dog'}"})
    assert {problem.final_answer for problem in marked.problems} == {"cat", "dog"}
    with pytest.raises(TaskError, match="exact_match needs answers that end in a number or have one line"):
        made(lambda i: {"prompt": f"{i}?", "completion": "a\nb"})


def test_prompts_of_conversations_are_read_as_the_template_begins_them(tmp_path: Path) -> None:
    tokenizer = tiny_chat_tokenizer("{{ bos_token }}" + CHATML)
    tokenizer.bos_token = "<eos>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<eos> $A", special_tokens=[("<eos>", 0)]
    )
    data = loaded(written(tmp_path / "all.jsonl", [chat(i) for i in range(50)]), tokenizer)
    messages = chat(data.rows["test"][0])["messages"]
    expected = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True)["input_ids"]
    assert expected[0] == 0
    assert list(token_ids(tokenizer, [data.prompts("test", 1)[0].prompt])[0]) == expected


def test_prompts_are_to_be_answered_in_own_words(tmp_path: Path) -> None:
    data = loaded(written(tmp_path / "all.jsonl", [chat(i) for i in range(50)]))
    prompt = data.prompts("test", 2)[0]
    assert len(data.prompts("test", 2)) == 2
    assert prompt.prompt.endswith("and?<|im_end|>\n<|im_start|>assistant\n")
    assert prompt.completion.startswith("water ")
    *_, asked, answer = chat(data.rows["test"][0])["messages"]
    assert (prompt.question, prompt.answer) == (asked["content"], answer["content"])  # no word of the template's
    texts = loaded(written(tmp_path / "all.jsonl", [ROWS["text"](i) for i in range(50)]))
    first = texts.prompts("validation", 9)
    assert [pair.prompt + pair.completion for pair in first] == [example.completion for example in texts.validation]
    assert all(pair.prompt and pair.completion for pair in first)


def test_run_goes_on_with_the_same_data_alone(tmp_path: Path) -> None:
    rows, run = [chat(i) for i in range(50)], tmp_path / "run"
    data = loaded(written(tmp_path / "all.jsonl", rows))
    data.write(run)
    kept = json.loads((run / "data.json").read_text())
    assert kept["digest"] == data.digest
    assert kept["report"]["splits"]["train"]["kept"] == 30
    assert sorted(kept["splits"]) == ["selection", "test", "train", "validation"]
    assert [rows[i]["messages"][0]["content"] in data.train[k].prompt for k, i in enumerate(kept["splits"]["train"])]
    loaded(tmp_path / "all.jsonl").write(run)
    with pytest.raises(TaskError, match="was begun with another seed"):
        loaded(tmp_path / "all.jsonl", seed=1).write(run)
    with pytest.raises(TaskError, match="was begun with other rows in train; ask for as many"):
        loaded(tmp_path / "all.jsonl", train=20).write(run)
    written(tmp_path / "all.jsonl", [*rows[:-1], chat(99)])
    with pytest.raises(TaskError, match="was begun with other rows of .*all.jsonl .* give the same data"):
        loaded(tmp_path / "all.jsonl").write(run)


def test_conversations_from_file_to_healed_model(tmp_path: Path) -> None:
    data = loaded(written(tmp_path / "all.jsonl", [chat(i % 45) for i in range(60)]), max_tokens=200)
    space = lora_rank((4, 2), ("q", "v", "up", "down")) + mlp_width((1.0, 0.5))
    supernet = SuperNetwork.from_pretrained(tiny_llama(vocab_size=len(CHAT_TOKENIZER)), space, CHAT_TOKENIZER)
    quality = data.quality("validation")
    assert isinstance(quality, CompletionPerplexity)
    untrained = quality(supernet.largest)
    train(supernet, data.train, steps=12, batch_size=8, learning_rate=1e-2, progress=False)
    assert quality(supernet.largest).value < 0.7 * untrained.value
    assert supernet.sensitivity(supernet.texts(data.train, 8))
    result = search(
        supernet, [quality, ParameterCount()], evaluations=4, population=4, storage=tmp_path, progress=False
    )
    assert "perplexity" in result.frame
    chosen = result.select(minimize="perplexity")
    before = data.quality("test")(chosen)
    healed = heal(chosen, data.train, steps=6, batch_size=8, progress=False)
    after = data.quality("test").measure(healed.extract(), CHAT_TOKENIZER)
    assert after.value < before.value
