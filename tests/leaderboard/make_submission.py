"""A small submission: four synthetic runs with predictions, and their tables."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from leaderboard import records
from leaderboard.build import build
from leaderboard.metrics import all_metrics
from leaderboard.predictions import Predictions, PredictionsWriter
from leaderboard.records import CheckLine
from leaderboard.selection import selected_steps
from tests.leaderboard.make_golden import COLORED, make_run_json, make_settings

SIZES = {"main": 12, "holdout": 5}


def write_submission(folder: Path, *, trials: int = 2, predictions: bool = True) -> list[Path]:
    """Write runs of ERM and IRM and the leaderboard made of them; returns the run folders."""
    runs = [
        write_run(folder / "records", algorithm, trial, predictions=predictions)
        for algorithm in ("erm", "irm")
        for trial in range(trials)
    ]
    build([folder], folder)
    return runs


def write_run(out: Path, algorithm: str, trial: int, *, predictions: bool = True) -> Path:
    """Write one finished run whose numbers are those of random logits."""
    run = make_run_json(make_settings(algorithm=algorithm, trial=trial))
    fingerprints = {}
    for environment in run["environments"]:
        for split, size in SIZES.items():
            sha256 = hashlib.sha256(f"{trial} {environment['name']} {split}".encode()).hexdigest()
            environment["splits"][split] = {"n": size, "sha256": sha256}
            fingerprints[f"{environment['name']}/{split}"] = sha256
    text = records.canonical_json(fingerprints)
    run["data_fingerprint"] = hashlib.sha256(text.encode()).hexdigest()
    folder = records.run_folder(out, "colored_mnist", algorithm, run["run_id"])
    folder.mkdir(parents=True)
    generator = np.random.default_rng([len(algorithm), trial])
    checks: list[CheckLine] = []
    found: list[Predictions] = []
    for step in (50, 100):
        line: CheckLine = {"step": step, "seconds": step / 10, "train": {"loss": 0.5}, "splits": {}}
        for name in COLORED:
            line["train"] |= {} if name == "-90%" else {f"risk/{name}": 0.5}
            for split, size in SIZES.items():
                logits = generator.normal(size=(size, 2)).astype(np.float32)
                targets = np.arange(size) % 2
                indices = np.arange(size) + (split == "holdout") * SIZES["main"]
                found.append(Predictions(f"{name}/{split}", step, logits, targets, indices))
                line["splits"][f"{name}/{split}"] = {**all_metrics(logits, targets)}
        checks.append(line)
    records.write_json_atomic(folder / "run.json", run)
    records.rewrite_checks(folder / "checks.jsonl", checks)
    (folder / "last.ckpt").write_bytes(b"weights")
    if predictions:
        with PredictionsWriter(folder / "predictions.npz") as writer:
            for each in found[len(found) // 2 :]:
                writer.add(each)
    selected = selected_steps(checks, ["+90%", "+80%"], ["-90%"])
    close(folder, selected)
    return folder


def close(folder: Path, selected: dict[records.SelectionRule, int | None]) -> None:
    """Write what ends a run, with the sha256 of what is there."""
    status = {"status": "finished", "step": 100, "error": None}
    records.write_json_atomic(folder / "status.json", status)
    records.write_done(
        folder,
        status="finished",
        last_step=100,
        selected=selected,
        seconds=12.5,
        weights={"last.ckpt": hashlib.sha256(folder.name.encode()).hexdigest()},
    )
