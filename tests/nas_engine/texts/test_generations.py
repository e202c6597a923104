"""Calibration texts that a model writes by itself: its own, the same for the same seed, and kept by a job."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas_engine.data import load_data
from nas_engine.errors import CompressionError, LedgerError
from nas_engine.jobs.calibration import GENERATED, calibration_of, calibration_texts, told_in_words
from nas_engine.jobs.job_settings import JobSettings
from nas_engine.texts.examples import tokenize
from nas_engine.texts.generations import generations
from nas_engine.texts.labelled import tokenize_for
from search_spaces import lora_rank, mlp_width
from tests.supernets import supernetwork
from tests.tiny import tiny_llama, tiny_tokenizer

PROMPTS = ["the cat", "a dog in the rain", ""]


def test_generations_follow_their_prompts_and_depend_on_the_seed_alone() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    model.train()
    torch.manual_seed(5)
    first = generations(model, tokenizer, PROMPTS, 40, 6, seed=1)
    assert model.training
    torch.manual_seed(6)
    assert generations(model, tokenizer, PROMPTS, 40, 6, seed=1) == first
    assert generations(model, tokenizer, PROMPTS, 40, 6, seed=2) != first
    assert {text.prompt for text in first} == set(PROMPTS)
    assert len({text.completion for text in first}) > 20  # drawn, not the likeliest each time
    assert max(len(tokenizer(text.completion)["input_ids"]) for text in first) <= 24  # bytes may join otherwise
    assert generations(model, tokenizer, (), 3, 4)[0].prompt == ""


def test_drawn_tokens_have_the_frequencies_of_the_models_own_distribution() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    with torch.no_grad():
        ids = torch.tensor([tokenizer(PROMPTS[0])["input_ids"]])
        likely = model(ids).logits[0, -1].softmax(-1)
    most = int(likely.argmax())
    text = tokenizer.decode([most])
    drawn = generations(model, tokenizer, PROMPTS[:1], 640, 1, seed=3)
    share = sum(example.completion == text for example in drawn) / 640
    expected = float(likely[most])
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 640) ** 0.5 + 0.01


def test_what_cannot_be_drawn_is_refused() -> None:
    model, tokenizer = tiny_llama(), tiny_tokenizer()
    with pytest.raises(CompressionError, match="count is 0"):
        generations(model, tokenizer, PROMPTS, 0)
    tokenizer.bos_token = tokenizer.eos_token = None
    with pytest.raises(CompressionError, match="no token that begins or ends a text; give prompts"):
        generations(model, tokenizer, [""], 1)


def test_job_mixes_its_texts_with_generations_that_are_written_once(tmp_path) -> None:
    supernet = supernetwork(tiny_llama(max_position_embeddings=1024), lora_rank((4,)) + mlp_width((1.0, 0.5)))
    data = load_data("family", supernet.tokenizer, train=20, validation=8, selection=8, test=8, seed=0)
    settings = JobSettings(generated=0.25)
    own, written = calibration_texts(supernet, data, settings, tmp_path, False)
    assert own == list(data.train[:15])
    assert [text.prompt for text in written] == [example.prompt for example in data.train[:5]]
    learned = tokenize_for(supernet.model, data.train, supernet.tokenizer, 1024)
    found = calibration_of(supernet, data, learned, written, settings)
    assert found is not None
    assert (found.texts, found.generated) == (20, 5)
    assert (
        "the first 15 texts that are learned (multiple choice) and 5 that the model wrote by itself"
        in told_in_words(found)
    )
    supernet.model.register_forward_pre_hook(lambda *_: pytest.fail("the model wrote a second time"))
    assert calibration_texts(supernet, data, settings, tmp_path, False) == (own, written)
    assert calibration_texts(supernet, data, replace(settings, generated=0.0), tmp_path, False) == (
        list(data.train),
        [],
    )
    (tmp_path / GENERATED).write_text("[")
    with pytest.raises(LedgerError, match="generated.json is damaged"):
        calibration_texts(supernet, data, settings, tmp_path, False)


@pytest.mark.parametrize(
    ("changed", "share"),
    [
        ({}, 0.0),  # ordered and fitted once plain LoRA has learned
        ({"lora_steps": 0}, 0.5),
        ({"lora_steps": 0, "steps": 3}, 0.5),
        ({"lora_steps": 0, "adapter": Path("adapter")}, 0.0),
        ({"lora_steps": 0, "generated": 0.0}, 0.0),
        ({"space": ({"mlp_width": {"widths": [1.0, 0.5]}}, {"weight_bits": {"bits": [16, 8]}})}, 0.5),
        ({"generated": 0.25}, 0.25),
    ],
)
def test_half_is_generated_where_an_untrained_model_is_fitted_and_none_elsewhere(changed: dict, share: float) -> None:
    assert JobSettings(**changed).generated_share == share


def test_a_model_that_writes_nothing_is_fitted_to_its_task_alone_unless_a_share_was_asked_for(tmp_path) -> None:
    (tmp_path / "texts.txt").write_text("".join(f"the cat ate {i} in the water\n" for i in range(60)))
    supernet = supernetwork(tiny_llama(), lora_rank((4,)) + mlp_width((1.0, 0.5)))
    supernet.tokenizer.bos_token = supernet.tokenizer.eos_token = None  # with which a text would begin
    source = str(tmp_path / "texts.txt")
    data = load_data(source, supernet.tokenizer, train=20, validation=8, selection=8, test=8, seed=0)
    settings = JobSettings(lora_steps=0)
    assert calibration_texts(supernet, data, settings, tmp_path, False) == (list(data.train), [])
    with pytest.raises(CompressionError, match="no token that begins"):
        calibration_texts(supernet, data, replace(settings, generated=0.5), tmp_path, False)


def test_what_a_model_wrote_and_could_not_read_again_is_left_out(tmp_path) -> None:
    short = "".join(f"the cat ate {i} in the water\n" for i in range(60))
    (tmp_path / "texts.txt").write_text(short)
    supernet = supernetwork(tiny_llama(max_position_embeddings=96), lora_rank((4,)) + mlp_width((1.0, 0.5)))
    source = str(tmp_path / "texts.txt")
    data = load_data(source, supernet.tokenizer, train=32, validation=8, selection=8, test=8, seed=0)
    _, written = calibration_texts(supernet, data, JobSettings(lora_steps=0), tmp_path, False)
    lengths = [len(example.tokens) for example in tokenize(written, supernet.tokenizer, 1024)]
    assert 0 < len(lengths) < 16  # of random bytes some take three times as many tokens as they were written in
    assert max(lengths) <= 96
