"""The recipes on a tiny model, from a call and from the command line."""

import json

import pandas as pd
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from evaluators import MultipleChoiceAccuracy, Perplexity, Question, save_questions
from nas_engine.cli import app
from nas_engine.compression import load_quantized
from nas_engine.data.made import chain_sum
from nas_engine.errors import CompressionError
from nas_engine.jobs.recipe_job import SqftSettings, run_recipe
from nas_engine.jobs.recipes import SearchPlan, ordered, shears, sqft
from nas_engine.supernet import SuperNetwork
from nas_engine.training.settings import HealingSettings, TrainingSettings
from search_spaces import lora_rank, mlp_width
from tests.compressed import zeros
from tests.supernets import CALIBRATION, FAMILIES, logits
from tests.tiny import tiny_gpt2, tiny_llama, tiny_tokenizer

QUESTIONS = chain_sum(60, seed=0)
VALIDATION = MultipleChoiceAccuracy(QUESTIONS[40:])
QUICK = {
    "tokenizer": tiny_tokenizer(),
    "space": lora_rank((4, 3, 2)),
    "training": TrainingSettings(steps=6, batch_size=4, learning_rate=1e-2),
    "searching": SearchPlan(("nsga2",), evaluations=8, population=4),
    "calibration": 16,
    "progress": False,
}


