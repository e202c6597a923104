"""A network whose frozen weights are spread over processes: each holds a part, and gathers a layer's while it computes.

PyTorch's FSDP2 (`torch.distributed.fsdp.fully_shard`) gathers a layer before it computes, forward or backward, and lets
it go afterwards. It is given blocks that hold the weights and run the layers, not the layers themselves: what it
changes in a module it never undoes, and after training the network is to be as if it had never been sharded.

Adapters stay whole in every process. They are a hundredth of the base; their gradients are added up as without
sharding (`nas_engine.training.data_parallel`), so that weights, moments and checkpoints are the same, bit for bit.
"""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from transformers import PreTrainedModel

from nas_engine.families.descriptions import family_of
from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.supernetwork import SuperNetwork
from nas_engine.training.data_parallel import started_processes

if TYPE_CHECKING:  # some builds of torch lack it, and train in one process
    from torch.distributed.device_mesh import DeviceMesh

Place = Callable[[nn.Parameter], None]
"""Puts a weight where a module reads it."""
Readers = Mapping[nn.Parameter, Sequence[tuple[nn.Module, str]]]
"""Which modules read each parameter, and under what name."""


def shard_device(home: torch.device) -> torch.device:
    """Where this process computes with a network whose home is `home`: there, or on its own GPU if that is the CPU."""
    if home.type != "cpu" or not torch.cuda.is_available():
        return home
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def require_sharding(supernets: Sequence[SuperNetwork]) -> None:
    """Check that there are processes over which the base of `supernets` can be spread, and that it is one.

    Raises:
        ValueError: there is one process, or sub-networks put other weights in place of the base's.
    """
    if started_processes() < 2:
        raise ValueError(
            "sharded=True spreads the base over several processes, and this one was started alone; start the script "
            "with torchrun, or leave sharded out."
        )
    if any(supernet.compression_state for supernet in supernets):
        raise ValueError(
            "sharded=True, but this space varies the bits or zeros of weights, whose versions are put in place of "
            "whole weights at every switch; leave sharded out."
        )


@contextmanager
def in_parts(models: Sequence[PreTrainedModel], device: torch.device) -> Iterator[None]:
    """Spread the frozen weights of `models` over all processes, and gather them at the end: all processes do both.

    What trains, and what is small or read in several places (tied embeddings), is whole in every process. Weights that
    were fitted to narrower widths are spread too; shares, which a checkpoint holds, are not. An error leaves the models
    in parts, with which nothing can be computed.

    Args:
        models: of known families, projections elastic or not; each wherever it is, where it comes back to.
        device: where this process computes meanwhile, and holds its part.
    """
    if not models:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where FSDP2 takes a mesh of GPUs to be
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # The model's last states may be a view (GPT-2), which nobody writes into.
    warnings.filterwarnings("ignore", rf"FSDP2-wrapped module \(FSDP{_Block.__name__}\) returned a view")
    readers, homes = _readers(models), [model.device for model in models]
    spread = [_Spread(model, home, device, mesh, readers) for model, home in zip(models, homes, strict=True)]
    try:
        yield
    except BaseException:
        for one in spread:
            one.abandon()
        raise
    for one in spread:
        one.gather()
    del spread, one
    gc.collect()  # FSDP2's objects hold each other, and with them this process's parts


