"""Kept inputs stand in for the others by least squares, and a sub-network in which they do leaves as it is."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_engine import SuperNetwork
from nas_engine.compression import sparsify
from nas_engine.errors import CompressionError
from nas_engine.supernet import refit
from nas_engine.supernet.layer import spread
from nas_engine.supernet.refit import damped, elimination_order, shares_of
from nas_engine.supernet.shares import fitted, read_through, stored
from search_spaces import attention_heads, lora_rank, mlp_width
from tests.supernets import DECODERS, EVERY_DIMENSION, FAMILIES, TOKENS, random_adapters, supernetwork
from tests.tiny import tiny_llama

BATCHES = [{"input_ids": TOKENS, "attention_mask": torch.ones_like(TOKENS)}]
SPACE = lora_rank((4, 2), ("q", "down")) + mlp_width((1.0, 0.75, 0.5)) + attention_heads((1.0, 0.5))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), kept=st.integers(1, 7), tokens=st.integers(2, 40))
def test_weight_read_through_shares_is_the_ridge_solution(seed: int, kept: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, 8, generator=generator, dtype=torch.double) @ torch.randn(8, 8, dtype=torch.double)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.double)
    # min over Ŵ of ||X Wᵀ - X_K Ŵᵀ||² + λ ||Ŵ - W_K||², as one least-squares problem.
    damping = refit._DAMPING * (x.T @ x).diagonal().mean()
    rows = torch.cat([x[:, :kept], damping.sqrt() * torch.eye(kept, dtype=torch.double)])
    missed = torch.cat([x[:, kept:] @ weight[:, kept:].T, torch.zeros(kept, 3, dtype=torch.double)])
    expected = weight[:, :kept] + torch.linalg.lstsq(rows, missed).solution.T
    fitted = weight[:, :kept] + weight[:, kept:] @ shares_of(damped(x.T @ x), [kept])[kept].T
    assert torch.allclose(fitted, expected, rtol=1e-4, atol=1e-5)


def output_error(weight: torch.Tensor, products: torch.Tensor, kept: torch.Tensor) -> float:
    """Of the refitted weight of some inputs, by the definition: ``tr(E G Eᵀ)`` with damped products G."""
    order = torch.cat(
        [kept, torch.tensor([i for i in range(len(products)) if i not in kept.tolist()], dtype=torch.long)]
    )
    products = products[order][:, order]
    whole, k = weight[:, order], len(kept)
    error = whole.clone()
    error[:, :k] -= whole[:, :k] + whole[:, k:] @ torch.linalg.solve(products[:k, :k], products[:k, k:]).T
    return float((error @ products @ error.T).trace())


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), width=st.sampled_from([1, 2]), fewest=st.integers(1, 5))
def test_units_go_where_the_others_replace_them_best(seed: int, width: int, fewest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 6 * width, generator=generator, dtype=torch.double)
    x = x @ torch.randn(6 * width, 6 * width, generator=generator, dtype=torch.double)
    weight, products = torch.randn(3, 6 * width, generator=generator, dtype=torch.double), damped(x.T @ x)
    order = elimination_order(weight, products, width, fewest)
    assert sorted(order.tolist()) == list(range(6))
    for kept in range(fewest, 6):
        # Of all units that were left, the one that went costs the least.
        left = order[: kept + 1].tolist()
        errors = {
            u: output_error(weight, products, spread(torch.tensor([v for v in left if v != u]), [width])) for u in left
        }
        assert errors[int(order[kept])] == pytest.approx(min(errors.values()))


@torch.inference_mode()
def logits(supernet: SuperNetwork, configuration) -> torch.Tensor:
    supernet.activate(configuration)
    return supernet.model(TOKENS, use_cache=False).logits


@pytest.mark.parametrize("family", DECODERS)
def test_refitted_subnetworks_leave_as_they_are(family: str) -> None:
    supernet = supernetwork(FAMILIES[family](), EVERY_DIMENSION)
    largest = supernet.space.configuration(supernet.space.largest)
    original = logits(supernet, largest)
    supernet.order_by_importance(BATCHES, refit=True)
    assert any(linear.shares for linear in supernet.elastic_linears.values())
    assert (logits(supernet, largest) - original).abs().max() < 1e-4
    random_adapters(supernet)
    for genome in supernet.space.sample(np.random.default_rng(0), 4):
        subnet = supernet.subnetwork(supernet.space.configuration(genome))
        extracted = subnet.extract()
        with torch.inference_mode():
            difference = extracted(TOKENS, use_cache=False).logits - logits(supernet, subnet.configuration)
        assert difference.abs().max() < 1e-4
        assert sum(p.numel() for p in extracted.parameters()) == subnet.parameter_count()


def test_refit_comes_closer_to_the_whole_layer_than_a_prefix() -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    read = {}
    for name in ("o", "down"):
        linear = supernet.elastic_linears[f"layers.1.{name}"]
        linear.register_forward_pre_hook(lambda module, args, name=name: read.update({name: args[0].flatten(0, -2)}))
    supernet.order_by_importance(BATCHES, refit=True)
    logits(supernet, supernet.space.configuration(supernet.space.largest))
    for name, x in read.items():
        linear = supernet.elastic_linears[f"layers.1.{name}"]
        assert len(linear.shares) == (2 if name == "down" else 1)
        for kept in linear.shares:
            linear.active_in = kept
            whole = x @ linear.matrix.T
            fitted, cut = (x[:, :kept] @ w.T - whole for w in (linear.active_weight, linear.matrix[:, :kept]))
            assert fitted.norm() < cut.norm()


def test_adapter_is_read_through_the_same_shares_as_the_weight() -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    supernet.order_by_importance(BATCHES, refit=True)
    random_adapters(supernet)
    linear = supernet.elastic_linears["layers.0.down"]
    for rank in (4, 2):
        linear.active_rank, linear.active_in = rank, linear.in_features
        whole = linear.combined_weight()
        for kept in linear.shares:
            linear.active_in = kept
            expected = read_through(whole, linear.shares, kept)
            # The fitted weight is held in half precision.
            assert (linear.combined_weight() - expected).norm() < 2**-11 * expected.norm()


def test_what_a_narrow_subnetwork_learns_reaches_the_inputs_left_out() -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    supernet.order_by_importance(BATCHES, refit=True)
    random_adapters(supernet)
    supernet.activate_genome(supernet.space.smallest)
    supernet.model(TOKENS, labels=TOKENS, use_cache=False).loss.backward()
    linear = supernet.elastic_linears["layers.0.down"]
    gradient = linear.lora_A.grad
    kept = linear.active_in
    share = read_through(torch.eye(linear.in_features)[kept:], linear.shares, kept).T  # in everything left out
    assert torch.allclose(gradient[:2, kept:], gradient[:2, :kept] @ share, atol=1e-6)
    assert gradient[:2, kept:].any()
    assert not gradient[2:].any()  # ranks that are not active learn nothing


@torch.no_grad()
def test_fitting_again_after_training_follows_the_adapters() -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    supernet.order_by_importance(BATCHES, refit=True)
    random_adapters(supernet)
    largest, read = supernet.space.configuration(supernet.space.largest), []
    linear = supernet.elastic_linears["layers.1.down"]
    linear.register_forward_pre_hook(lambda module, args: read.append(args[0].flatten(0, -2)))
    whole = logits(supernet, largest)
    x = read[0].clone()
    expected = x @ linear.combined_weight().T

    def error() -> float:
        linear.active_in = min(linear.shares)
        narrow = linear.combined_weight()
        linear.active_in = linear.in_features
        return float((x[:, : narrow.shape[1]] @ narrow.T - expected).norm())

    before = error()
    supernet.refit(BATCHES)
    assert torch.equal(logits(supernet, largest), whole)
    assert error() < before


def test_orders_and_shares_in_fp32_are_those_in_fp64() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 192, generator=generator) @ torch.randn(192, 192, generator=generator)
    x[:, 7] *= 1000  # as single channels of language models are
    weight, products = torch.randn(48, 192, generator=generator), damped((x.T @ x).double())
    orders = {dtype: elimination_order(weight, products.to(dtype), 1, 32) for dtype in (torch.float32, torch.float64)}
    assert torch.equal(*orders.values())
    found, exact = (shares_of(products.to(dtype), (32, 96, 144)) for dtype in orders)
    assert all((found[kept] - exact[kept]).norm() < 1e-3 * exact[kept].norm() for kept in exact)


@pytest.mark.parametrize("transposed", [False, True])  # as GPT-2 holds its weights
def test_ordering_changes_neither_weight_nor_products(transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 12, generator=generator)
    held, products = torch.randn(12, 5, generator=generator), damped(x.T @ x)
    weight = held.T if transposed else held.T.contiguous()
    before = weight.clone(), products.clone()
    elimination_order(weight, products, 1, 2)
    assert torch.equal(weight, before[0])
    assert torch.equal(products, before[1])


def test_products_that_are_singular_in_fp32_are_solved_in_fp64() -> None:
    products = torch.tensor([[10946.0, 17711.0, 1.0], [17711.0, 28657.0, 2.0], [1.0, 2.0, 3.0]])  # determinants of 1
    with pytest.raises(torch.linalg.LinAlgError):
        torch.linalg.cholesky(products[:2, :2])
    exact = torch.tensor([[28657.0 - 2 * 17711.0], [2 * 10946.0 - 17711.0]])  # by Cramer's rule
    assert torch.allclose(shares_of(products, [2])[2].float(), exact, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_from_width_to_width_are_the_shares_of_everything_left_out(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 40, generator=generator) @ torch.randn(40, 40, generator=generator)
    products, weight = damped((x.T @ x).double()), torch.randn(8, 40, generator=generator)
    held = stored(shares_of(products, (8, 16, 30)), 40)
    assert sum(share.numel() for share in held.values()) == 8 * 8 + 16 * 14 + 30 * 10
    assert all(share.itemsize == 2 for share in held.values())
    for kept in held:
        share = torch.linalg.solve(products[:kept, :kept], products[:kept, kept:])
        expected = weight[:, :kept] + weight[:, kept:] @ share.float().T
        assert (read_through(weight, held, kept) - expected).norm() < 2e-3 * expected.norm()
        weights = fitted(weight.to(dtype), held)
        assert weights[kept].dtype == (torch.float16 if dtype == torch.float32 else dtype)
        assert (weights[kept].float() - expected).norm() < (2e-3 if dtype == torch.float32 else 6e-3) * expected.norm()


def test_shares_of_everything_as_older_files_have_them_are_taken() -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    supernet.order_by_importance(BATCHES, refit=True)
    state = supernet.state()
    name = "layers.0.down"
    whole = torch.eye(supernet.elastic_linears[name].in_features)
    shares = supernet.elastic_linears[name].shares
    for kept in shares:
        state[f"{name}.share.{kept}"] = read_through(whole[kept:], shares, kept).T.contiguous()
    supernet.load_state(state)
    assert all(torch.equal(share, shares[kept]) for kept, share in supernet.elastic_linears[name].shares.items())


def test_shares_are_saved_and_change_the_fingerprint(tmp_path) -> None:
    supernet = supernetwork(tiny_llama(), SPACE)
    supernet.order_by_importance(BATCHES)
    before = supernet.fingerprint()
    supernet.order_by_importance(BATCHES, refit=True)
    assert supernet.fingerprint() != before
    smallest = supernet.space.configuration(supernet.space.smallest)
    supernet.save(tmp_path)
    loaded = SuperNetwork.load(tmp_path)
    assert loaded.fingerprint() == supernet.fingerprint()
    assert torch.equal(logits(loaded, smallest), logits(supernet, smallest))


def test_sparse_base_is_not_refitted() -> None:
    model = tiny_llama()
    sparsify(model, BATCHES, 0.5)
    supernet = supernetwork(model, SPACE)
    assert not supernet.can_refit
    with pytest.raises(CompressionError, match="would fill the zeros of a sparse base"):
        supernet.order_by_importance(BATCHES, refit=True)


def test_weights_that_are_zero_by_chance_do_not_make_a_base_sparse() -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[0, 0] = 0.0
    supernet = supernetwork(model, SPACE)
    assert supernet.can_refit
    supernet.order_by_importance(BATCHES, refit=True)
    assert supernet.elastic_linears["layers.0.down"].shares
