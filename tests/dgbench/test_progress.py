"""The bar of a run: what a line says, and that a check's time is no training."""

from __future__ import annotations

import io
import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from dgbench import progress
from tests.synthetic import make_algorithm, make_batch, make_data


@pytest.mark.parametrize(("images", "unit"), [(False, "samples/s"), (True, "images/s")])
def test_lines_show_speed_of_training_without_the_time_of_checks(images, unit, monkeypatch):
    clock = itertools.count(100.0)
    seconds = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(progress, "time", seconds)
    console = Console(file=io.StringIO(), width=200)
    bar = progress.ProgressBar(console, ["north"], check_steps={3, 6})
    trainer: Any = SimpleNamespace(global_step=0, max_steps=6, is_global_zero=True)
    algorithm = make_algorithm("erm", make_data())
    algorithm.outputs = {"risks": torch.tensor([0.25])}
    batch = make_batch([40, 20])
    if images:
        batch.inputs = torch.zeros(60, 3, 2, 2)
    bar.on_train_start(trainer, algorithm)
    for step in range(6):
        bar.on_train_batch_start(trainer, algorithm, batch, step)
        trainer.global_step = step + 1
        bar.on_train_batch_end(trainer, algorithm, None, batch, step)
        if step == 2:
            next(clock)  # what a check takes
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    # The clock ticks when it is read: at a start behind a check and at a line.
    assert lines == [
        f"step 1/6  risk north 0.250  60 {unit}",
        f"step 3/6  risk north 0.250  120 {unit}",
        f"step 6/6  risk north 0.250  180 {unit}",
    ]
