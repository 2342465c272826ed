"""Write the golden records: `python tests/leaderboard/make_golden.py`, from the repository root.

Small synthetic runs whose numbers can be checked by hand, and the leaderboard made of them. The
other tests make their own runs with the functions of this file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leaderboard import records
from leaderboard.build import load_board
from leaderboard.outputs import LEADERBOARD_FILE, texts
from leaderboard.records import (
    CheckLine,
    RunJson,
    SearchRecord,
    SelectionRule,
    Settings,
    SplitMetrics,
)
from leaderboard.selection import selected_steps

GOLDEN = Path(__file__).parent / "golden"
COLORED = ("+90%", "+80%", "-90%")
ROTATED = ("0deg", "15deg", "75deg")


def make_settings(
    *,
    algorithm: str = "erm",
    dataset: str = "colored_mnist",
    names: Sequence[str] = COLORED,
    test_env: Sequence[str] = ("-90%",),
    trial: int = 0,
    selection: SelectionRule = "last",
    **algo: Any,
) -> Settings:
    """Complete settings; `algo` are hyper-parameters of the algorithm."""
    return {
        "algo": {"name": algorithm, "lr": 0.001, **algo},
        "data": {"name": dataset, "source": "digits"},
        "network": {"width": 128},
        "protocol": "digits",
        "test_env": list(test_env),
        "train_env": [name for name in names if name not in test_env],
        "trial_seed": trial,
        "data_seed": trial,
        "hparams_seed": 0,
        "steps": 100,
        "check_every": 50,
        "selection": selection,
        "precision": "32-true",
        "matmul_precision": "highest",
        "deterministic": False,
    }


def make_run_json(
    settings: Settings, names: Sequence[str] = COLORED, benchmark_version: str = "1"
) -> RunJson:
    """The run.json of these settings."""

    def role(name: str) -> records.Role:
        if name in settings["test_env"]:
            return "test"
        return "train" if name in settings["train_env"] else "unused"

    return {
        "schema": records.RUN_SCHEMA,
        "run_id": records.run_id(benchmark_version, settings),
        "benchmark_version": benchmark_version,
        "settings": settings,
        "environments": [
            {
                "index": index,
                "name": name,
                "role": role(name),
                "splits": {
                    "main": {"n": 1000, "sha256": "0" * 64},
                    "holdout": {"n": 200, "sha256": "1" * 64},
                },
            }
            for index, name in enumerate(names)
        ],
        "class_names": ["5-9", "0-4"],
        "data_fingerprint": "2" * 64,
        "provenance": {
            "created": "2026-01-01T00:00:00Z",
            "argv": ["dgbench", "fit"],
            "git": {"commit": None, "dirty": None},
            "python": "3.11.7",
            "packages": {"numpy": "2.0.0"},
        },
        "hardware": {
            "cpu": "a processor",
            "threads": 2,
            "devices": 1,
            "accelerator": "cpu",
            "memory_gb": 16.0,
        },
    }


def make_check(step: int, accuracies: Mapping[str, float | None]) -> CheckLine:
    """A check with these accuracies, keyed by `<environment>/<split>`."""

    def metrics(accuracy: float | None) -> SplitMetrics:
        return {"accuracy": accuracy, "nll": 0.5, "brier": 0.25, "ece": 0.125, "n": 200}

    return {
        "step": step,
        "seconds": step / 100,
        "train": {"loss": 0.6},
        "splits": {key: metrics(accuracy) for key, accuracy in accuracies.items()},
    }


def write_run(
    out: Path,
    settings: Settings,
    checks: Sequence[CheckLine],
    *,
    names: Sequence[str] = COLORED,
    status: str = "finished",
    benchmark_version: str = "1",
    search: SearchRecord | None = None,
    seconds: float = 2.5,
) -> Path:
    """Write a run folder as training would; its checkpoint was left behind on publishing."""
    run = make_run_json(settings, names, benchmark_version)
    if search is not None:
        run["search"] = search
    folder = records.run_folder(
        out, settings["data"]["name"], settings["algo"]["name"], run["run_id"]
    )
    folder.mkdir(parents=True)
    records.write_json_atomic(folder / records.RUN_FILE, run)
    for check in checks:
        records.append_check(folder / records.CHECKS_FILE, check)
    if status not in ("finished", "diverged"):
        state = {"status": status, "step": checks[-1]["step"] if checks else 0, "error": None}
        records.write_json_atomic(folder / records.STATUS_FILE, state)
        return folder
    checkpoint = folder / records.LAST_CHECKPOINT
    checkpoint.write_bytes(b"weights")
    records.write_done(
        folder,
        status="diverged" if status == "diverged" else "finished",
        last_step=checks[-1]["step"],
        selected=selected_steps(checks, settings["train_env"], settings["test_env"]),
        seconds=seconds,
    )
    checkpoint.unlink()
    return folder


def colored_run(
    out: Path, algorithm: str, test_env: str, trial: int, accuracy: float, **options: Any
) -> Path:
    """A run on Colored MNIST with this accuracy on the main split of `test_env` at the end."""
    settings = make_settings(algorithm=algorithm, test_env=(test_env,), trial=trial)
    holdouts = {f"{name}/holdout": 0.75 for name in settings["train_env"]}
    checks = [
        make_check(50, {**holdouts, f"{test_env}/main": 0.5}),
        make_check(100, {**holdouts, f"{test_env}/main": accuracy}),
    ]
    return write_run(out, settings, checks, **options)


def rotated_run(out: Path, algorithm: str, status: str = "finished", **algo: Any) -> Path:
    """A run on Rotated MNIST where train_val picks step 50 (40 %) and last is step 100 (60 %)."""
    settings = make_settings(
        algorithm=algorithm,
        dataset="rotated_mnist",
        names=ROTATED,
        test_env=("75deg",),
        selection="train_val",
        **algo,
    )
    checks = [
        make_check(50, {"0deg/holdout": 0.9, "15deg/holdout": 0.7, "75deg/main": 0.4}),
        make_check(100, {"0deg/holdout": 0.6, "15deg/holdout": 0.8, "75deg/main": 0.6}),
    ]
    return write_run(out, settings, checks, names=ROTATED, status=status)


def write_golden_runs(out: Path) -> None:
    """Write the golden runs."""
    colored_run(out, "erm", "-90%", 0, 0.1)
    colored_run(out, "erm", "-90%", 1, 0.2)
    colored_run(out, "erm", "+90%", 0, 0.8)
    colored_run(out, "erm", "+90%", 1, 0.7)
    colored_run(out, "irm", "-90%", 0, 0.6)
    colored_run(out, "irm", "-90%", 1, float("nan"), status="diverged")
    colored_run(out, "irm", "+90%", 0, 0.65)
    colored_run(out, "irm", "+90%", 1, 0.75)
    rotated_run(out, "vrex", penalty_weight=1.0)
    rotated_run(out, "vrex", penalty_weight=10.0)
    rotated_run(out, "group_dro", status="interrupted")


if __name__ == "__main__":
    shutil.rmtree(GOLDEN / "records", ignore_errors=True)
    write_golden_runs(GOLDEN / "records")
    tables = texts(load_board([GOLDEN / "records"]))[LEADERBOARD_FILE]
    (GOLDEN / LEADERBOARD_FILE).write_text(tables, encoding="utf-8")
