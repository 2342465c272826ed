"""What a sweep costs beside its runs, as a share of a sweep of one-minute runs.

    python tests/benchmarks/launcher.py

A sweep of short runs is carried out with its live view, and CPU time is measured of

- planning: imports, the plan, the manifest, a look at every folder;
- watching: what the launcher's process uses while runs are under way, by the second of wall time.
  All of it is taken to grow with time, although part of it comes once a run: that overstates it;
- starting a worker: what its first run costs more than its second.

How often torch was imported is counted in the workers' logs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS, JOBS, STEPS = 6, 2, 300
MINUTE = 60.0
SIZES = (20, 100, 360)
DEMAND = 0.02
OPTIONS = ("--check-every", "100", "--network.width", "32", "--data.draws", "500")
GRID = ("--datasets", "colored_mnist", "--algos", "erm", "--test-envs", "2")
LAUNCHER = """
import json, time
from dgbench.__main__ import main
from dgbench.sweep import launcher

carry_out = launcher.carry_out

def measured(*arguments):
    cpu, wall = time.process_time(), time.monotonic()
    failures = carry_out(*arguments)
    spent.append((time.process_time() - cpu, time.monotonic() - wall))
    return failures

spent, launcher.carry_out = [], measured
assert main() == 0
((watching, wall),) = spent
print(json.dumps([time.process_time() - watching, watching, wall]))
"""
WORKER = """
import json, sys, time
from dgbench.settings import resolve_arguments
from dgbench.sweep.worker import train

spent = []
for seed in "0", "1":
    before = time.process_time() if spent else 0.0
    settings = resolve_arguments([*sys.argv[1:], "--trial-seed", seed])
    assert [outcome.state for outcome in train([settings])] == ["finished"]
    spent.append(time.process_time() - before)
print(json.dumps(spent))
"""


def printed(program: str, *arguments: str, **environment: str):
    """What a program of its own prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def launcher(out: str) -> tuple[float, float, float]:
    """CPU seconds of planning and watching, with a live view, and wall seconds of the latter."""
    flags = ("--trials", str(RUNS), "--jobs", str(JOBS), "--out", out, "--steps", str(STEPS))
    view = {"FORCE_COLOR": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    return printed(LAUNCHER, "sweep", *GRID, *flags, *OPTIONS, **view)


def imports_of_torch(out: str) -> list[int]:
    """How often each worker imported torch."""
    logs = [file.read_text().splitlines() for file in Path(out).glob("sweeps/*/worker-*.log")]
    return [sum(line.rpartition("|")[2].strip() == "torch" for line in lines) for lines in logs]


def main() -> None:
    """Measures once and prints the shares, and the demand beside them."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as out:
        planning, watching, wall = launcher(out)
        imports = imports_of_torch(out)
    with tempfile.TemporaryDirectory() as out:
        first, second = printed(
            WORKER, "--algo", "erm", "--test-env", "2", "--out", out, "--steps", "100", *OPTIONS
        )
    starting = first - second
    print(f"{RUNS} runs by {JOBS} workers in {wall:.0f} s; imports of torch by worker: {imports}")
    print(f"planning   {planning:.2f} s of CPU time")
    print(f"watching   {1000 * watching / wall:.1f} ms a second")
    print(f"starting   {starting:.2f} s a worker")
    for runs in SIZES:
        busy = runs * MINUTE
        cost = planning + watching / wall * busy / JOBS + starting * JOBS
        print(f"{runs:>4} one-minute runs: {cost / busy:.2%} (demand: below {DEMAND:.0%})")


if __name__ == "__main__":
    main()
