"""IRM on Example 1 of the linear unit tests: 50 seeds at once against one at a time, in CPU time.

    python tests/benchmarks/screen.py

The peer's side is a restatement of the IRMv1 of InvarianceUnitTests on plain tensors: every
environment's rows at each step, the penalty by double backward (without its second, additive term,
which makes theirs cheaper), Adam, one seed. Ours is the step of
`screen`: all seeds as one, on the moments that Example 1 reduces to. Building data and moments is
outside the timing on both sides. Sides take turns in one process on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from datamodules.scm_presets import linear_unit_test
from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.irm import IRM
from dgbench.linear_forms import Form, best_form, make_algorithm
from dgbench.stacked.model import StackedAlgorithm

SEEDS, SAMPLES, DEMAND = 50, 10_000, 50.0
SETTINGS: dict[str, Any] = {"learning_rate": 1e-3, "penalty_weight": 27.0, "anneal_steps": 0}


def theirs() -> Callable[[], None]:
    """One seed's step."""
    table = linear_unit_test("1", seed=0).sample("train", SAMPLES)
    batch = Form(regression=True, reduced=False).batch(table)
    environments = [
        (
            batch.inputs[batch.environment == e].float(),
            batch.targets[batch.environment == e].float(),
        )
        for e in range(3)
    ]
    network = nn.Linear(environments[0][0].shape[1], 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=SETTINGS["learning_rate"])
    share = 0.9

    def step() -> None:
        risks, penalties = [], []
        for inputs, targets in environments:
            scale = torch.ones(1, requires_grad=True)
            risk = F.mse_loss(network(inputs).flatten() * scale, targets.flatten())
            (gradient,) = torch.autograd.grad(risk, [scale], create_graph=True)
            risks.append(risk)
            penalties.append(gradient.pow(2).mean())
        optimizer.zero_grad()
        ((1 - share) * torch.stack(risks).mean() + share * torch.stack(penalties).sum()).backward()
        optimizer.step()

    return step


def ours() -> Callable[[], None]:
    """A step of all seeds."""
    tables = [linear_unit_test("1", seed=s).sample("train", SAMPLES) for s in range(SEEDS)]
    form = best_form(IRM, SETTINGS, tables[0])
    stack = StackedAlgorithm([make_algorithm(form, IRM, SETTINGS, t, 0) for t in tables])
    batches = [form.batch(table) for table in tables]
    columns = (torch.stack([getattr(b, f.name) for b in batches]) for f in fields(EnvironmentBatch))
    return stack.traced_step(EnvironmentBatch(*columns), stack.configure_optimizers())


def main() -> None:
    """Takes turns, then prints medians and the ratio for each seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=200, help="of each side in a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sides = {"theirs": theirs(), "ours": ours()}
    costs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds + 1):
        for name, step in sides.items():
            start = time.process_time()
            for _ in range(options.steps):
                step()
            costs[name].append((time.process_time() - start) / options.steps)
    # The first round warms up.
    ratios = [SEEDS * t / o for t, o in zip(costs["theirs"][1:], costs["ours"][1:], strict=True)]
    print(f"theirs {1e3 * statistics.median(costs['theirs'][1:]):.3f} CPU-ms a step, one seed")
    print(f"ours   {1e3 * statistics.median(costs['ours'][1:]):.3f} CPU-ms a step, {SEEDS} seeds")
    print(
        f"a seed: {statistics.median(ratios):.0f} times less "
        f"({min(ratios):.0f} to {max(ratios):.0f}; demand: at least {DEMAND:.0f})"
    )


if __name__ == "__main__":
    main()
