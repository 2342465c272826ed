"""How long invariant causal prediction takes for every subset of 12 variables.

    OMP_NUM_THREADS=1 python tests/benchmarks/icp.py

501 rows in 3 environments, 4,096 sets. CPU time of the process, so that other processes do not
count; one thread, since sets are tested one after the other.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from dgbench.icp import TESTS, icp
from dgbench.icp.sample import IntArray

VARIABLES, ROWS = 12, 167
DEMAND_SECONDS = 5.0


def main() -> None:
    """Times the tests named, and prints them beside the demand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", nargs="*", default=[name for name in TESTS if name != "nonlinear"])
    names = parser.parse_args().tests
    random = np.random.default_rng(0)
    environment: IntArray = np.repeat(np.arange(3), ROWS)
    moved = random.normal(size=(3, VARIABLES))[environment]
    inputs = random.normal(size=(3 * ROWS, VARIABLES)) + moved
    score = inputs[:, 0] - inputs[:, 1]
    numeric = score + random.normal(size=len(score))
    classes = np.where(random.random(len(score)) < 1 / (1 + np.exp(-score)), "yes", "no")
    for name in names:
        target = numeric if TESTS[name]().target == "numeric" else classes
        start = time.process_time()
        result = icp(inputs, target, environment, test=name)
        seconds = time.process_time() - start
        print(f"{name:<12} {seconds:6.2f} s for {len(result.set_p_values):,} sets")
    print(f"demand: at most {DEMAND_SECONDS:.0f} s each on one core")


if __name__ == "__main__":
    main()
