"""Linear problems as batches: as they are, and smaller ones that an objective cannot tell apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from datamodules.scm import Table
from datamodules.seeds import derive_seed
from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.networks import Network, OneLogitClassifier
from dgbench.runtime import seeded

# Relative difference of losses and gradients, in float64, up to which two forms are one problem.
_SAME = 1e-7
# Steps taken at which they are compared: a penalty may switch on in between.
_STEPS = (0, 10**9)


@dataclass(frozen=True)
class Form:
    """How a table is posed to an algorithm with a linear network.

    Reduced, the same problem costs a fraction. The squared error depends on second moments alone,
    so an environment of n rows becomes as many rows as the table has columns, with the same moments
    (the triangular factor of its QR decomposition) and the same count n. Two classes get the log
    odds as one output in place of two logits. Whether an algorithm's objective sees no difference
    is not assumed but tried out: see :func:`best_form`.

    Args:
        regression: whether the target is a number. The network's constant is then a column.
        reduced: whether this is the smaller problem.
    """

    regression: bool
    reduced: bool

    def network(self, columns: int, seed: int) -> Network:
        """A linear network, initialised as torch does, alike for both forms.

        Args:
            columns: of the table's inputs.
            seed: decides the initial weights.
        """
        with seeded(derive_seed(seed, "network")):
            line = nn.Linear(columns, 1)
        if self.regression:
            with_constant = nn.Linear(columns + 1, 1, bias=False)
            with_constant.weight.data = torch.cat([line.weight, line.bias[:, None]], dim=1).detach()
            return Network(nn.Identity(), with_constant)
        if self.reduced:
            return Network(nn.Identity(), line)
        head = OneLogitClassifier(columns)
        head.load_state_dict(line.state_dict())
        return Network(nn.Identity(), head)

    def inputs(self, table: Table) -> Tensor:
        """What the network reads of a table, ``(n, columns)``, float64."""
        inputs = torch.from_numpy(table.inputs)
        return nn.functional.pad(inputs, (0, 1), value=1.0) if self.regression else inputs

    def batch(self, table: Table, dtype: torch.dtype = torch.float32) -> EnvironmentBatch:
        """All rows as one full batch.

        Args:
            table: rows of all environments, environment by environment.
            dtype: of the numbers; moments are computed in float64 all the same.
        """
        targets = torch.from_numpy(table.target)
        batch = replace(table.batch(), inputs=self.inputs(table), targets=targets)
        if self.regression and self.reduced:
            batch = _with_the_moments_of(batch)
        if self.regression:
            batch = replace(batch, targets=batch.targets.to(dtype))
        return replace(batch, inputs=batch.inputs.to(dtype))

    def errors(self, algorithm: Algorithm, table: Table) -> list[float]:
        """Mean squared error, or share of wrong labels, of each environment.

        Args:
            algorithm: a trained one.
            table: rows to predict, environment by environment.
        """
        target = torch.from_numpy(table.target)
        with torch.no_grad():
            outputs = algorithm(self.inputs(table).to(next(algorithm.parameters()).dtype)).double()
        if self.regression:
            wrong = (outputs.squeeze(-1) - target).square()
        else:
            odds = outputs.squeeze(-1) if outputs.shape[-1] == 1 else outputs.diff().squeeze(-1)
            wrong = ((odds > 0) != (target == 1)).double()
        environments = len(np.unique(table.environment))
        return [float(part.mean()) for part in wrong.view(environments, -1)]

    def line(self, algorithm: Algorithm, columns: int) -> npt.NDArray[np.float64]:
        """The weights of a trained line without its constant, ``(columns,)``.

        Args:
            algorithm: a trained one, of a number.
            columns: of the inputs.
        """
        origin_and_axes = torch.cat([torch.zeros(1, columns), torch.eye(columns)])
        rows = nn.functional.pad(origin_and_axes, (0, 1), value=1.0)
        with torch.no_grad():
            outputs = algorithm(rows.to(next(algorithm.parameters()).dtype)).double().squeeze(-1)
        weights: npt.NDArray[np.float64] = (outputs[1:] - outputs[0]).numpy()
        return weights


def best_form(kind: type[Algorithm], options: Mapping[str, Any], table: Table) -> Form:
    """The reduced form where the algorithm's objective and its gradients are the same on it.

    Args:
        kind: the algorithm.
        options: its options.
        table: some rows to try it on.
    """
    regression = bool(table.target.dtype.kind == "f")
    full, reduced = Form(regression, reduced=False), Form(regression, reduced=True)
    try:
        same = all(
            torch.allclose(value, other, rtol=_SAME, atol=_SAME)
            for seed, steps in enumerate(_STEPS)
            for value, other in zip(
                *(_gradients(form, kind, options, table, seed, steps) for form in (full, reduced)),
                strict=True,
            )
        )
    except (RuntimeError, LookupError, ValueError, NotImplementedError):
        # It wants something that the reduced problem does not have, such as two logits.
        same = False
    return reduced if same else full


def make_algorithm(
    form: Form, kind: type[Algorithm], options: Mapping[str, Any], table: Table, seed: int
) -> Algorithm:
    """An algorithm with the linear network of a form.

    Args:
        form: the form.
        kind: the algorithm.
        options: its options.
        table: the rows it will see.
        seed: decides the initial weights.
    """
    environments = len(np.unique(table.environment))
    network = form.network(table.inputs.shape[1], seed)
    with seeded(derive_seed(seed, "algorithm")):
        return kind(network=network, n_environments=environments, **options)


def _gradients(
    form: Form,
    kind: type[Algorithm],
    options: Mapping[str, Any],
    table: Table,
    seed: int,
    steps: int,
) -> list[Tensor]:
    """The loss and its gradients at random weights."""
    algorithm = make_algorithm(form, kind, options, table, seed).double()
    algorithm.steps_taken += steps
    loss = algorithm.objective(form.batch(table, torch.float64))["loss"]
    return [loss.detach(), *torch.autograd.grad(loss, list(algorithm.network.parameters()))]


def _with_the_moments_of(batch: EnvironmentBatch) -> EnvironmentBatch:
    """A few rows for each environment that have the sums of products of all of its rows."""
    rows = torch.cat([batch.inputs, batch.targets[:, None]], dim=1)
    parts = torch.split(rows, batch.counts.tolist())
    factors = [torch.linalg.qr(part, mode="r").R for part in parts]
    sizes = torch.tensor([len(factor) for factor in factors])
    stacked = torch.cat(factors)
    within = torch.cat([torch.arange(size) for size in sizes.tolist()])
    return EnvironmentBatch(
        inputs=stacked[:, :-1],
        targets=stacked[:, -1],
        environment=torch.repeat_interleave(sizes),
        indices=within,
        rows=within,
        counts=batch.counts,
    )