class _Block(nn.Module):
    """Weights that are gathered together, and the module that computes with them.

    Args:
        module: whose forward pass runs through this block from now on.
        weights: by where they belong.
        within: blocks that compute in its forward pass.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Sequence[tuple[nn.Parameter, Sequence[Place]]] = (),
        within: Iterable[_Block] = (),
    ) -> None:
        super().__init__()
        self.within = nn.ModuleList(within)
        # In tuples, for they are no parameters and no modules of this block's.
        self._module, self._weights = (module,), tuple(weights)
        for index, (weight, _) in enumerate(weights):
            self.register_parameter(str(index), weight)
        self._forward, self._hiding = module.forward, module.__dict__.get("forward")

    def shard(self, mesh: DeviceMesh, learned_from: bool = True) -> _Block:
        """Keep this process's part of every weight.

        Args:
            mesh: of all processes.
            learned_from: whether gradients pass the module.
        """
        from torch.distributed.fsdp import fully_shard

        fully_shard(self, mesh=mesh).set_unshard_in_backward(learned_from)
        self._parts: tuple[Any, ...] = tuple(self.parameters(recurse=False))
        self._put(self._parts)
        for weight, _ in self._weights:
            weight.data = weight.data.new_empty(0)
        # An attribute of the instance hides the class's method: the module keeps its place in the model.
        self._module[0].__dict__["forward"] = self
        return self

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes, its weights whole."""
        # They stay in place after it: when gradients are asked for, FSDP2 fills them anew.
        self._put(self.parameters(recurse=False))
        return self._forward(*args, **kwargs)

    def release(self) -> None:
        """Leave the parts where the module reads its weights, and let it compute by itself."""
        self._put(self._parts)
        self._module[0].__dict__.pop("forward")
        if self._hiding is not None:
            self._module[0].__dict__["forward"] = self._hiding

    @torch.no_grad()
    def gather(self, home: torch.device) -> None:
        """Make the module's weights whole, the same parameters as before; every process does."""
        self.release()
        for part, (weight, places) in zip(self._parts, self._weights, strict=True):
            weight.data = part.full_tensor().to(home)
            for place in places:
                place(weight)

    def _put(self, weights: Iterable[nn.Parameter]) -> None:
        for weight, (_, places) in zip(weights, self._weights, strict=True):
            for place in places:
                place(weight)


class _Spread:
    """A model in parts; `gather` makes it whole."""

    def __init__(
        self, model: PreTrainedModel, home: torch.device, device: torch.device, mesh: DeviceMesh, readers: Readers
    ) -> None:
        self._model, self._home = model, home
        layers = model.get_submodule(family_of(model).layers).children()
        ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
        self._modules: list[nn.Module] = []
        self._blocks: list[_Block] = []
        for module in dict.fromkeys([*layers, *ends]):  # one at a time is whole on the device
            if weights := _frozen(_moved(module, device), readers):
                self._modules.append(module)
                # What embeddings read asks for no gradient.
                reads = module is not model.get_input_embeddings()
                self._blocks.append(_Block(module, weights).shard(mesh, reads))
        _move_rest(model, self._modules, device)
        self._root = _Block(model.base_model, within=self._blocks).shard(mesh)

    def gather(self) -> None:
        """Make the model whole where it was, in this process as in every other."""
        self._root.release()
        for module, block in zip(self._modules, self._blocks, strict=True):
            block.gather(self._home)
            _moved(module, self._home)
        _move_rest(self._model, self._modules, self._home)

    def abandon(self) -> None:
        """Leave the model in parts: the other processes may be elsewhere, and gathering would wait for them."""
        for block in (self._root, *self._blocks):
            block.release()


def _readers(models: Iterable[nn.Module]) -> Readers:
    """Of tied weights several, also of two models, such as one that is healed and its teacher."""
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in chain.from_iterable(model.modules() for model in models):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            found.setdefault(parameter, []).append((module, name))
    return found


def _frozen(module: nn.Module, readers: Readers) -> list[tuple[nn.Parameter, list[Place]]]:
    """The weights of `module` that nothing trains and nothing else reads, and where each belongs."""
    inside = set(module.modules())
    found: list[tuple[nn.Parameter, list[Place]]] = []
    for parameter in module.parameters():
        of_all = readers[parameter]
        if not parameter.requires_grad and parameter.dim() and all(reader in inside for reader, _ in of_all):
            parameter.data = parameter.data.contiguous()
            found.append((parameter, [partial(setattr, reader, name) for reader, name in of_all]))
    for linear in module.modules():
        if isinstance(linear, ElasticLinear):
            for width, fitted in linear.fits.items():
                weight = nn.Parameter(fitted.contiguous(), requires_grad=False)
                found.append((weight, [partial(linear.set_fit, width)]))
    return found


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    tensors: Iterable[Tensor] = chain(module.parameters(), module.buffers())
    return module.to(device) if any(tensor.device != device for tensor in tensors) else module


def _move_rest(model: nn.Module, blocks: Iterable[nn.Module], device: torch.device) -> None:
    """Move what is in none of `blocks`; parameters stay the same objects."""
    inside = {module for block in blocks for module in block.modules()}
    for module in model.modules():
        if module not in inside:
            for tensor in chain(module.parameters(recurse=False), module.buffers(recurse=False)):
                tensor.data = tensor.data.to(device)
