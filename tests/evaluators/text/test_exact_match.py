"""Exact match: generation in batches, answers cut out and compared, and files of problems."""

import json

import pytest
import torch

from evaluators import ExactMatch, Problem, ProblemFileError, load_problems
from evaluators.text.generation import greedy
from evaluators.text.halving import Halving
from evaluators.text.written_answers import NUMBER, compiled, extracted, normalized
from tests.supernets import DECODERS, EVERY_DIMENSION, FAMILIES, random_adapters, supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

PROMPTS = ["the cat", "a warm stone in their garden and then", "on", "then went north in the garden", "sat on a"]
PROBLEMS = [Problem(prompt, f"It is so. #### {i},000") for i, prompt in enumerate(PROMPTS, start=1)]


@torch.inference_mode()
def plain(model, prompt: str, max_new_tokens: int, stop: tuple[str, ...] = ()) -> str:
    """Greedy decoding of one prompt, the whole text read anew for every token."""
    ids = tiny_tokenizer()(prompt)["input_ids"]
    new: list[int] = []
    for _ in range(max_new_tokens):
        token = model(torch.tensor([ids + new])).logits[0, -1].argmax().item()
        if token == model.config.eos_token_id:
            break
        new.append(token)
        text = tiny_tokenizer().decode(new, skip_special_tokens=True)
        if any(end in text for end in stop):
            return text[: min(text.index(end) for end in stop if end in text)]
    return tiny_tokenizer().decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("family", DECODERS)
def test_batched_generation_writes_what_one_by_one_without_a_cache_does(family: str) -> None:
    model = FAMILIES[family]()
    written = greedy(model, tiny_tokenizer(), PROMPTS, 10, budget=Halving(60))
    assert written == [plain(model, prompt, 10) for prompt in PROMPTS]
    assert len(set(written)) > 1


def test_text_ends_before_the_first_stop_string() -> None:
    model = tiny_llama()
    whole = [plain(model, prompt, 16) for prompt in PROMPTS]
    stop = (whole[0][5:7], whole[1][3:5])
    assert all(stop)
    written = greedy(model, tiny_tokenizer(), PROMPTS, 16, stop)
    assert written == [plain(model, prompt, 16, stop) for prompt in PROMPTS]
    assert written != whole


def test_generation_is_greedy_whatever_the_models_own_settings_say() -> None:
    model = tiny_llama()
    expected = greedy(model, tiny_tokenizer(), PROMPTS, 8)
    own = model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.num_beams = True, 5.0, 3.0, 2
    assert greedy(model, tiny_tokenizer(), PROMPTS, 8) == expected


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("suppress_tokens", list(range(2, 150))),
        ("encoder_repetition_penalty", 0.1),
        ("sequence_bias", [[[5], -50.0]]),
        ("num_return_sequences", 2),
        ("max_time", 1e-9),
        ("min_new_tokens", 12),
        ("stop_strings", ["e"]),
        ("return_dict_in_generate", True),
    ],
)
def test_no_setting_of_the_models_own_is_followed(setting: str, value) -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    expected = greedy(model, tokenizer, ["the cat", "in re"], 12)
    setattr(model.generation_config, setting, value)
    assert greedy(model, tokenizer, ["the cat", "in re"], 12) == expected
    assert getattr(model.generation_config, setting) == value


def test_memory_changes_no_text(monkeypatch) -> None:
    model = tiny_llama()
    expected = greedy(model, tiny_tokenizer(), PROMPTS, 6)
    forward = type(model).forward
    longest = max(len(ids) for ids in tiny_tokenizer()(PROMPTS)["input_ids"])

    def scarce(self, input_ids, **kwargs):
        if input_ids.numel() > longest:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(self, input_ids, **kwargs)

    monkeypatch.setattr(type(model), "forward", scarce)
    budget = Halving(200, least=longest + 6)
    assert greedy(model, tiny_tokenizer(), PROMPTS, 6, budget=budget) == expected
    assert budget.budget < 200