def test_shears_leaves_a_sparse_base_and_a_peft_adapter(tmp_path) -> None:
    made = shears(tiny_llama(), QUESTIONS[:40], VALIDATION, sparsity=0.5, **QUICK)
    assert not made.merges
    made.save(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert sum(zeros(base).values()) >= made.sparsity["zeros"].sum() == made.sparsity["weights"].sum() // 2
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert (logits(loaded) - logits(made.chosen.model)).abs().max() < 1e-4


@pytest.mark.parametrize("recipe", [shears, sqft])
def test_refit_changes_the_kept_weights_alone(recipe) -> None:
    untrained = QUICK | {
        "training": TrainingSettings(steps=1, batch_size=4, learning_rate=1e-9),
        "searching": SearchPlan(),
    }
    grid = {"group_size": 16} if recipe is sqft else {}
    plain, refit = (
        recipe(tiny_llama(), QUESTIONS[:40], VALIDATION, refit=on, **grid, **untrained) for on in (False, True)
    )
    half = plain.sparsity["weights"] // 2
    for made in (plain, refit):
        assert (made.sparsity["zeros"] >= half).all()  # quantized, some more
        assert made.sparsity["sparsity"].mean() < 0.52
    assert not torch.equal(logits(plain.chosen.model), logits(refit.chosen.model))


def test_shears_that_merges_leaves_one_sparse_model(tmp_path) -> None:
    made = shears(tiny_llama(), QUESTIONS[:40], VALIDATION, sparsity="2:4", merge=True, **QUICK)
    made.save(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert zeros(loaded) == zeros(made.chosen.extract())
    assert (logits(loaded) - logits(made.chosen.model)).abs().max() < 1e-4


def test_finalists_are_judged_by_questions_that_chose_none_of_them() -> None:
    others = MultipleChoiceAccuracy(chain_sum(40, seed=1), name="accuracy")
    searching = SearchPlan(("nsga2",), evaluations=8, population=4, best=3, confirmation=others, finalists=5)
    made = shears(tiny_llama(), QUESTIONS[:40], VALIDATION, **QUICK | {"searching": searching})
    table = made.candidates
    final = table[table["confirmed"].notna()]
    assert final.index.tolist() == list(range(5))
    assert {"largest", "median"} <= set(final["sub_adapter"])
    assert set(table["sub_adapter"]) >= {"nsga2 1", "nsga2 2", "nsga2 3"}
    best = final.sort_values(["confirmed", "adapter_parameters"], ascending=[False, True])
    assert best.index.tolist() == final.index.tolist()
    for _, row in final.iterrows():
        assert others(made.supernet.subnetwork(row["configuration"])).value == row["confirmed"]
    assert made.chosen.configuration == table.loc[0, "configuration"]
    # None is a finalist twice; of the others, the best on the validation are finalists.
    keys = table["configuration"].map(lambda configuration: tuple(configuration.items()))
    assert not keys[final.index].duplicated().any()
    out, chosen = table[~keys.isin(keys[final.index])], final[~final["sub_adapter"].isin(["largest", "median"])]
    assert len(out)
    assert out["accuracy"].max() <= chosen["accuracy"].min()


def test_a_confirmation_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="finalists is 1; best must be 1 or more, finalists 2 or more"):
        SearchPlan(finalists=1)
    searching = SearchPlan(confirmation=Perplexity(["one text", "another text"]))
    with pytest.raises(ValueError, match="confirmation is to minimize .* validation to maximize .* same score"):
        shears(tiny_llama(), QUESTIONS[:40], VALIDATION, **QUICK | {"searching": searching})


@pytest.mark.parametrize("adapter", ["sqft", "sparsepeft", "qa-sparsepeft"])
def test_sqft_leaves_what_its_adapter_allows(tmp_path, adapter: str) -> None:
    made = sqft(tiny_llama(), QUESTIONS[:40], VALIDATION, group_size=16, adapter=adapter, **QUICK)
    made.save(tmp_path)
    expected = logits(made.chosen.model)
    if adapter == "sqft":
        base, _, quantization = load_quantized(tmp_path / "base")
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert len(quantization.grids) == 21
    elif adapter == "sparsepeft":
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    else:
        loaded, _, quantization = load_quantized(tmp_path)
        assert len(quantization.grids) == 21
    assert (logits(loaded) - expected).abs().max() < 1e-4


def test_candidates_are_measured_with_the_same_questions_and_the_best_is_chosen() -> None:
    made = sqft(tiny_llama(), QUESTIONS[:40], VALIDATION, group_size=16, **QUICK)
    table = made.candidates
    assert {"largest", "median", "most active", "lowest loss 1", "nsga2"} <= set(table["sub_adapter"])
    for _, row in table.iterrows():
        subnet = made.supernet.subnetwork(row["configuration"])
        assert VALIDATION(subnet).value == row["accuracy"]
        adapters = subnet.parameter_count(merged=False) - subnet.parameter_count()
        assert row["adapter_parameters"] == adapters
    assert table["accuracy"].is_monotonic_decreasing
    assert made.chosen.configuration == table.loc[0, "configuration"]
    assert table.loc[0, "accuracy"] >= table.set_index("sub_adapter").loc["median", "accuracy"]


def test_interrupted_recipe_ends_as_an_uninterrupted_one(tmp_path) -> None:
    def run(folder, steps: int = 6):
        quick = QUICK | {"training": TrainingSettings(steps=steps, batch_size=4, learning_rate=1e-2)}
        return sqft(tiny_llama(), QUESTIONS[:40], VALIDATION, group_size=16, folder=folder, **quick)

    first = run(tmp_path)
    again = run(tmp_path)
    assert again.training.resumed_at == 6
    pd.testing.assert_frame_equal(again.candidates, first.candidates)


class Counted(MultipleChoiceAccuracy):
    """Counts the sub-networks that it measures, and is interrupted before one of them."""

    measured = 0
    stop = 10_000

    def session(self, subnets, before=None) -> "CountedSession":
        return CountedSession(super().session(subnets, before and before.session))


class CountedSession:
    def __init__(self, session) -> None:
        self.session = session

    def measure(self, position: int, rival=None):
        if Counted.measured == Counted.stop:
            raise KeyboardInterrupt
        Counted.measured += 1
        return self.session.measure(position, rival)


def test_sub_adapters_measured_before_a_kill_are_not_measured_again(tmp_path) -> None:
    validation, others = Counted(QUESTIONS[40:]), Counted(chain_sum(40, seed=1))
    searching = SearchPlan(("nsga2",), evaluations=8, population=4, best=3, confirmation=others, finalists=5)

    def run(folder, stop: int = 10_000):
        Counted.measured, Counted.stop = 0, stop
        return shears(tiny_llama(), QUESTIONS[:40], validation, **QUICK | {"searching": searching, "folder": folder})

    whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Counted.measured - 2)  # within the confirmation
    resumed = run(tmp_path)
    assert Counted.measured == 2
    pd.testing.assert_frame_equal(resumed.candidates, whole.candidates)


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "opt"])
def test_ordered_model_computes_the_same_with_its_important_channels_first(family: str) -> None:
    model = FAMILIES[family]()
    before = logits(model)
    sorted_model = ordered(model, tiny_tokenizer(), CALIBRATION)
    torch.testing.assert_close(logits(sorted_model), before, atol=1e-5, rtol=1e-4)
    supernet = SuperNetwork.from_pretrained(sorted_model, mlp_width((1.0, 0.5)), tiny_tokenizer())
    supernet.order_by_importance(CALIBRATION)
    for layer in supernet.layers:
        assert torch.equal(layer.orders["channels"], torch.arange(layer.full_width))


def test_bad_input_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="device is 'abacus'"):
        shears(tiny_llama(), QUESTIONS[:40], VALIDATION, device="abacus", **QUICK)
    with pytest.raises(CompressionError, match="calibration data is empty"):
        shears(tiny_llama(), [], VALIDATION, **QUICK)
    with pytest.raises(CompressionError, match="adapter is 'lora'; choose one of sqft, sparsepeft, qa-sparsepeft"):
        sqft(tiny_llama(), QUESTIONS[:40], VALIDATION, adapter="lora", **QUICK)  # type: ignore[arg-type]
    quantized = tiny_llama()
    quantized.config.quantization_config = {"quant_method": "gptq", "bits": 4}
    with pytest.raises(CompressionError, match="already quantized in the format 'gptq'"):
        sqft(quantized, QUESTIONS[:40], VALIDATION, **QUICK)


