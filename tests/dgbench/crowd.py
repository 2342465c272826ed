"""Many processes that train the same runs into one store: `python -m tests.dgbench.crowd STORE N`.

What they write is what a training writes, in the same order and by the same functions, without
torch. Which process trained a run is noted beside the store.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

from dgbench.claims import ClaimedError, claimed
from leaderboard import records
from leaderboard.selection import selected_steps
from tests.leaderboard.make_golden import COLORED, make_check, make_run_json, make_settings

STEPS = range(10, 101, 10)
RUNS = [
    make_settings(algorithm=algorithm, test_env=(test,), trial=trial)
    for algorithm in ("erm", "irm", "vrex", "group_dro")
    for test in COLORED
    for trial in range(20)
]


def folder_of(store: Path, settings: records.Settings) -> Path:
    name, algorithm = settings["data"]["name"], settings["algo"]["name"]
    return records.run_folder(store, name, algorithm, records.run_id("1", settings))


def checks_of(settings: records.Settings) -> list[records.CheckLine]:
    """Long lines, so that one that is torn is seen; different ones in each run."""
    draw = random.Random(str(settings))
    splits = [f"{name}/{split}" for name in COLORED for split in ("main", "holdout")]
    return [make_check(step, {split: draw.random() for split in splits}) for step in STEPS]


def train(folder: Path, settings: records.Settings, notes: Path) -> None:
    with open(notes / folder.name, "a", encoding="utf-8") as note:
        note.write(f"{os.getpid()}\n")
    folder.mkdir(parents=True)
    records.write_json_atomic(folder / records.RUN_FILE, make_run_json(settings))
    checks = checks_of(settings)
    for check in checks:
        records.append_check(folder / records.CHECKS_FILE, check)
        status = {"status": "running", "step": check["step"], "error": None}
        records.write_json_atomic(folder / records.STATUS_FILE, status)
    records.rewrite_checks(folder / records.CHECKS_FILE, checks)
    selected = selected_steps(checks, settings["train_env"], settings["test_env"])
    records.write_done(folder, status="finished", last_step=100, selected=selected, seconds=1.0)


def work(store: Path, notes: Path, seed: int, all_there: Barrier) -> None:
    """Goes through the runs in an order of its own; all that nobody else has are trained."""
    all_there.wait()
    for settings in random.Random(seed).sample(RUNS, len(RUNS)):
        folder = folder_of(store, settings)
        if (folder / records.DONE_FILE).exists():
            continue
        try:
            with claimed(folder):
                if not (folder / records.DONE_FILE).exists():
                    train(folder, settings, notes)
        except ClaimedError:
            continue


def main() -> None:
    store, count = Path(sys.argv[1]), int(sys.argv[2])
    notes = store.with_name("notes")
    notes.mkdir()
    context = multiprocessing.get_context("fork")
    all_there = context.Barrier(count)
    crowd = [
        context.Process(target=work, args=(store, notes, seed, all_there)) for seed in range(count)
    ]
    for process in crowd:
        process.start()
    for process in crowd:
        process.join()
    raise SystemExit(any(process.exitcode for process in crowd))


if __name__ == "__main__":
    main()
