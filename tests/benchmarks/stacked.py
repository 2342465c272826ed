"""Twenty trials of a small network stacked by the sweep against twenty runs of `fit`, in CPU time.

    python tests/benchmarks/stacked.py

Both sides train a 64-wide multilayer perceptron on 64 images of each environment of Colored MNIST's
protocol `digits`, twenty trials with seeds of their own, and leave the same records. One side is
what a worker of `sweep --stack auto` does with its group, the other what `fit` does twenty times.
They take turns in one process on one thread, so that importing torch, which a process of `fit`
pays each time, counts for nobody; the last ratio of a line adds it, as measured once.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import torch

from dgbench.sweep.design import design
from dgbench.sweep.plan import PlannedRun, plan
from dgbench.sweep.stacking import grouped
from dgbench.sweep.worker import train
from dgbench.training import run

TRIALS, DEMAND = 20, 2.5
FLAGS = ("--network.width", "64", "--network.logits", "all", "--data.batch_size", "64")
ALGORITHMS = ("erm", "irm", "vrex")


def runs(algo: str, options: argparse.Namespace, out: str) -> list[PlannedRun]:
    """The sweep's runs."""
    content = {"datasets": "colored_mnist", "algos": algo, "test_envs": [2], "trials": TRIALS}
    budget = ("--steps", str(options.steps), "--check-every", str(options.check_every))
    return plan(design(content, (*FLAGS, *budget)), out).runs


def one_after_another(planned: Sequence[PlannedRun]) -> None:
    """As `fit` trains them."""
    for each in planned:
        run(each.settings)


def stacked(planned: Sequence[PlannedRun]) -> None:
    """As a worker of the sweep trains them."""
    for group in grouped(planned, "auto", 1).groups:
        outcomes = train([each.settings for each in group])
        assert len(group) == TRIALS
        assert {outcome.state for outcome in outcomes} == {"finished"}, outcomes


def cost(
    side: Callable[[Sequence[PlannedRun]], None], algo: str, options: argparse.Namespace
) -> float:
    """CPU seconds of a side."""
    with tempfile.TemporaryDirectory() as out:
        planned = runs(algo, options, out)
        start = time.process_time()
        side(planned)
        return time.process_time() - start


def start_up() -> float:
    """CPU seconds of a process of `fit` before its first step and behind its last, or nearly so."""
    flags = ["--algo", "erm", "--test-env", "2", "--steps", "1", "--data.draws", "64"]
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "dgbench", "fit", *flags, "--data.holdout_draws", "64"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*command, "--out", out], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Takes turns, then prints medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--check-every", type=int, default=100)
    parser.add_argument("--algos", nargs="+", default=list(ALGORITHMS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    process = start_up()
    warm = argparse.Namespace(steps=2, check_every=2)
    for side in (one_after_another, stacked):
        cost(side, "erm", warm)
    for algo in options.algos:
        apart, together = [], []
        for _ in range(options.rounds):
            apart.append(cost(one_after_another, algo, options))
            together.append(cost(stacked, algo, options))
        ratios = [a / t for a, t in zip(apart, together, strict=True)]
        whole = [
            (a + TRIALS * process) / (t + process) for a, t in zip(apart, together, strict=True)
        ]
        print(
            f"{algo:<6}{statistics.median(apart):.1f} s apart, {statistics.median(together):.1f} s "
            f"stacked: {statistics.median(ratios):.2f} times less ({min(ratios):.2f} to "
            f"{max(ratios):.2f}; demand: at least {DEMAND}); with a process a run, of which each "
            f"takes {process:.1f} s to begin: {statistics.median(whole):.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