def test_exact_match_is_the_fraction_of_right_answers_with_its_error() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    subnet = supernet.subnetwork(supernet.largest.configuration | {"layers.1.attention.keep": 0})
    words = ExactMatch(PROBLEMS, pattern=r"(\w+)", take="first", max_new_tokens=12, stop=())
    written = words.texts(subnet.extract(), tiny_tokenizer())
    answers = [extracted(text, words.pattern, "first") for text in written]
    right = [answer is not None and i % 2 == 0 for i, answer in enumerate(answers)]
    assert any(right)
    problems = [
        Problem(p.question, f"because #### {a.upper()}." if ok else "#### none of it")
        for p, a, ok in zip(PROBLEMS, answers, right, strict=True)
    ]
    measured = ExactMatch(problems, pattern=r"(\w+)", take="first", max_new_tokens=12, stop=())(subnet)
    share = sum(right) / 5
    assert measured.value == pytest.approx(share)
    assert measured.stderr == pytest.approx((share * (1 - share) / 4) ** 0.5)
    assert measured.n == 5


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so 3 + 4 = 7, and the answer is $1,234.00.", "1234"),
        ("it takes 1/2 of it", "0.5"),
        ("-1/2.", "-0.5"),
        ("it is 2/6", "1/3"),
        ("5-3", "3"),
        ("it is 3-4 days", "4"),
        ("the answer is \u20133", "-3"),
        ("1, 2, 3 or 1,2,3", "3"),
        ("1,00,000 rupees", "100000"),
        ("1e5", "100000"),
        ("on 10/2/2024", "2024"),
        ("that makes -5", "-5"),
        ("#### 0.50", "0.5"),
        ("a half is .5", "0.5"),
        ("and so it is...7", "7"),
        ("$.50 each", "0.5"),
        ("in step v.3", "3"),
        ("it is 1,000 then.", "1000"),
        ("12 apples", "12"),
    ],
)
def test_numbers_are_found_and_compared_by_value(text: str, answer: str) -> None:
    assert normalized(extracted(text, compiled(NUMBER))) == normalized(answer)


def test_answers_are_normalized_as_numbers_or_as_texts() -> None:
    same = [("1,234", "1234.0"), ("$18", "18"), ("-0", "0"), ("5.", "5"), ("30 %", "30"), ("1e3", "1000")]
    same += [(" New  York.", "new york")]
    for one, other in same:
        assert normalized(one) == normalized(other)
    different = [("12", "1.2"), ("-5", "5"), ("yes", "no"), ("100", "1")]
    for one, other in different:
        assert normalized(one) != normalized(other)
    assert extracted("nothing here", compiled(NUMBER)) is None
    assert extracted("1 or 2", compiled(NUMBER), "first") == "1"
    assert extracted("b: 4", compiled(r"a: (\d)|b: (\d)")) == "4"


def test_minus_signs_and_all_digits_count() -> None:
    assert extracted("The answer is \u22123.", compiled(NUMBER)) == "-3"
    assert normalized("\u22123") == normalized("-3.00") == "-3"
    assert normalized("1" + "0" * 40 + "1") != normalized("1" + "0" * 40 + "2")
    assert normalized("1" * 5000) != normalized("1" * 5000 + "2")
    assert normalized("-0.0") == normalized("0") == "0"


def test_problems_are_read_as_gsm8k_writes_them(tmp_path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"question": "2 + 2?", "answer": "2+2=<<2+2=4>>4\n#### 1,234"}) + "\n\n")
    (problem,) = load_problems(path)
    assert problem.final_answer == "1,234"
    assert Problem("Which?", "Paris").final_answer == "Paris"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"line 2 is not JSON"),
        ("[1]", r'line 2 must be an object with the texts "question" and "answer"'),
        ('{"question": "q"}', r"line 2 must be an object"),
        ('{"question": "q", "answer": 4}', r"line 2 must be an object"),
        ('{"question": "q", "answer": "#### "}', r"line 2: .*both need text"),
    ],
)
def test_bad_lines_are_named(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"question": "q", "answer": "1"}\n' + line)
    with pytest.raises(ProblemFileError, match=message):
        load_problems(path)


def test_missing_and_empty_files_are_refused(tmp_path) -> None:
    with pytest.raises(ProblemFileError, match="cannot be read"):
        load_problems(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ProblemFileError, match="holds no problem"):
        load_problems(tmp_path / "empty.jsonl")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"problems": []}, "problems holds 0"),
        ({"pattern": r"\d+"}, "put the answer into a group"),
        ({"pattern": "("}, "no regular expression"),
        ({"take": "best"}, "take is 'best'"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1"),
        ({"token_budget": 0}, "token_budget is 0"),
        ({"stop": ["", "x"]}, r"stop is \['', 'x'\]"),
        ({"template": "Answer:"}, r"template is 'Answer:'; it needs \{question\}"),
    ],
)
def test_bad_input_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExactMatch(**{"problems": PROBLEMS} | arguments)


def test_models_and_prompts_that_give_no_text_are_refused() -> None:
    with pytest.raises(ValueError, match="training mode"):
        greedy(tiny_llama().train(), tiny_tokenizer(), PROMPTS, 4)
    with pytest.raises(ValueError, match="prompt 2 .* up to 8 new ones, but the model reads 16"):
        greedy(tiny_llama(max_position_embeddings=16), tiny_tokenizer(), PROMPTS, 8)
    with pytest.raises(ValueError, match="prompt 1 .* has no token"):
        greedy(tiny_llama(), tiny_tokenizer(), ["", "the"], 4)


def test_settings_change_with_what_changes_the_score_alone() -> None:
    base = ExactMatch(PROBLEMS).settings()
    assert ExactMatch(PROBLEMS, token_budget=99).settings() == base
    for change in ({"max_new_tokens": 9}, {"stop": ()}, {"take": "first"}, {"template": "{question}"}):
        assert ExactMatch(PROBLEMS, **change).settings() != base
    assert json.loads(json.dumps(base)) == base
