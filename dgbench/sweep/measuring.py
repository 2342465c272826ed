"""What a run costs, from a few of its steps and a look at its first images."""

from __future__ import annotations

import tempfile
import time
from itertools import islice, pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

from datamodules.base import EnvironmentDataModule
from dgbench.algorithms.base import Algorithm
from dgbench.evaluation import all_splits, splits_for_selection
from dgbench.runtime import matmul_precision, quiet_lightning
from dgbench.settings import Settings
from dgbench.training import build_algorithm, build_data, build_trainer
from leaderboard import records
from leaderboard.schedule import check_steps

_STEPS = 8
_SECONDS = 5.0
_BATCHES = 4
# Bytes of text: of a split at a check, and of a record's other files.
_SPLIT, _REST = 150, 8000


class Cost(NamedTuple):
    """What a run takes.

    Attributes:
        seconds: of time, on one worker.
        bytes: on the disk.
    """

    seconds: float
    bytes: float


class _Clock(pl.Callback):
    """Notes when each step ends, and stops after a few of them or some seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._note(pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        self._note(pl_module)
        trainer.should_stop = self.times[-1] - self.times[0] > _SECONDS

    def _note(self, pl_module: pl.LightningModule) -> None:
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.times.append(time.monotonic())

    def seconds(self) -> float:
        """Of a step; the first one, which warms up, counts only where it is the only one."""
        steps = [after - before for before, after in pairwise(self.times)]
        return median(steps[1:] or steps)


def measure(settings: Settings) -> Cost:
    """Takes some steps of a run and measures some images; nothing is recorded.

    Args:
        settings: the resolved run.
    """
    begun = time.monotonic()
    data = build_data(settings)
    data.setup()
    algorithm = build_algorithm(settings, data)
    prepared = time.monotonic() - begun
    clock = _Clock()
    with (
        matmul_precision(settings.matmul_precision),
        quiet_lightning(),
        tempfile.TemporaryDirectory() as folder,
    ):
        trainer = build_trainer(
            settings,
            max_steps=min(_STEPS, settings.steps),
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            callbacks=[clock],
            use_distributed_sampler=False,
        )
        trainer.precision_plugin.convert_module(algorithm)
        trainer.fit(algorithm, datamodule=data)
        checkpoint = Path(folder) / records.LAST_CHECKPOINT
        trainer.save_checkpoint(checkpoint)
        weights = checkpoint.stat().st_size * (2 if settings.selection == "train_val" else 1)
        image = _seconds_per_image(trainer, algorithm, data)
    checks = len(check_steps(settings.steps, settings.check_every, settings.first_check))
    read, every = splits_for_selection(data), all_splits(data)
    splits = [*read * (checks - 1), *every]
    images = sum(len(data.split_indices(*split)) for split in splits)
    return Cost(
        seconds=prepared + settings.steps * clock.seconds() + images * image,
        bytes=weights + len(splits) * _SPLIT + _REST,
    )


@torch.no_grad()
def _seconds_per_image(
    trainer: pl.Trainer, algorithm: Algorithm, data: EnvironmentDataModule
) -> float:
    """Of reading and measuring one, without the first batch, which warms up."""
    algorithm.eval()
    plugin, device = trainer.precision_plugin, algorithm.device
    environment, split = splits_for_selection(data)[0]
    counts, times = [0], [time.monotonic()]
    for inputs, *_ in islice(data.evaluation_batches(environment, split), _BATCHES):
        with plugin.forward_context():
            algorithm.network(plugin.convert_input(inputs.to(device))).sum().item()
        counts.append(len(inputs))
        times.append(time.monotonic())
    first = min(1, len(counts) - 2)
    return (times[-1] - times[first]) / sum(counts[first + 1 :])
