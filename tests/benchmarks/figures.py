"""What the figures of each benchmark's quick run must satisfy: what a benchmark that is broken would not print."""

import math
from collections.abc import Callable
from typing import Any

Figures = dict[str, Any]


def activation_cost(figures: Figures) -> None:
    assert figures["activation_ms"] > 0 < figures["forward_32_tokens_ms"]


def alternatives(figures: Figures) -> None:
    rows = figures["rows"]
    assert set(figures["skipped"]) == {"torch_pruning"}  # a quick run finds its architectures by counts, not by a clock
    assert [row["method"] for row in rows] == ["lora", "magnitude", "wanda", "fitted", "layers", "lonas", "ours"]
    assert all(abs(row["measured_speedup"] / row["speedup"] - 1) < 0.1 for row in rows if row["method"] != "layers")
    assert all(0 <= row["accuracy"] <= 1 and row["stderr"] > 0 for row in rows)
    # All but ours, whose fit alone is above a quick run's budget, cost about the same.
    macs = [row["training_macs"] for row in rows if row["method"] != "ours"]
    assert max(macs) < 1.25 * min(macs)
    for task, best in figures["best_by_speedup"].items():
        for speedup, method in best.items():
            at = {
                row["method"]: row["accuracy"]
                for row in rows
                if (row["task"], row["speedup"]) == (task, float(speedup))
            }
            assert at[method] == max(at.values())
    for fronts in figures["front_macs"].values():  # one super-network serves all points of a front
        assert fronts["lonas"] < fronts["magnitude"]


def calibration_mix(figures: Figures) -> None:
    for judged, by_share in figures["perplexity_by_share"].items():
        assert set(by_share) == {"0", "0.5", "1"}, judged
        assert all(value > 1 for value in by_share.values()), judged
        if judged.endswith("width 1"):  # nothing is left out
            assert len(set(by_share.values())) == 1, judged


def exact_front(figures: Figures) -> None:
    for problem, seconds in figures["seconds"].items():
        assert seconds > 0 < figures["highs_seconds"][problem], problem
        assert 0 < figures["hypervolume"][problem] <= 1.21, problem


def glue(figures: Figures) -> None:
    for task, rows in figures["tasks"].items():
        assert all(0 <= rows[row]["score"] <= 100 for row in ("lora", "cut", "searched", "healed", "ours")), task
        assert rows["cut"]["gmacs"] < rows["lora"]["gmacs"], task
        assert all(rows[row]["gmacs"] <= figures["bound"] * rows["lora"]["gmacs"] for row in ("searched", "ours")), task
        assert rows["healed"]["gmacs"] == rows["searched"]["gmacs"], task  # the same sub-network
    assert figures["published"] == {"lora": [11.2, 81.46], "searched": [8.0, 83.02]}


def sizes(figures: Figures) -> None:
    (found,) = figures.values()
    for name, stage in found["stages"].items():
        assert stage["seconds"] > 0 < stage["gigabytes"], name
    counted = found["counted_gigabytes"]
    assert counted["load"] < counted["plain LoRA"] < counted["super-network training"]
    peft, ours = (found["stages"][name] for name in ("PEFT step", "super-network training"))
    assert math.isclose(found["memory_ratio"], ours["gigabytes"] / peft["gigabytes"], rel_tol=0.02)
    assert math.isclose(found["step_ratio"], ours["seconds"] / peft["seconds"], rel_tol=0.02)


def fuzz(figures: Figures) -> None:
    assert figures["inputs"] == sum(kind["inputs"] for kind in figures["by"].values()) >= 100
    assert figures["tracebacks"] == figures["touched"] == figures["wrong"] == 0


def joint_space(figures: Figures) -> None:
    for costs in (figures["layer_bytes"], figures["nonzeros"], figures["latency"]):
        for name, front in costs["fronts"].items():
            assert front == sorted(front), name  # cheaper first
            assert [loss for _, loss in front] == sorted((loss for _, loss in front), reverse=True), name
            assert all(loss >= figures["best"] for _, loss in front), name
        assert all(0 <= volume <= 1.21 for volume in costs["hypervolume"].values())  # of axes that end 10 % beyond 1
        assert costs["hypervolume"]["rank"] < costs["hypervolume"]["joint"]  # ranks alone change no cost


def latency_table(figures: Figures) -> None:
    assert figures["unseen"] > 0
    assert abs(figures["bias"]) <= figures["mean_error"] <= figures["max_error"]
    assert -1 <= figures["spearman"] <= 1
    assert figures["prediction_ms"] > 0 < figures["calibration_seconds"]


def measure_table(figures: Figures) -> None:
    assert (figures["subnetworks"], figures["failed"]) == (81, 0)
    assert figures["front"] >= 1
    fewest, most = figures["parameters"]
    assert 0 < fewest < most
    assert all((value * figures["questions"]).is_integer() for value in figures["accuracy"])


