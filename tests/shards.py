"""What processes do that hold a network in parts."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from nas_engine import Distillation, train
from nas_engine.supernet import SuperNetwork
from nas_engine.training.sharding import in_parts
from tests.compressed import quantized_model, sparse_peft
from tests.ranks import EXAMPLES, STEPS, join, taught
from tests.supernets import CALIBRATION, EVERY_FAMILY, SPACE, TOKENS, random_adapters, supernetwork, whole_space
from tests.tiny import tiny_llama


def killed_in_the_third_step(rank: int, port: int, folder: Path) -> None:
    """The training of `everything` until its third step, from which nobody comes back."""
    join(rank, 2, port)
    supernet, teacher = taught()
    passes = iter(range(4))  # of two steps

    def die(module: nn.Module, *inputs: Any) -> None:
        if module.training and next(passes, None) is None:
            os._exit(9)

    supernet.model.base_model.register_forward_pre_hook(die)
    learns = {"teacher": teacher, "distillation": Distillation(0.5, 2.0, hidden=0.1), "sharded": True}
    saved = {"checkpoint": folder / "training", "checkpoint_every": 1}
    train(supernet, EXAMPLES, steps=4, refit=True, **saved, **learns, **STEPS)


def packed() -> SuperNetwork:
    """A base held as integers, whose adapters matter."""
    model, quantization = quantized_model()
    return random_adapters(supernetwork(model, SPACE, quantization=quantization, pack=True))


def of_family(family: str) -> SuperNetwork:
    """One with adapters that matter, fitted widths and, where the family can, blocks to skip."""
    supernet = random_adapters(supernetwork(EVERY_FAMILY[family](), whole_space(family)))
    supernet.order_by_importance(CALIBRATION, refit=supernet.can_refit)
    return supernet


def tied() -> SuperNetwork:
    """One in bfloat16 whose head reads the embeddings, channels in their order."""
    return random_adapters(supernetwork(tiny_llama(tie_word_embeddings=True).to(torch.bfloat16)))


NETWORKS: dict[str, Callable[[], SuperNetwork]] = {"packed": packed, "masked": sparse_peft, "tied": tied}


def compared(rank: int, port: int, folder: Path, names: Sequence[str]) -> None:
    """Networks, by family or of `NETWORKS`, whole, in parts and whole again; what is the same, and which part of its
    weights was held, into `folder`.
    """
    join(rank, 2, port)
    dist.init_process_group("gloo")
    told = {name: _compared(NETWORKS[name]() if name in NETWORKS else of_family(name)) for name in names}
    (folder / f"compared-{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


def _compared(supernet: SuperNetwork) -> dict[str, Any]:
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in supernet.model.named_parameters()}
    fits = _fits(supernet)
    whole = _gradients(supernet)
    with in_parts([supernet.model], supernet.model.device):
        frozen = [p for layer in supernet.layers for p in layer.module.parameters() if not p.requires_grad]
        spread = [p for p in supernet.model.parameters() if isinstance(p, DTensor)]
        held = sum(part.to_local().nbytes for part in spread) / sum(part.nbytes for part in spread)
        parts = _gradients(supernet)
    after = dict(supernet.model.named_parameters())
    return {
        "same in parts": _same(whole, parts),
        "same again": _same(whole, _gradients(supernet)),
        "same weights": all(after[name] is kept and torch.equal(kept, old) for name, (kept, old) in before.items()),
        "same fits": _same(fits, _fits(supernet)),
        "layers in parts": all(isinstance(parameter, DTensor) for parameter in frozen),
        "held": held,
    }


def _gradients(supernet: SuperNetwork) -> list[Tensor | None]:
    """What the largest and the smallest sub-network say, and the gradients of the adapters."""
    found: list[Tensor | None] = []
    for genome in (supernet.space.largest, supernet.space.smallest, supernet.space.largest):
        supernet.activate_genome(genome)
        said = supernet.model(TOKENS).logits
        if said.requires_grad:
            said.float().square().mean().backward()
        found += [said.detach(), *(parameter.grad for parameter in supernet.adapter_parameters)]
        supernet.model.zero_grad()
    return found


def _fits(supernet: SuperNetwork) -> list[Tensor | None]:
    return [fit.clone() for linear in supernet.elastic_linears.values() for fit in linear.fits.values()]


def _same(ours: list[Tensor | None], theirs: list[Tensor | None]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def interrupted(rank: int, port: int, folder: Path) -> None:
    """A network that an error left in parts, trained again; what that says into `folder`."""
    join(rank, 2, port)
    dist.init_process_group("gloo")
    supernet = supernetwork(tiny_llama())
    said = []
    try:
        with in_parts([supernet.model], supernet.model.device):
            raise RuntimeError("the disk is full")
    except RuntimeError as error:
        said.append(str(error))
    try:
        train(supernet, EXAMPLES, steps=1, sharded=True, **STEPS)
    except ValueError as error:
        said.append(str(error))
    (folder / f"interrupted-{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()
