"""The model whose predictions a smaller network learns: a frozen copy of what the largest sub-network once was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas_engine.supernet.layer import inverse
from nas_engine.supernet.supernetwork import SuperNetwork
from nas_engine.training.answers import Predictions, answer_states, at_answers, predictions
from nas_engine.training.remembered import Remembered


class Teacher:
    """The largest sub-network as it was when the teacher was made; what training moves is copied, the base is shared.

    Made by `of`, best between plain LoRA and the training of smaller sub-networks. Heads and channels may be ordered
    anew afterwards.

    Args:
        supernet: whose base it stands on.
        adapters: `lora_A` and `lora_B` of each adapted projection, channels in the base's original order.
        head: parameters of the task's head by name, where the family has one.

    Attributes:
        supernet: whose base it stands on.
    """

    def __init__(
        self,
        supernet: SuperNetwork,
        adapters: Mapping[str, tuple[Tensor, Tensor]],
        head: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.supernet, self._adapters, self._head = supernet, dict(adapters), dict(head or {})
        self._ordered: tuple[str, dict[str, tuple[Tensor, Tensor]]] = ("", {})
        self._said = Remembered()

    @classmethod
    @torch.no_grad()
    def of(cls, supernet: SuperNetwork) -> Teacher:
        """What the largest sub-network of `supernet` computes now."""
        adapters = {}
        for name, linear in supernet.elastic_linears.items():
            if linear.lora_A is not None and linear.lora_B is not None:
                lora_A = linear.lora_A[:, supernet.original_inputs(name)].clone()
                adapters[name] = lora_A, linear.lora_B[supernet.original_outputs(name)].clone()
        return cls(supernet, adapters, {name: p.detach().clone() for name, p in _head_of(supernet).items()})

    def fingerprint(self) -> str:
        """16 hexadecimal digits of its base and its adapters."""
        digest = hashlib.sha256(self.supernet.base_fingerprint.encode())
        for name, pair in sorted(self._adapters.items()):
            digest.update(name.encode())
            for tensor in pair:
                digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        for name, tensor in sorted(self._head.items()):
            digest.update(name.encode() + tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def predictions(self, batch: Mapping[str, Tensor], states: bool = True) -> Predictions:
        """What it says where `batch` has labels; the super-network is left with its largest sub-network active.

        Args:
            batch: as for a model of the task.
            states: whether the states of all tokens are asked for too. Of a language model asked without them, what it
                said of a batch is remembered: finalists are healed on the same batches one after the other.
        """
        with self.taught() as supernet:
            if states or batch["labels"].dim() == 1:
                return predictions(supernet.model, batch)
            asked = self._ordered[0] + "".join(_digest(batch[name]) for name in sorted(batch))
            return at_answers(supernet.model, self._said.of(asked, lambda: answer_states(supernet.model, batch)))

    @contextmanager
    def taught(self) -> Iterator[SuperNetwork]:
        """The super-network with the teacher's adapters and the largest sub-network active, in evaluation mode."""
        supernet = self.supernet
        training = supernet.model.training
        supernet.activate_genome(supernet.space.largest)
        supernet.model.eval()
        own = {}
        for name, (lora_A, lora_B) in self._in_order().items():
            linear = supernet.elastic_linears[name]
            assert linear.lora_A is not None
            assert linear.lora_B is not None
            own[name] = linear.lora_A.data, linear.lora_B.data
            linear.lora_A.data, linear.lora_B.data = lora_A, lora_B
        head = {name: (parameter, parameter.data) for name, parameter in _head_of(supernet).items()}
        for name, (parameter, _) in head.items():
            parameter.data = self._head[name].to(supernet.model.device)
        try:
            yield supernet
        finally:
            for parameter, data in head.values():
                parameter.data = data
            for name, (lora_A, lora_B) in own.items():
                linear = supernet.elastic_linears[name]
                linear.lora_A.data, linear.lora_B.data = lora_A, lora_B  # type: ignore[union-attr]
            supernet.model.train(training)

    def _in_order(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The adapters with channels as the super-network has them now, kept until it is ordered anew."""
        supernet = self.supernet
        orders = [order for layer in supernet.layers for order in layer.orders.values()]
        key = "".join(map(_digest, orders))
        key = f"{key}{supernet.model.device}"
        if self._ordered[0] != key or not self._ordered[1]:
            device = supernet.model.device
            adapters = {
                name: (
                    lora_A.to(device)[:, inverse(supernet.original_inputs(name))].contiguous(),
                    lora_B.to(device)[inverse(supernet.original_outputs(name))].contiguous(),
                )
                for name, (lora_A, lora_B) in self._adapters.items()
            }
            self._ordered = key, adapters
        return self._ordered[1]


def _digest(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()


def _head_of(supernet: SuperNetwork) -> dict[str, nn.Parameter]:
    return {f"{path}.{name}": p for path, module in supernet.head.items() for name, p in module.named_parameters()}
