"""Out of memory halves the budget and goes on; everything else is somebody's mistake and passes through."""

import pytest
import torch

from evaluators.text.halving import Halving, halving, is_out_of_memory


def needs_at_most(budget: int, error: BaseException):
    """An action that only has memory for `budget`, and the budgets it was called with."""
    seen = []

    def action(given: int) -> int:
        seen.append(given)
        if given > budget:
            raise error
        return given * 10

    return action, seen


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        MemoryError(),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_budget_halves_until_memory_suffices_and_stays_there(error: BaseException) -> None:
    action, seen = needs_at_most(300, error)
    budget = Halving(1000)
    assert budget.run(action) == 2500
    assert seen == [1000, 500, 250]
    assert budget.run(action) == 2500
    assert seen == [1000, 500, 250, 250]


def test_an_allocation_that_torch_cannot_make_on_the_cpu_is_out_of_memory() -> None:
    assert halving(lambda budget: torch.empty(2**44 if budget > 4 else 4).numel(), budget=8) == 4
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**44)
    assert is_out_of_memory(raised.value)


def test_least_budget_is_tried_and_then_given_up_with_the_reason() -> None:
    action, seen = needs_at_most(2, MemoryError("no room"))
    with pytest.raises(MemoryError, match=r"budget of 3 \(no room\)") as raised:
        halving(action, budget=10, least=3)
    assert seen == [10, 5, 3]
    assert isinstance(raised.value.__cause__, MemoryError)


def test_other_errors_pass_through_at_once() -> None:
    action, seen = needs_at_most(1, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        halving(action, budget=8)
    assert seen == [8]


@pytest.mark.parametrize(
    ("budget", "least", "message"), [(0, 1, "budget is 0"), (4, 0, "least is 0"), (2, 3, "budget")]
)
def test_bad_budgets_are_refused(budget: int, least: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Halving(budget, least)