@pytest.mark.parametrize(
    ("command", "flags", "file"),
    [
        ("shears", ["--merge"], "model.safetensors"),
        ("sqft", ["--group-size", "16", "--refit", "--confirmation", "8"], "model.safetensors"),
    ],
)
def test_command_leaves_model_table_and_summary(tmp_path, command: str, flags: list[str], file: str) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    save_questions(QUESTIONS, tmp_path / "questions.jsonl")
    given = {"model": tmp_path / "model", "task": tmp_path / "questions.jsonl", "folder": tmp_path / "run"}
    given |= {"validation": 20, "test": 10, "steps": 3, "batch-size": 4}
    arguments = [command, *(p for name, value in given.items() for p in (f"--{name}", str(value))), *flags]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["merged"]
    assert summary["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert summary["accuracy"]["n"] == 10
    assert summary["sub_adapter"] in done.output
    assert ("on other questions" in done.output) == ("--confirmation" in flags)
    assert (tmp_path / "run" / "compressed" / file).exists()
    assert len(pd.read_csv(tmp_path / "run" / "candidates.csv")) >= 3
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Sub-adapters compared" in page
    assert f"nas-engine {command} --folder" in page


def test_command_says_what_is_wrong(tmp_path) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    arguments = ["sqft", "--model", str(tmp_path / "model"), "--group-size", "31", "--folder", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*arguments, "--train", "40", "--validation", "10", "--test", "10"])
    assert done.exit_code == 1
    assert "group_size is 31, which does not divide the 32 inputs of layers.0.q" in done.output


@pytest.mark.parametrize("command", ["shears", "sqft"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--test", "1", "test is 1; give 2 questions or more"),
        ("--validation", "1", "validation is 1; give 2 questions or more"),
        ("--confirmation", "1", "confirmation is 1; give 2 questions or more"),
        ("--driver", "genetic", "driver is 'genetic'; choose one of auto"),
        ("--steps", "0", "steps is 0; it must be at least 1"),
        ("--learning-rate", "0", "learning_rate is 0.0; it must be above 0"),
        ("--seed", "-1", "seed is -1"),
        ("--folder", "/dev/null", "cannot be written"),
    ],
)
def test_what_a_late_stage_needs_is_checked_before_the_first(
    tmp_path, command: str, option: str, value: str, message: str
) -> None:
    tiny_llama().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--folder", str(tmp_path / "run"), "--train", "40"]
    done = CliRunner().invoke(app, [command, *given, "--validation", "10", "--test", "10", option, value])
    assert done.exit_code == 1
    assert message in " ".join(done.output.split())
    assert "Traceback" not in done.output
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize(
    ("model", "long", "message"),
    [
        (tiny_llama, "test.jsonl", "but the model's max_position_embeddings is 256"),
        (tiny_llama, "train.jsonl", "but the model reads 256"),
        (tiny_gpt2, "", "the pack-quantized format holds linear layers alone"),
    ],
)
def test_what_could_not_be_learned_scored_or_saved_is_refused_first(tmp_path, model, long: str, message: str) -> None:
    model().save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "questions").mkdir()
    for file, questions in (("train.jsonl", QUESTIONS[:40]), ("test.jsonl", QUESTIONS[40:60])):
        beyond = Question("9" * 300, ("0", "1"), 0)
        save_questions([*questions, beyond] if file == long else questions, tmp_path / "questions" / file)
    settings = SqftSettings(
        folder=tmp_path / "run", model=str(tmp_path / "model"), task=str(tmp_path / "questions"), validation=4
    )
    with pytest.raises(ValueError, match=message):
        run_recipe(settings, progress=False)
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize("recipe", [shears, sqft])
def test_healed_recipe_saves_what_was_healed_with_its_zeros(recipe, tmp_path) -> None:
    way = {"merge": True} if recipe is shears else {"group_size": 16}
    healing = HealingSettings(steps=4, batch_size=4, learning_rate=1e-2)
    made = recipe(
        tiny_llama(), QUESTIONS[:40], VALIDATION, **QUICK | way | {"healing": healing}, folder=tmp_path / "run"
    )
    assert made.healed is not None
    assert len(made.healed.losses) == 4
    made.save(tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert (logits(loaded) - logits(made.healed.model)).abs().max() < 1e-4
    assert (logits(loaded) - logits(made.chosen.model)).abs().max() > 1e-4
    unhealed, healed = zeros(made.chosen.extract()), zeros(made.healed.extract())
    assert healed == unhealed if recipe is shears else sum(healed.values()) >= 0.5 * made.sparsity["weights"].sum()


@pytest.mark.parametrize(("recipe", "way"), [(shears, {}), (sqft, {"adapter": "sqft"})])
def test_healing_of_an_adapter_that_stays_beside_its_base_is_refused_before_work(recipe, way) -> None:
    model = tiny_llama()
    before = logits(model)
    with pytest.raises(
        CompressionError, match="healing of 4 steps is asked for, but this adapter stays beside its base"
    ):
        recipe(model, QUESTIONS[:40], VALIDATION, **QUICK | way, healing=HealingSettings(steps=4))
    assert torch.equal(logits(model), before)
