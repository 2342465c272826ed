"""Whole files of every kind, and what must come of damaged ones."""

from __future__ import annotations

import shutil
from pathlib import Path

from leaderboard import records
from leaderboard.frame import Record
from leaderboard.pack import pack
from leaderboard.sources import load
from tests.dgbench.tiny import command, fit
from tests.folders import image, make_tree, write_manifest
from tests.leaderboard.make_golden import colored_run
from tests.leaderboard.make_sweep import write_sweep


class Sources:
    """Whole files of every kind, made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "runs"
        for algorithm, trial in (("erm", 0), ("erm", 1), ("irm", 0)):
            run = colored_run(self.runs, algorithm, "-90%", trial, 0.5 + trial / 10)
            status = {"status": "finished", "step": 100, "error": None}
            records.write_json_atomic(run / "status.json", status)
        self.jobs = folder / "jobs"
        write_sweep(self.jobs)
        for job in sorted(self.jobs.iterdir())[4:]:
            shutil.rmtree(job)
        self.known = {each.run_id: each for each in load([self.runs])[0]}
        self.packs = [
            pack(self.known.values(), folder / f"packed{s}") for s in (".jsonl", ".parquet")
        ]
        self.trained = fit(folder / "trained", "--selection", "train_val", "--check-every", "1")
        self.images = make_tree(folder / "images", images=2)
        for number, name in enumerate(("jpeg", "png", "webp", "bmp", "gif", "tiff", "ppm")):
            image(number).save(folder / f"image.{name}")
        rows = [
            {"path": path.relative_to(folder).as_posix(), "label": path.parts[-2]}
            | {"environment": path.parts[-3], "split": ("main", "holdout")[number % 2]}
            for number, path in enumerate(sorted(self.images.glob("*/*/*.png")))
        ]
        self.manifest = write_manifest(folder / "manifest.csv", rows)
        out = folder / "labels.csv"
        assert predict(self.trained / "last.ckpt", self.pictures, out)[0] == 0
        self.labels = out.read_bytes()

    @property
    def pictures(self) -> list[Path]:
        return sorted(self.folder.glob("image.*"))


def same(one: Record, two: Record) -> bool:
    """Whether two records say the same to a table."""
    lines = [repr(each.checks.lines()) for each in (one, two)]
    own = [(each.run, each.state, each.rule, each.conclusion_text) for each in (one, two)]
    return lines[0] == lines[1] and own[0] == own[1]


def predict(checkpoint: Path, images: list[Path], out: Path) -> tuple[int, str]:
    code, _, errors = command("predict", "--checkpoint", checkpoint, "--out", out, *images)
    return code, errors


def assert_one_message(errors: str) -> None:
    assert errors.startswith("dgbench: ")
    assert errors.count("\n") == 1
    assert len(errors) < 10_000
