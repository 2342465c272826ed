"""Write a small sweep as DomainBed would: `python -m tests.leaderboard.make_sweep FOLDER`.

`golden/domainbed.txt` is what its `collect_results` (commit b93c22a) printed of it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import sys
from pathlib import Path

ENVIRONMENTS = {"ColoredMNIST": 3, "PACS": 4}
STEPS = (0, 300, 600)


def write_sweep(out: Path) -> None:
    """Two data sets, two algorithms, single and paired test environments, two draws, two trials.

    One job is unfinished, one is absent and takes a pair with it, and accuracies are rounded so
    that some choices are ties.
    """
    generator = random.Random(0)
    for dataset, count in ENVIRONMENTS.items():
        singles = [(index,) for index in range(count)]
        tests = [*singles, *itertools.combinations(range(count), 2)]
        for algorithm, test, draw, trial in itertools.product(
            ("IRM", "ERM"), tests, range(2), range(2)
        ):
            if (dataset, algorithm, test, draw, trial) == ("PACS", "IRM", (0, 1), 1, 0):
                continue
            write_job(out, dataset, algorithm, test, draw, trial, count, generator)
    first = min(out.iterdir())
    (first / "done").unlink()


def write_job(
    out: Path,
    dataset: str,
    algorithm: str,
    test: tuple[int, ...],
    draw: int,
    trial: int,
    count: int,
    generator: random.Random,
) -> Path:
    args = {
        "algorithm": algorithm,
        "checkpoint_freq": None,
        "data_dir": "/data",
        "dataset": dataset,
        "holdout_fraction": 0.2,
        "hparams": None,
        "hparams_seed": draw,
        "output_dir": "train_output",
        "seed": generator.randrange(2**31),
        "steps": STEPS[-1] + 1,
        "task": "domain_generalization",
        "test_envs": list(test),
        "trial_seed": trial,
        "uda_holdout_fraction": 0,
    }
    hparams = {"batch_size": 32, "lr": 0.001 * 10 ** -(draw * 0.5), "resnet18": True}
    folder = out / hashlib.md5(json.dumps(args, sort_keys=True).encode()).hexdigest()
    folder.mkdir(parents=True)
    lines = []
    for step in STEPS:
        accuracies = {
            f"env{index}_{split}_acc": round(generator.random(), 1)
            for index in range(count)
            for split in ("in", "out")
        }
        line = {
            "args": args,
            "hparams": hparams,
            "step": step,
            "loss": 1 / (1 + step),
            **accuracies,
        }
        lines.append(json.dumps(line, sort_keys=True) + "\n")
    (folder / "results.jsonl").write_text("".join(lines))
    (folder / "done").write_text("done")
    return folder


if __name__ == "__main__":
    write_sweep(Path(sys.argv[1]))
