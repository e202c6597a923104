"""Sub-networks of a batch share their first layers, and score as they would alone, to the last bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluators import MultipleChoiceAccuracy, depth_first
from evaluators.multiple_choice.prefix_reuse import PrefixReuse, branches_of
from nas_engine.supernet import SuperNetwork
from search_spaces import lora_rank, mlp_width
from tests.evaluators.multiple_choice.test_multiple_choice import questions
from tests.supernets import (
    DECODERS,
    EVERY_DIMENSION,
    EVERY_FAMILY,
    MIXTURES,
    TOKENS,
    random_adapters,
    supernetwork,
    whole_space,
)
from tests.tiny import tiny_llama


@pytest.fixture(scope="module")
def deep() -> SuperNetwork:
    """Seven layers, so that some outputs are kept for later batches."""
    space = lora_rank((4, 2), ("q",)) + mlp_width((1.0, 0.5))
    return random_adapters(supernetwork(tiny_llama(num_hidden_layers=7), space))


def batch_of(supernet: SuperNetwork, count: int = 8, seed: int = 0) -> list:
    """Sub-networks that differ from the largest in few genes, sorted to share."""
    rng, space = np.random.default_rng(seed), supernet.space
    genomes = np.where(rng.random((count, len(space))) < 0.2, space.sample(rng, count), space.largest)
    subnets = [supernet.subnetwork(space.configuration(genome)) for genome in genomes]
    return [subnets[i] for i in depth_first(subnets)]


def reuse_for(subnets: list, memory_bytes: int = 2**30) -> PrefixReuse:
    reuse = PrefixReuse(subnets[0].layers, memory_bytes)
    reuse.begin([subnet.layer_signatures for subnet in subnets])
    return reuse


@torch.inference_mode()
def in_turns(reuse: PrefixReuse, subnets: list) -> list[torch.Tensor]:
    states = []
    for position, subnet in enumerate(subnets):
        model = subnet.model
        for name, ids in enumerate((TOKENS, TOKENS.flip(1))):
            with reuse.turn(position, name):
                states.append(model(ids, use_cache=False).logits)
    return states


@pytest.mark.parametrize("memory_bytes", [0, 20_000, 2**30])
@pytest.mark.parametrize("family", [*DECODERS, *MIXTURES, "gemma4", "qwen3_5"])
def test_shared_layers_give_every_subnetwork_the_logits_it_has_alone(family: str, memory_bytes: int) -> None:
    supernet = random_adapters(supernetwork(EVERY_FAMILY[family](), whole_space(family)))
    subnets = batch_of(supernet)
    reuse = reuse_for(subnets, memory_bytes)
    with torch.inference_mode():
        alone = [s.model(ids, use_cache=False).logits for s in subnets for ids in (TOKENS, TOKENS.flip(1))]
    together = in_turns(reuse, subnets)
    assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))
    assert reuse.layers_run + reuse.layers_reused == 2 * 3 * len(subnets)
    assert (reuse.layers_reused > 0) == (memory_bytes > 0)
    assert not any("forward" in layer.__dict__ for layer in subnets[0].layers)


def test_layers_run_are_the_nodes_of_the_trie() -> None:
    subnets = batch_of(random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION)), count=12)
    signatures = [subnet.layer_signatures for subnet in subnets]
    reuse = reuse_for(subnets)
    in_turns(reuse, subnets)
    nodes = {signature[:depth] for signature in signatures for depth in range(1, 4)}
    # A sub-network that is there twice runs nothing the second time.
    assert reuse.layers_run == 2 * len(nodes)


@settings(deadline=None, max_examples=25)
@given(memory_bytes=st.integers(0, 300_000), seed=st.integers(0, 99))
def test_batch_after_batch_shares_layers_within_the_memory(deep: SuperNetwork, memory_bytes: int, seed: int) -> None:
    batches = [batch_of(deep, count=5, seed=seed + i) for i in range(3)]
    reuse = PrefixReuse(batches[0][0].layers, memory_bytes)
    for subnets in batches:
        reuse.begin([subnet.layer_signatures for subnet in subnets])
        with torch.inference_mode():
            alone = [s.model(ids, use_cache=False).logits for s in subnets for ids in (TOKENS, TOKENS.flip(1))]
        assert all(torch.equal(a, b) for a, b in zip(in_turns(reuse, subnets), alone, strict=True))
        assert 0 <= reuse.kept_bytes <= memory_bytes
    reuse.clear()
    assert reuse.kept_bytes == 0


def test_child_runs_only_what_its_parent_did_not(deep: SuperNetwork) -> None:
    parent = deep.largest
    last_layer = deep.space.configuration(deep.space.largest) | {"layers.6.mlp.width": 24}
    reuse = reuse_for([parent])
    in_turns(reuse, [parent])
    child = deep.subnetwork(last_layer)
    reuse.begin([child.layer_signatures])
    in_turns(reuse, [child])
    assert (reuse.layers_run, reuse.layers_reused) == (2 * 7 + 2 * 1, 2 * 6)


def test_next_session_goes_on_with_what_the_last_one_kept(deep: SuperNetwork) -> None:
    accuracy = MultipleChoiceAccuracy(questions(24), token_budget=200)
    first = accuracy.session([deep.largest])
    first.measure(0)
    run = first.reuse.layers_run
    second = accuracy.session(batch_of(deep), first)
    expected = [accuracy(subnet) for subnet in batch_of(deep)]
    assert [second.measure(i) for i in range(8)] == expected
    anew = accuracy.session(batch_of(deep))
    assert [anew.measure(i) for i in range(8)] == expected
    assert second.reuse.layers_run - run < anew.reuse.layers_run


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 2)] * 5), min_size=1, max_size=12))
def test_outputs_are_kept_where_a_later_path_branches_off(signatures: list[tuple[int, ...]]) -> None:
    signatures.sort()
    branches = branches_of(signatures)
    for position, path in enumerate(signatures):
        wanted = set()
        for later, before in zip(signatures[position + 1 :], signatures[position:], strict=False):
            depth = next((i for i, (a, b) in enumerate(zip(path, later, strict=True)) if a != b), 5)
            del before
            wanted.add(depth)
        assert branches[position] == wanted - {0}


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_session_measures_what_each_measures_alone(family: str) -> None:
    supernet = random_adapters(supernetwork(EVERY_FAMILY[family](), EVERY_DIMENSION))
    accuracy = MultipleChoiceAccuracy(questions(24), token_budget=200)
    subnets = batch_of(supernet)
    session = accuracy.session(subnets)
    assert [session.measure(i) for i in range(len(subnets))] == [accuracy(subnet) for subnet in subnets]
    assert session.reuse.layers_reused > 0


def test_session_that_runs_out_of_memory_goes_on_with_smaller_batches() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    subnets = batch_of(supernet)
    expected = [MultipleChoiceAccuracy(questions(24))(subnet) for subnet in subnets]

    def allocate(module, args) -> None:
        if args[0].shape[:-1].numel() > 300:
            raise torch.OutOfMemoryError("out of memory")

    supernet.model.model.layers[1].mlp.register_forward_pre_hook(allocate)
    accuracy = MultipleChoiceAccuracy(questions(24))
    session = accuracy.session(subnets)
    assert [session.measure(i) for i in range(len(subnets))] == expected
    assert accuracy.budget.budget == 256


def test_failed_turn_leaves_the_others_as_they_are() -> None:
    supernet = random_adapters(supernetwork(tiny_llama(), EVERY_DIMENSION))
    subnets = batch_of(supernet)
    accuracy = MultipleChoiceAccuracy(questions(24), token_budget=200)
    session = accuracy.session(subnets)
    handle = supernet.model.model.layers[2].mlp.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        session.measure(0)
    handle.remove()
    expected = [accuracy(subnet) for subnet in subnets[1:]]
    assert [session.measure(i) for i in range(1, len(subnets))] == expected
