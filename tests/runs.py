"""Run folders for tests of the page, made by real searches of a problem whose values are known."""

from pathlib import Path

from evaluators import Measurement
from nas_engine.ledger.ledger import Ledger, Record
from nas_engine.loop import search
from nas_engine.page.about import About, tell
from nas_engine.results.result import SearchResult
from search_spaces import Choice, SearchSpace
from tests.ordered import EVALUATORS, Configured, Cost, Ordered, Quality

HURTFUL = "<script>window.hurt = 1</script>"


def layered_space(layers: int = 6) -> SearchSpace:
    """Widths, heads and left-out blocks of a few layers, and one rank for all of them."""
    choices = [Choice("layers.0-5.q_v.rank", (32,), ("layers.0.q", "layers.0.v"), "lora_rank")]
    for i in range(layers):
        at = f"layers.{i}"
        choices += [
            Choice(f"{at}.mlp.width", (64, 128, 256), (f"{at}.gate", f"{at}.up", f"{at}.down"), "mlp_width"),
            Choice(f"{at}.attention.heads", (2, 4, 8), (f"{at}.q", f"{at}.k", f"{at}.v", f"{at}.o"), "attention_heads"),
            Choice(f"{at}.attention.keep", (0, 1), (f"{at}.attention",), "layer_skip"),
            Choice(f"{at}.mlp.keep", (0, 1), (f"{at}.mlp",), "layer_skip"),
        ]
    return SearchSpace.of(choices)


class Parameters(Cost):
    """A third objective that neither of the others decides."""

    name = "parameters"
    unit = ""

    def __init__(self) -> None:
        super().__init__("parameters", "minimize", "")

    def __call__(self, subnet: Configured) -> Measurement:
        values = list(subnet.configuration.values())
        return Measurement(float(1e6 * (sum(values[::2]) + 0.2 * sum(values[1::2]))))


THREE = [Quality(), Cost(), Parameters()]


def searched(folder: Path, evaluations: int = 24, evaluators=EVALUATORS) -> SearchResult:
    """A search whose ledger is in `folder`."""
    return search(
        Ordered(layered_space()),
        evaluators,
        driver="nsga2",
        evaluations=evaluations,
        population=8,
        storage=folder,
        progress=False,
    )


def with_records(folder: Path, count: int, failed: int = 0, evaluators=EVALUATORS) -> SearchSpace:
    """A ledger of `count` records, and of `failed` ones."""
    space = layered_space()
    ledger = Ledger(folder, space, "m", evaluators)
    for i in range(count + failed):
        genome = space.largest.copy()
        genome[0] -= i % 3
        genome[1] -= i // 3 % 3
        genome[4] -= i // 9 % 3
        subnet = Configured(space.configuration(genome))
        if i < count:
            ledger.append(Record(tuple(genome.tolist()), tuple(e(subnet) for e in evaluators)))
        else:
            ledger.append(Record(tuple(genome.tolist()), (), f"accuracy: RuntimeError: {HURTFUL}"))
    return space


def told(folder: Path, finished: bool = False, **settings: object) -> About:
    """What a job says of itself when it begins."""
    about = About(
        "search",
        "nas-engine search --folder run",
        {"model": "smollm2", "task": "family", "evaluations": 24, **settings},
        constraints=["accuracy >= 0.5 * reference"],
        reference={"accuracy": 0.97},
        finished=finished,
    )
    return tell(about, folder)
