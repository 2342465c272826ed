"""Prints how far several processes stray from one: python -m tests.distributed.table.

With `--accelerator gpu --devices N` on N GPUs (over NCCL), with the defaults on two CPU processes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from tests.distributed.train_all import cases


def launch(out: Path, *arguments: str, processes: int) -> dict[str, Any]:
    """Trains all cases in so many processes.

    Args:
        out: file for the results.
        *arguments: passed on to `train_all`.
        processes: how many.
    """
    script = ["-m", "tests.distributed.train_all", str(out), *arguments]
    together = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    call = script if processes == 1 else [*together, *script, "--devices", str(processes)]
    done = subprocess.run(
        [sys.executable, *call],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = torch.load(out, weights_only=True)
    return results


def deviation(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Largest difference between two cases' weights."""
    pairs = [(value, second["weights"][name]) for name, value in first["weights"].items()]
    return max((one.double() - two.double()).abs().max().item() for one, two in pairs)


def main() -> None:
    """Trains three times and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--devices", type=int, default=2)
    options = parser.parse_args()
    on = ("--accelerator", options.accelerator)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.pt"
        one = launch(out, *on, processes=1)
        several = launch(out, *on, processes=options.devices)
        naive = launch(out, *on, "--naive", processes=options.devices)
    print("| after 20 steps in float64 | dgbench | each shard its own penalty |")
    print("|---|---|---|")
    for name in cases():
        ours, theirs = (deviation(one[name], other[name]) for other in (several, naive))
        print(f"| {name} | {ours:.0e} | {theirs:.0e} |")


if __name__ == "__main__":
    main()
