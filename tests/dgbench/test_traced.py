"""Traced functions: the same results, without what never changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dgbench.stacked.traced import trace


class Operations(TorchDispatchMode):
    """Names of the operations that are run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_what_depends_on_constants_alone_is_computed_once():
    def gradient(weights: Tensor, inputs: Tensor) -> Tensor:
        members = (torch.arange(3)[:, None] == inputs.long().remainder(3)).float()

        def loss(weights: Tensor) -> Tensor:
            return (members @ (inputs * weights).exp()).sum()

        return torch.func.grad(loss)(weights)

    inputs, weights = torch.arange(6.0), torch.full((6,), 0.1)
    traced = trace(gradient, (weights,), (inputs,))
    with Operations() as used:
        found = traced(2 * weights)
    torch.testing.assert_close(found, gradient(2 * weights, inputs), rtol=0, atol=0)
    assert "exp" in used.names
    assert not {"arange", "eq", "remainder", "ones_like", "mm", "mv"} & set(used.names)


@pytest.mark.parametrize(
    "function",
    [
        lambda weights, inputs: torch.zeros_like(inputs).add_(weights) + inputs,
        lambda weights, inputs: weights + torch.rand_like(inputs),
    ],
)
def test_what_writes_or_draws_is_left_as_it_is(function):
    weights, inputs = torch.ones(4), torch.arange(4.0)
    traced = trace(function, (weights,), (inputs,))
    for _ in range(2):
        torch.manual_seed(0)
        expected = function(weights, inputs)
        torch.manual_seed(0)
        torch.testing.assert_close(traced(weights), expected, rtol=0, atol=0)


def test_arguments_and_results_keep_their_structure():
    def function(changing: dict[str, Tensor], constant: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"sum": changing["a"] + constant[1].sum(), "all": (changing["b"], constant[0])}

    a, b, c, d = torch.ones(2), torch.zeros(3), torch.ones(4), torch.arange(5.0)
    traced = trace(function, ({"a": a, "b": b},), ((c, d),))
    found = traced({"a": 5 * a, "b": b + 1})
    torch.testing.assert_close(found, function({"a": 5 * a, "b": b + 1}, (c, d)))
