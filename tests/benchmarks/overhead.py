"""What Trainer, logging and recording cost a step, over a bare loop of the same arithmetic.

    python tests/benchmarks/overhead.py

Both sides train a 64-wide multilayer perceptron on 64 images of each of two environments, in turn,
in one process, on one thread. A side's cost a step is the difference between a long and a short
run, so that what happens once (imports, data, the last check) is in neither. CPU time, not wall.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import torch
from torch.nn import functional as F

from dgbench.settings import resolve
from dgbench.training import build_algorithm, build_data, run

SHORT, LONG = 100, 1100
DEMAND_MS = 0.6


def settings(steps: int, out: str, trial_seed: int):
    """A run with one check, at its end, and Lightning's CSV logger beside the record."""
    return resolve(
        {
            "algo": {"name": "erm", "l2": 0.0},
            "test_env": 2,
            "steps": steps,
            "check_every": steps,
            "trial_seed": trial_seed,
            "network": {"width": 64, "logits": "all"},
            "data": {"batch_size": 64, "draws": 2000, "holdout_draws": 100},
            "matmul_precision": "highest",
            "logger": ["csv"],
            "out": out,
        }
    )


def ours(steps: int, trial_seed: int) -> float:
    """CPU seconds of a whole run."""
    with tempfile.TemporaryDirectory() as out:
        resolved = settings(steps, out, trial_seed)
        start = time.process_time()
        run(resolved)
        return time.process_time() - start


def bare(steps: int, trial_seed: int) -> float:
    """CPU seconds of the loop that a paper's script would have."""
    resolved = settings(steps, "", trial_seed)
    data = build_data(resolved)
    network = build_algorithm(resolved, data).network
    environments = [data.environment(index) for index in data.train_environments]
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    start = time.process_time()
    for _ in range(steps):
        rows = [torch.randint(len(e.main), (64,)) for e in environments]
        inputs = torch.cat([e.inputs[r] for e, r in zip(environments, rows, strict=True)])
        targets = torch.cat([e.targets[r] for e, r in zip(environments, rows, strict=True)])
        loss = F.cross_entropy(network(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return time.process_time() - start


def main() -> None:
    """Measures in rounds and prints medians, and the demand beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    ours(SHORT, 0)  # imports
    costs: dict[str, list[float]] = {"bare": [], "dgbench": []}
    for number in range(rounds):
        for name, side in (("bare", bare), ("dgbench", ours)):
            difference = side(LONG, number) - side(SHORT, number)
            costs[name].append(1000 * difference / (LONG - SHORT))
    overheads = [b - a for a, b in zip(costs["bare"], costs["dgbench"], strict=True)]
    ratios = [b / a for a, b in zip(costs["bare"], costs["dgbench"], strict=True)]
    for name, values in costs.items():
        print(f"{name:<10} {statistics.median(values):.3f} ms a step")
    print(
        f"overhead   {statistics.median(overheads):.3f} ms a step "
        f"({min(overheads):.3f} to {max(overheads):.3f}; demand: at most {DEMAND_MS})"
    )
    print(f"ratio      {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
