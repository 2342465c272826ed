"""Boards of synthetic records, of any size: they look like a real sweep's and mean nothing.

`python -m tests.leaderboard.make_board FOLDER` writes one with its page, to be looked at.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leaderboard.board import Board
from leaderboard.filling import make_board
from leaderboard.frame import Record, columns, record
from leaderboard.records import CheckLine, SelectionRule
from leaderboard.shared_settings import split_run
from tests.leaderboard.make_golden import make_run_json, make_settings

DATA_SETS: Mapping[str, Sequence[str]] = {
    "colored_mnist": ("+90%", "+80%", "-90%"),
    "pacs": ("art_painting", "cartoon", "photo", "sketch"),
    "rotated_mnist": ("0deg", "15deg", "30deg", "45deg", "60deg", "75deg"),
}
ALGORITHMS = ("erm", "irm", "vrex", "mm_rex", "group_dro")
STEPS = 500


def synthetic_board(**options: Any) -> Board:
    """The board of `synthetic_records`."""
    return make_board(synthetic_records(**options))


def synthetic_records(
    *,
    data_sets: Mapping[str, Sequence[str]] = DATA_SETS,
    algorithms: Sequence[str] = ALGORITHMS,
    trials: int = 5,
    checks: int = 6,
    selection: SelectionRule = "last",
    leave_out: Sequence[tuple[str, str, int]] = (),
    **algo: Any,
) -> list[Record]:
    """One finished run for each algorithm, environment held out and trial.

    Args:
        data_sets: Environments by data set.
        algorithms: Their names.
        trials: How many of each.
        checks: Checks of each run, at equal distances.
        selection: The rule that the protocol reports.
        leave_out: Algorithm, environment and trial of runs that are not there.
        **algo: Hyper-parameters of all.
    """
    generator = np.random.default_rng(0)
    found = []
    for dataset, names in data_sets.items():
        for algorithm in algorithms:
            strength = generator.normal(0.6, 0.08)
            for name in names:
                level = np.clip(strength + generator.normal(0, 0.04), 0.1, 0.95)
                for trial in range(trials):
                    curves = _curves(generator, level, checks)
                    if (algorithm, name, trial) not in leave_out:
                        settings = make_settings(
                            algorithm=algorithm,
                            dataset=dataset,
                            names=names,
                            test_env=(name,),
                            trial=trial,
                            selection=selection,
                            **algo,
                        )
                        found.append(_record(settings, names, curves))
    return found


def _curves(generator: np.random.Generator, level: float, checks: int) -> Mapping[str, Any]:
    steps = np.linspace(0, STEPS, checks + 1).astype(int)[1:]
    rise = 1 - 0.6 * np.exp(-3 * steps / STEPS)
    held_out = level * rise + generator.normal(0, 0.008, checks)
    training = (level + 0.1) * rise + generator.normal(0, 0.005, checks)
    penalty = 10 ** (-1 - 3 * steps / STEPS + generator.normal(0, 0.3))
    return {
        "steps": steps.tolist(),
        "held_out": np.clip(held_out, 0, 1).round(4).tolist(),
        "training": np.clip(training, 0, 1).round(4).tolist(),
        "penalty": penalty.tolist(),
        "second": float(generator.uniform(0.05, 0.1)),
    }


def _record(settings: Any, names: Sequence[str], curves: Mapping[str, Any]) -> Record:
    run = make_run_json(settings, names)
    run["provenance"]["git"] = {
        "commit": "5493119bb8417146780db6f7924855af79e4aa18",
        "dirty": False,
    }
    lines = [
        _check(settings, step, held_out, training, penalty, step * curves["second"])
        for step, held_out, training, penalty in zip(
            curves["steps"],
            curves["held_out"],
            curves["training"],
            curves["penalty"],
            strict=True,
        )
    ]
    algorithm, dataset = settings["algo"]["name"], settings["data"]["name"]
    return record(
        *split_run(run),
        columns(lines),
        place=f"{dataset}/{algorithm}/{run['run_id']}",
        origin="dgbench",
        state="finished",
        rule=settings["selection"],
        conclusion_text=None,
        seconds=STEPS * curves["second"] + 1,
        sha256=hashlib.sha256(run["run_id"].encode()).hexdigest(),
        done_text="{}",
    )


def _check(
    settings: Any, step: int, held_out: float, training: float, penalty: float, seconds: float
) -> CheckLine:
    def metrics(accuracy: float, n: int) -> Any:
        return {
            "accuracy": accuracy,
            "nll": round(1.5 * (1 - accuracy), 4),
            "brier": round(1 - accuracy, 4),
            "ece": round(0.2 * (1 - accuracy), 4),
            "n": n,
        }

    (name,) = settings["test_env"]
    splits = {f"{other}/holdout": metrics(training, 200) for other in settings["train_env"]}
    splits |= {f"{name}/main": metrics(held_out, 1000), f"{name}/holdout": metrics(held_out, 200)}
    train: dict[str, float | None] = {"loss": 1 - training}
    if settings["algo"]["name"] != "group_dro":
        train["penalty"] = penalty
    return {"step": step, "seconds": seconds, "train": train, "splits": splits}


if __name__ == "__main__":
    from leaderboard.outputs import write

    gap = [("group_dro", "45deg", 3), ("group_dro", "45deg", 4)]
    for path in write(synthetic_board(leave_out=gap), Path(sys.argv[1])):
        sys.stdout.write(f"{path}\n")
