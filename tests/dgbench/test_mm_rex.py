from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor
from torch.nn import functional as F

from dgbench.algorithms.mm_rex import MMREx
from tests.synthetic import (
    assert_close,
    assert_same_loss,
    make_batch,
    per_environment,
    small_network,
)

pytestmark = pytest.mark.usefixtures("float64")


def make_mm_rex(environments: int, **options: Any) -> MMREx:
    return MMREx(
        network=small_network(), n_environments=environments, **{"anneal_steps": 0, **options}
    )


def risks_of(algorithm: MMREx, batch: Any) -> Tensor:
    pairs = per_environment(batch)
    return torch.stack([F.cross_entropy(algorithm.network(x), y) for x, y in pairs])


def worst_affine_combination(risks: np.ndarray, lambda_min: float) -> float:
    """Max of sum_e lambda_e R_e over sum_e lambda_e = 1, lambda_e >= lambda_min (eq. 6)."""
    solved = linprog(
        -risks,
        A_eq=np.ones((1, len(risks))),
        b_eq=[1.0],
        bounds=[(lambda_min, None)] * len(risks),
        method="highs",
    )
    assert solved.fun is not None
    return -float(solved.fun)


@pytest.mark.parametrize("environments", [2, 3, 5])
@pytest.mark.parametrize("lambda_min", [-4999.5, -10.0, -1.0, -0.25, 0.0, 0.125])
def test_loss_is_the_worst_affine_combination_of_the_risks(environments, lambda_min):
    batch = make_batch([15 + e for e in range(environments)])
    mm_rex = make_mm_rex(environments, lambda_min=lambda_min)
    risks = risks_of(mm_rex, batch).detach().numpy()
    expected = worst_affine_combination(risks, lambda_min)
    assert mm_rex.objective(batch)["loss"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("environments", [2, 3, 5])
def test_lambda_min_zero_is_robust_optimisation_over_the_environments(environments):
    batch = make_batch([15] * environments)
    mm_rex = make_mm_rex(environments, lambda_min=0.0)
    worst = risks_of(mm_rex, batch).max()
    loss = mm_rex.objective(batch)["loss"]
    assert_same_loss(loss, worst, mm_rex.network)


@pytest.mark.parametrize("environments", [2, 3, 5])
def test_one_over_m_is_erm(environments):
    outputs = make_mm_rex(environments, lambda_min=1 / environments).objective(
        make_batch([15] * environments)
    )
    assert outputs["penalty"] > 0
    assert_close(outputs["loss"], outputs["risks"].mean())


@pytest.mark.parametrize("weight", [1.0, 3.0, 1e4])
def test_the_rex_codes_loss_of_two_environments_is_twice_ours(weight):
    """colored_mnist/main.py of the paper's repository, `--mse False`."""
    batch = make_batch((20, 25))
    mm_rex = make_mm_rex(2, lambda_min=(1 - weight) / 2)
    first, second = risks_of(mm_rex, batch)
    theirs = first + second + weight * (first - second).abs()
    loss = 2 * mm_rex.objective(batch)["loss"]
    assert_same_loss(loss, theirs, mm_rex.network)


def test_the_order_of_the_environments_does_not_matter():
    batch = make_batch((12, 12, 12))
    mm_rex = make_mm_rex(3)
    before = mm_rex.objective(batch)["loss"]
    batch.environment = 2 - batch.environment
    assert_close(mm_rex.objective(batch)["loss"], before)


def test_before_the_switch_it_is_robust_optimisation():
    mm_rex = make_mm_rex(2, lambda_min=-9.5, anneal_steps=1)
    batch = make_batch((12, 15))
    worst = risks_of(mm_rex, batch).max()
    losses = [mm_rex.training_step(batch, step) for step in range(2)]
    assert_close(losses[0], worst)
    assert losses[1] > worst
    assert mm_rex.outputs["penalty_weight"] == 20.0
