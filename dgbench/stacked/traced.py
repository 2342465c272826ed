"""Functions that are called again and again, traced, with what never changes computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

# Their values depend on the shape of what they are given.
_OF_A_SHAPE = frozenset({torch.ops.aten.ones_like.default, torch.ops.aten.zeros_like.default})


def trace(
    function: Callable[..., Any], changing: tuple[Any, ...], constant: tuple[Any, ...]
) -> Callable[..., Any]:
    """Traces a function of which some arguments stay the same.

    Every operation that is left is one of the function's own, on the same numbers: results are the
    same to the last bit. What no result needs, and what depends on constants alone, is left out. Of
    a function that draws numbers or writes into tensors only the former.

    Args:
        function: of tensors, in dictionaries and tuples or not, without decisions by their values.
        changing: its first arguments, of the shapes of those to come; no tensor twice.
        constant: its other arguments, which must stay as they are; other tensors.

    Returns:
        The function of its first arguments.
    """
    traced = make_fx(function)(*changing, *constant)
    if not any(node.is_impure() for node in _calls(traced)):
        _fold(traced, changing, constant)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return lambda *arguments: traced(*arguments, *constant)


def _fold(traced: fx.GraphModule, changing: tuple[Any, ...], constant: tuple[Any, ...]) -> None:
    """Puts values in place of operations on constants."""
    run = fx.Interpreter(traced, garbage_collect_values=False)
    run.run(*changing, *constant)
    inputs = traced.graph.find_nodes(op="placeholder")
    known = set(inputs[len(pytree.tree_leaves(changing)) :])
    for node in _calls(traced):
        if node.target in _OF_A_SHAPE or known.issuperset(node.all_input_nodes):
            known.add(node)
    for node in _calls(traced):
        value = run.env[node]
        if node in known and not known.issuperset(node.users) and isinstance(value, Tensor):
            traced.register_buffer(node.name, value)
            with traced.graph.inserting_before(node):
                node.replace_all_uses_with(traced.graph.get_attr(node.name))


def _calls(traced: fx.GraphModule) -> list[fx.Node]:
    return [node for node in traced.graph.nodes if node.op == "call_function"]
