"""What tables of 10,000 runs cost, beside DomainBed's aggregation of the same runs.

    python tests/benchmarks/aggregation.py

A synthetic sweep of PACS: 42 algorithms, 4 test environments, 20 draws of hyper-parameters and 3
trials, 18 checks a run. The peer's side is a restatement of what its `collect_results` does: it
imports torch and torchvision to know the names of algorithms, keeps every line of every
`results.jsonl` as a dictionary, and groups and selects them anew by each of its three rules. Ours
are the tables that `leaderboard build` writes (Markdown, LaTeX, CSV and JSON, of each rule, with
intervals, ties and differences), once from a packed file and once from DomainBed's own directories;
`page` adds the page with the settings and curves of all runs.

DomainBed's own `collect_results` takes 1.4 times the CPU time of the restatement, which leaves out
what it does besides, so ratios to it are higher. Sides take turns, each in a process of its own,
with bytecode as installed packages have it: CPU time (user and system) and peak memory are what
the kernel says of that process, medians are over rounds. The tables are compared first.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import hashlib
import importlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ENVIRONMENTS, DRAWS, TRIALS = 4, 20, 3
STEPS = (*range(0, 5001, 300), 5000)
DEMANDS = {"pack": (15.0, 6.0), "directories": (3.0, 1.0), "page": (1.0, 1.0)}

Line = dict[str, Any]
Score = tuple[float, float]  # what is selected by, what is reported


# The sweep


def write_sweep(out: Path, algorithms: int) -> None:
    """Jobs as DomainBed leaves them; the hyper-parameters of a draw hold for all environments."""
    names = ["ERM", "IRM", "GroupDRO", "VREx", *(f"Method{i}" for i in range(algorithms))]
    for algorithm, draw, trial in itertools.product(
        names[:algorithms], range(DRAWS), range(TRIALS)
    ):
        generator = random.Random(f"{algorithm} {draw} {trial}")
        hparams = _hparams(generator, draw)
        for test in range(ENVIRONMENTS):
            _write_job(out, algorithm, test, draw, trial, hparams, generator)


def _hparams(generator: random.Random, draw: int) -> dict[str, Any]:
    plain = {"data_augmentation": True, "class_balanced": False, "nonlinear_classifier": False}
    drawn = {
        "lr": 10 ** generator.uniform(-5, -3.5) if draw else 5e-5,
        "batch_size": int(2 ** generator.uniform(3, 5.5)) if draw else 32,
        "weight_decay": 10 ** generator.uniform(-6, -2) if draw else 0.0,
        "resnet_dropout": generator.choice([0.0, 0.1, 0.5]) if draw else 0.0,
        **{f"option_{i}": generator.random() if draw else 0.1 for i in range(10)},
    }
    return {**plain, **drawn, "resnet18": False, "resnet50_augmix": True, "vit": False}


def _write_job(
    out: Path,
    algorithm: str,
    test: int,
    draw: int,
    trial: int,
    hparams: dict[str, Any],
    generator: random.Random,
) -> None:
    args = {
        "algorithm": algorithm,
        "checkpoint_freq": None,
        "data_dir": "/data",
        "dataset": "PACS",
        "holdout_fraction": 0.2,
        "hparams": None,
        "hparams_seed": draw,
        "output_dir": "train_output",
        "save_model_every_checkpoint": False,
        "seed": generator.randrange(2**31),
        "skip_model_save": False,
        "steps": None,
        "task": "domain_generalization",
        "test_envs": [test],
        "trial_seed": trial,
        "uda_holdout_fraction": 0,
    }
    folder = out / hashlib.md5(json.dumps(args, sort_keys=True).encode()).hexdigest()
    folder.mkdir(parents=True)
    with open(folder / "results.jsonl", "w") as file:
        for step in STEPS:
            line = {"args": args, "hparams": hparams, "step": step, "epoch": step / 40}
            line |= {"loss": generator.random(), "mem_gb": 3.1, "step_time": generator.random()}
            for index, split in itertools.product(range(ENVIRONMENTS), ("in", "out")):
                line[f"env{index}_{split}_acc"] = generator.random()
            file.write(json.dumps(line, sort_keys=True) + "\n")
    (folder / "done").write_text("done")


# The peer's aggregation, restated


def peer_cells(folder: Path) -> dict[tuple[str, str, int], list[float]]:
    """Accuracies of the trials by rule, algorithm and test environment."""
    lines = list(_lines(folder))
    cells: dict[tuple[str, str, int], list[float]] = {}
    for name, rule in PEER_RULES.items():
        groups: dict[tuple[int, str, str, int], list[Line]] = {}
        for line in lines:
            args = line["args"]
            for test in args["test_envs"]:
                key = (args["trial_seed"], args["dataset"], args["algorithm"], test)
                groups.setdefault(key, []).append(line)
        for (_, _, algorithm, test), members in sorted(groups.items()):
            draws: dict[int, list[Line]] = {}
            for line in members:
                draws.setdefault(line["args"]["hparams_seed"], []).append(line)
            scores = [score for draw in draws.values() if (score := rule(draw, test)) is not None]
            if scores:
                best = max(scores, key=lambda score: score[0])
                cells.setdefault((name, algorithm, test), []).append(best[1])
    return cells


def _lines(folder: Path) -> Iterator[Line]:
    for name in sorted(os.listdir(folder)):
        with open(folder / name / "results.jsonl") as file:
            for text in file:
                yield json.loads(text)


def _train_val(lines: list[Line], test: int) -> Score | None:
    import numpy as np

    single = [line for line in lines if len(line["args"]["test_envs"]) == 1]
    scores = []
    for line in single:
        others = [i for i in range(ENVIRONMENTS) if i != test]
        validation = float(np.mean([line[f"env{i}_out_acc"] for i in others]))
        scores.append((validation, line[f"env{test}_in_acc"]))
    return max(scores, key=lambda score: score[0]) if scores else None


def _leave_one_out(lines: list[Line], test: int) -> Score | None:
    by_step: dict[int, list[Line]] = {}
    for line in lines:
        by_step.setdefault(line["step"], []).append(line)
    scores = []
    for found in by_step.values():
        single = [line for line in found if len(line["args"]["test_envs"]) == 1]
        held_out = {
            other: line[f"env{other}_in_acc"]
            for line in found
            if len(line["args"]["test_envs"]) == 2
            for other in line["args"]["test_envs"]
            if other != test
        }
        if len(single) == 1 and len(held_out) == ENVIRONMENTS - 1:
            mean = sum(held_out.values()) / len(held_out)
            scores.append((mean, single[0][f"env{test}_in_acc"]))
    return max(scores, key=lambda score: score[0]) if scores else None


def _oracle(lines: list[Line], test: int) -> Score | None:
    single = [line for line in lines if len(line["args"]["test_envs"]) == 1]
    last = max(single, key=lambda line: line["step"]) if single else None
    return None if last is None else (last[f"env{test}_out_acc"], last[f"env{test}_in_acc"])


PEER_RULES: dict[str, Callable[[list[Line], int], Score | None]] = {
    "train_val": _train_val,
    "leave_one_out": _leave_one_out,
    "oracle": _oracle,
}


# The sides, each the whole of a process


def theirs(folder: Path) -> None:
    """Prints a table for each rule: means and errors with ddof 0."""
    import numpy as np

    importlib.import_module("torchvision")

    cells = peer_cells(folder)
    algorithms = sorted({algorithm for _, algorithm, _ in cells})
    for rule, algorithm in itertools.product(PEER_RULES, algorithms):
        values = [cells.get((rule, algorithm, test), []) for test in range(ENVIRONMENTS)]
        texts = [
            f"{100 * np.mean(v):.1f} +/- {100 * np.std(v) / np.sqrt(len(v)):.1f}" if v else "X"
            for v in values
        ]
        print(rule, algorithm, *texts)


def tables(place: Path) -> None:
    """Makes the tables in all formats."""
    from leaderboard.build import load_board
    from leaderboard.outputs import texts

    texts(load_board([place]))


def everything(place: Path) -> None:
    """Makes the tables and the page."""
    from leaderboard.build import build

    with tempfile.TemporaryDirectory() as out:
        build([place], out)


def write_pack(place: Path) -> None:
    """Packs the sweep beside its folder."""
    from leaderboard.pack import pack
    from leaderboard.sources import load

    pack(load([place])[0], place.with_suffix(".parquet"))


def compare(place: Path) -> None:
    """Raises unless both sides select the same numbers, from directories and from the pack."""
    from leaderboard.build import load_board

    theirs = peer_cells(place)
    for source in (place, place.with_suffix(".parquet")):
        ours = {
            (section.key.rule, row.algorithm, column.index): [n.accuracy for n in cell.numbers]
            for section in load_board([source]).sections
            if section.key.rule in PEER_RULES
            for row in section.rows
            for column, cell in zip(section.columns, row.cells, strict=True)
        }
        assert ours == theirs
    print(f"{len(theirs)} cells, equal on both sides")


SIDES: dict[str, Callable[[Path], None]] = {
    "write_pack": write_pack,
    "compare": compare,
    "theirs": theirs,
    "tables": tables,
    "everything": everything,
}


def cost(side: str, place: Path) -> tuple[float, float]:
    """CPU seconds and peak memory, MB, of a side in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.aggregation", "--side", side, str(place)]
    quiet = None if side == "compare" else subprocess.DEVNULL
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen(command, stdout=quiet, env=kept)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{side} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Writes the sweep, takes turns, then prints medians and ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--algorithms", type=int, default=42, help="240 runs each")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("place", nargs="?", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        if options.side in ("tables", "everything"):
            atexit.register(gc.freeze)  # as the command does
        SIDES[options.side](options.place)
        return
    with tempfile.TemporaryDirectory() as temporary:
        sweep = Path(temporary) / "sweep"
        write_sweep(sweep, options.algorithms)
        packed = sweep.with_suffix(".parquet")
        cost("write_pack", sweep)
        cost("compare", sweep)
        turns = {
            "theirs": ("theirs", sweep),
            "pack": ("tables", packed),
            "directories": ("tables", sweep),
            "page": ("everything", packed),
        }
        costs: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
        for _ in range(options.rounds):
            for name, turn in turns.items():
                costs[name].append(cost(*turn))
    print(f"{240 * options.algorithms:,} runs, {len(STEPS)} checks each; {options.rounds} rounds")
    for name, found in costs.items():
        seconds, memory = (statistics.median(values) for values in zip(*found, strict=True))
        line = f"{name:<12} {seconds:6.2f} CPU-s {memory:6.0f} MB"
        if name in DEMANDS:
            pairs = list(zip(costs["theirs"], found, strict=True))
            ratios = [statistics.median(t[kind] / o[kind] for t, o in pairs) for kind in (0, 1)]
            line += f"   {ratios[0]:.1f} times less CPU, {ratios[1]:.1f} times less memory"
            line += " (demand: {:g} and {:g})".format(*DEMANDS[name])
        print(line)


if __name__ == "__main__":
    main()