def ordering(figures: Figures) -> None:
    for name, found in figures.items():
        if name.startswith("perplexity"):
            assert found["original"] == figures["perplexity_50"]["original"], name  # nothing is cut off there
            assert len(set(found.values())) > 1, name
            assert all(math.isfinite(value) and value > 1 for value in found.values()), name
        else:
            assert all(0 <= value <= 1 for value in found.values()), name


def quantization_error(figures: Figures) -> None:
    for name, found in figures.items():
        if name.startswith("errors"):
            assert found["gptq_below_rtn"] == found["gptq_act_order_below_rtn"] == found["projections"], name
            assert 0 < found["median_gptq"] < found["median_rtn"], name
    # Fewer bits and zeros change a model, a random one by little.
    perplexities = [value for name, value in figures.items() if name.startswith("perplexity")]
    assert len(set(perplexities)) == len(perplexities)
    assert all(abs(value / figures["perplexity_dense"] - 1) < 0.1 for value in perplexities)


def replication(figures: Figures) -> None:
    rows = {row["method"]: row for row in figures["rows"]}
    for method, sparsity, bits, mergeable in (
        ("dense_lora", 0.0, 16, True),
        ("shears_50", 0.5, 16, False),
        ("sqft", 0.5, 4, False),
        ("sqft_sparsepeft", 0.5, 16, True),
        ("sqft_qa_sparsepeft", 0.5, 4, True),
    ):
        row = rows[method]
        assert (round(row["sparsity"], 1), row["bits"], row["mergeable"]) == (sparsity, bits, mergeable), method
    assert rows["lonas"]["macs"] < rows["dense_lora"]["macs"] == rows["sqft_sparsepeft"]["macs"]
    assert rows["sqft_qa_sparsepeft"]["bytes"] < rows["dense_lora"]["bytes"] < rows["shears_50"]["bytes"]
    assert figures["published"]


def runtimes(figures: Figures) -> None:
    assert {*figures["runtimes"]} == {"llama.cpp", "openvino", "onnxruntime"}
    for name, found in figures["runtimes"].items():
        assert 0 < found["mean_error"] <= found["max_error"], name
        assert -1 <= found["rank_correlation"] <= 1, name
        assert found["prefill_speedup"] > 0 < found["decode_speedup"], name


def search_drivers(figures: Figures) -> None:
    for problem, volumes in figures["hypervolume"].items():
        for driver, quartiles in volumes.items():
            assert 0 <= quartiles[0] <= quartiles[1] <= quartiles[2] <= 1.21, (problem, driver)
    median = {driver: quartiles[1] for driver, quartiles in figures["hypervolume"]["lonas96"].items()}
    assert median["random"] < median["nsga2"] < median["surrogate"]
    assert figures["wins_of_20"]["lonas96"]["plain-nsga2"] == 0  # against itself


def subnetwork_speedup(figures: Figures) -> None:
    for found in (figures["prefill_speedup"], figures["decode_speedup"]):
        assert found["100"] == {"predicted": 1.0, "measured": 1.0, "stderr": 0.0}
        predicted = [found[width]["predicted"] for width in ("100", "87.5", "75", "62.5", "50")]
        assert predicted == sorted(set(predicted))
        assert all(width == "100" or speedup["stderr"] > 0 for width, speedup in found.items())


def training_overhead(figures: Figures) -> None:
    ratios = [value for name, value in figures.items() if name.endswith("_ratio")]
    assert len(ratios) == 6
    assert all(value > 0 for value in ratios)
    assert figures["mode_b_memory_ratio"] <= figures["mode_a_largest_memory_ratio"]
    # The largest sub-network is plain LoRA, and learns as PEFT does.
    assert abs(figures["last_losses"]["mode_a_largest"] - figures["last_losses"]["peft"]) < 0.05


def training_quality(figures: Figures) -> None:
    named = {name: figures[name] for name in ("untrained", "peft", "largest", "width_75")}
    for name, found in named.items():
        accuracy, count = found["accuracy"], figures["questions"]
        assert math.isclose(found["stderr"], math.sqrt(accuracy * (1 - accuracy) / (count - 1)), abs_tol=1e-3), name
    assert math.isclose(
        figures["largest_minus_peft"], named["largest"]["accuracy"] - named["peft"]["accuracy"], abs_tol=1e-6
    )


CHECKS: dict[str, Callable[[Figures], None]] = {
    check.__name__: check
    for check in (
        activation_cost,
        alternatives,
        calibration_mix,
        exact_front,
        fuzz,
        glue,
        joint_space,
        latency_table,
        measure_table,
        ordering,
        quantization_error,
        replication,
        runtimes,
        search_drivers,
        sizes,
        subnetwork_speedup,
        training_overhead,
        training_quality,
    )
}
