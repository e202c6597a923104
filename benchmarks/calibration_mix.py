"""Whether narrow widths are fitted better to a task's own texts, or to a mix with what the base writes by itself.

SmolLM2-135M, untrained or after steps of plain LoRA on the whole model. For each share of generations among as many
tokens in all, its channels are ordered and narrower MLPs fitted to them, and even sub-networks are judged by the
perplexity of right answers of the task, and of other texts (sentences of documentation). The untrained model writes, as
in a job.

Run as ``python -m benchmarks.calibration_mix [--quick] [--texts N] [--task NAME] [--lora-steps N] [--shares 0 0.5]``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from itertools import accumulate

from transformers import PreTrainedTokenizerBase

from benchmarks._common import arguments, load, print_json
from evaluators import CompletionPerplexity, Perplexity
from nas_engine import SuperNetwork, load_data, train
from nas_engine.texts.calibration import calibration_batches
from nas_engine.texts.examples import TextPair
from nas_engine.texts.generations import generations
from search_spaces import lora_rank, mlp_width

WIDTHS = (1.0, 0.75, 0.5)
SHARES = (0.0, 0.5, 1.0)
PROJECTIONS = ("q", "k", "v", "o", "gate", "up", "down")
BATCH = 8  # examples of a step


def tokenized(examples: Sequence[TextPair], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Of prompts with their completions."""
    return [tokenizer(example.prompt + example.completion)["input_ids"] for example in examples]


def first(examples: Sequence[TextPair], budget: float, tokenizer: PreTrainedTokenizerBase) -> Sequence[TextPair]:
    """The first of them that have about so many tokens."""
    ends = list(accumulate(map(len, tokenized(examples, tokenizer))))
    return examples[: sum(end <= budget for end in ends)]


def main() -> None:
    """Print one JSON object: perplexities by share and width."""
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=0, help="in all; default 256")
    parser.add_argument("--task", default="family", help="whose texts and right answers")
    parser.add_argument("--lora-steps", type=int, default=0, help="of plain LoRA on the whole model, before the fit")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of generations, by tokens")
    given = parser.parse_args()
    count = given.texts or (16 if given.quick else 256)
    model, tokenizer = load(given.quick)
    judged = 8 if given.quick else 64
    data = load_data(
        given.task,
        tokenizer,
        train=max(count, BATCH * given.lora_steps),
        validation=judged,
        selection=2,
        test=2,
        seed=0,
    )
    others = load_data("docstrings", tokenizer, train=40, validation=judged, selection=2, test=2, seed=0, kind="text")
    began = time.process_time()
    own = data.train[:count]
    prompts = [example.prompt for example in own]
    wanted = math.ceil(count * max(*given.shares, 1 / count))
    written = generations(model, tokenizer, prompts, wanted, max_new_tokens=16 if given.quick else 64)
    seconds = time.process_time() - began
    budget = sum(map(len, tokenized(own, tokenizer)))
    space = lora_rank((32,), PROJECTIONS, skip_missing=True) + mlp_width(WIDTHS, multiple_of=8)
    learned = SuperNetwork.from_pretrained(model, space, tokenizer)
    if given.lora_steps:
        settings = {"steps": given.lora_steps, "batch_size": BATCH, "learning_rate": 7e-4, "strategy": "largest"}
        train(learned, data.train, **settings, progress=False)
    state = {name: tensor.clone() for name, tensor in learned.state().items()}
    evaluators = {
        "task": CompletionPerplexity(data.validation, name="perplexity"),
        "other texts": Perplexity([example.completion for example in others.validation]),
    }
    found: dict[str, dict[str, float]] = {}
    for share in given.shares:
        model, tokenizer = load(given.quick)
        supernet = SuperNetwork.from_pretrained(model, space, tokenizer)
        supernet.load_state(state)
        parts = ((own, 1 - share), (written, share))
        texts = [text for part, of in parts for text in first(part, of * budget, tokenizer)]
        supernet.order_by_importance(list(calibration_batches(texts, tokenizer, len(texts))), refit=True)
        for i, width in enumerate(WIDTHS):
            even = [len(gene) - 1 - i for gene in supernet.space.genes]
            subnet = supernet.subnetwork(supernet.space.configuration(even))
            for name, evaluator in evaluators.items():
                found.setdefault(f"{name}, width {width:g}", {})[f"{share:g}"] = round(evaluator(subnet).value, 3)
        print(share, found, flush=True)
    print_json(
        {
            "texts": count,
            "lora_steps": given.lora_steps,
            "seconds_of_writing": round(seconds, 1),
            "perplexity_by_share": found,
        }
    )


if __name__ == "__main__":
    main()
