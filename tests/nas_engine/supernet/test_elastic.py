"""Elastic layers against plain products of sliced matrices."""

import pytest
import torch
from torch import nn

from nas_engine.supernet.elastic import ElasticLinear
from nas_engine.supernet.leaving import merged_layer


def layer(bias: bool = True, rank: int = 4) -> ElasticLinear:
    torch.manual_seed(0)
    elastic = ElasticLinear(nn.Linear(10, 8, bias=bias), rank, alpha=6.0, generator=torch.Generator().manual_seed(1))
    if elastic.lora_B is not None:
        nn.init.normal_(elastic.lora_B)
    return elastic


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs", "rank"), [(10, 8, 4), (10, 5, 2), (7, 8, 1), (3, 3, 3)])
def test_active_slice_computes_what_the_sliced_matrices_compute(
    bias: bool, inputs: int, outputs: int, rank: int
) -> None:
    elastic = layer(bias)
    elastic.active_in, elastic.active_out, elastic.active_rank = inputs, outputs, rank
    x = torch.randn(2, 3, inputs)
    delta = 6.0 / 4 * elastic.lora_B[:outputs, :rank] @ elastic.lora_A[:rank, :inputs]
    expected = x @ (elastic.weight[:outputs, :inputs] + delta).T
    if bias:
        expected = expected + elastic.bias[:outputs]
    torch.testing.assert_close(elastic(x), expected)
    torch.testing.assert_close(merged_layer(elastic)(x), expected)


def test_fresh_adapter_changes_nothing() -> None:
    plain = nn.Linear(10, 8)
    x = torch.randn(4, 10)
    expected = plain(x)
    assert torch.equal(ElasticLinear(plain, 4, alpha=8.0)(x), expected)


def test_gradients_of_the_active_slice_are_those_of_the_sliced_matrices_and_the_rest_get_none() -> None:
    elastic = layer()
    elastic.active_out, elastic.active_rank = 5, 2
    x = torch.randn(6, 10)
    elastic(x).square().sum().backward()
    a = elastic.lora_A[:2].detach().clone().requires_grad_()
    b = elastic.lora_B[:5, :2].detach().clone().requires_grad_()
    (x @ (elastic.weight[:5] + 1.5 * b @ a).T + elastic.bias[:5]).square().sum().backward()
    torch.testing.assert_close(elastic.lora_A.grad[:2], a.grad)
    torch.testing.assert_close(elastic.lora_B.grad[:5, :2], b.grad)
    assert elastic.lora_A.grad[2:].abs().sum() == 0
    assert elastic.lora_B.grad[5:].abs().sum() == 0
    assert elastic.lora_B.grad[:, 2:].abs().sum() == 0
    assert elastic.weight.grad is None


def test_permuted_channels_compute_the_permuted_outputs() -> None:
    elastic, x = layer(), torch.randn(3, 10)
    before = elastic(x)
    order = torch.randperm(8)
    elastic.permute_outputs(order)
    torch.testing.assert_close(elastic(x), before[:, order])
    inputs = torch.randperm(10)
    elastic.permute_inputs(inputs)
    torch.testing.assert_close(elastic(x[:, inputs]), before[:, order])


def test_layer_without_adapter_is_the_frozen_slice() -> None:
    elastic = layer(rank=0)
    elastic.active_in = 6
    x = torch.randn(2, 6)
    torch.testing.assert_close(elastic(x), x @ elastic.weight[:, :6].T + elastic.bias)
    assert [name for name, p in elastic.named_parameters() if p.requires_grad] == []
