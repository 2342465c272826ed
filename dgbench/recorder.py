"""Writes the record of a run: one recorder measures all algorithms alike."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor

from datamodules.seeds import derive_seed
from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.collectives import is_of_another
from dgbench.errors import Interrupted
from dgbench.evaluation import evaluate
from dgbench.record import Record
from leaderboard import records

# Several devices ask each other whether to stop: a question costs as much as a small step.
_STEPS_BETWEEN_QUESTIONS = 10


class CheckpointFile(TorchCheckpointIO):
    """Writes a checkpoint where it belongs, to the disk.

    Lightning's own class writes it into TMPDIR, which may be small, and then moves it.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes it.

        Args:
            checkpoint: all of it.
            path: the file.
            storage_options: nothing.
        """
        content = io.BytesIO()
        torch.save(checkpoint, content)
        # By a file of Python's, which tells when the disk is full; torch's own does not.
        with open(path, "wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())


class Tally:
    """What a recorder adds up: the training values since the last check, and the time spent.

    Attributes:
        sums: of each value, float64; of stacked runs, ``(runs, values)``.
        counted: steps in the sums.
    """

    def __init__(self) -> None:
        """Begins at nothing."""
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.counted = 0
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def start(self) -> None:
        """Counts time from now on."""
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Wall time spent, before an interruption too."""
        return self._seconds_before + time.monotonic() - self._started

    def add(self, values: Tensor) -> None:
        """Adds a step's values, leaving them on their device: to look at them would wait for it."""
        values = values.double()
        self.sums = self.sums.to(values.device) + values if self.counted else values
        self.counted += 1

    def means(self) -> Any:
        """The means since the last check, as nested lists; the next ones begin anew."""
        means = (self.sums / self.counted).tolist()
        self.counted = 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {"sums": self.sums.tolist(), "counted": self.counted, "seconds": self.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from there."""
        self.sums = torch.tensor(state["sums"], dtype=torch.float64)
        self.counted = state["counted"]
        self._seconds_before = state["seconds"]


class StepRecorder(pl.Callback):
    """What recording one run or several at once has in common: it adds up steps and seeds them.

    Attributes:
        tally: training values since the last check, and the time spent.
        train_names: what the values are, once a step has shown it.
        stop_requested: the signal that asked to stop, if one did.
    """

    def __init__(self) -> None:
        self.tally = Tally()
        self.train_names: list[str] = []
        self.stop_requested: int | None = None

    # What the checkpoint remembers of the recorder

    def state_dict(self) -> dict[str, Any]:
        """The training values since the last check, and the time spent."""
        return self.tally.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.tally.load_state_dict(state_dict)

    # Every step

    def step_seed(self, trainer: pl.Trainer) -> int:
        """The seed of a step's draws on this device."""
        raise NotImplementedError

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Makes every random draw of a step a function of its seed."""
        seed = self.step_seed(trainer)
        # Not torch.manual_seed: that also notes a stack trace for every kind of absent device,
        # which costs more than the step of a small network.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)


class Recorder(StepRecorder):
    """Measures at each check, writes checks and checkpoints, and closes the record.

    A check is written before its checkpoint, and a resumed run drops the checks after its
    checkpoint: whatever moment a run is killed at, its record has no gap and no duplicate.
    """

    def __init__(self, record: Record) -> None:
        """Prepares to record.

        Args:
            record: the run's record; its folder is made before the run starts.
        """
        super().__init__()
        self.record = record

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts settings, preprocessing and class names beside the weights."""
        checkpoint["dgbench"] = self.record.description

    # The run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the record, or reopens it at the checkpoint's step."""
        self.tally.start()
        # Another process may have taken the run over since a second one looked where it goes on.
        self.record.folder = trainer.strategy.broadcast(self.record.folder)
        if trainer.is_global_zero:
            self.record.open(trainer.global_step)
        self._write_status(trainer, "running")

    def step_seed(self, trainer: pl.Trainer) -> int:
        """A function of the trial seed, the step and the device."""
        trial_seed = self.record.settings["trial_seed"]
        return derive_seed(trial_seed, "step", trainer.global_step, trainer.global_rank)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: EnvironmentBatch,
        batch_idx: int,
    ) -> None:
        """Adds up what the step showed; at a check, measures and saves."""
        assert isinstance(pl_module, Algorithm)
        outputs_now = pl_module.outputs
        if not self.train_names:
            self.train_names = self.record.names_of(outputs_now)
        self.tally.add(torch.cat([value.reshape(-1) for value in outputs_now.values()]))
        step = trainer.global_step
        if step in self.record.check_steps:
            self._check(trainer, pl_module)
        stop = self._agreed_stop(trainer, step)
        if stop and step < self.record.settings["steps"]:
            self._save(trainer, records.LAST_CHECKPOINT)
            raise Interrupted(
                f"stopped by {signal.Signals(stop).name} after step {step}; "
                f"go on with `dgbench fit --resume {self.record.folder}`"
            )

    def close(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        """Measures what the selected check lacks, saves predictions, and closes the record.

        Args:
            trainer: after its fit.
            algorithm: at the last step; it stays there.
        """
        if trainer.is_global_zero:
            # Where the checkpoint is of the last step, Lightning has not started a training.
            self.record.open(trainer.global_step)
        checks = self._checks(trainer)
        plugin = trainer.precision_plugin
        self.record.complete(checks, algorithm.network, algorithm.device, plugin)
        if trainer.is_global_zero:
            self.record.close(checks, trainer.global_step, self.tally.seconds)
        trainer.strategy.barrier("the record is closed")

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Marks the run as interrupted or failed; the last checkpoint stays."""
        stopped = isinstance(exception, Interrupted | KeyboardInterrupt | SystemExit)
        interrupted = stopped or is_of_another(exception)
        if trainer.is_global_zero and self.record.folder.exists():
            # A full disk may be the exception; it must not hide behind a second one.
            with suppress(OSError):
                status = "interrupted" if interrupted else "failed"
                self._write_status(trainer, status, None if interrupted else str(exception))

    # Parts of it

    def _agreed_stop(self, trainer: pl.Trainer, step: int) -> int:
        """The signal that asks to stop, 0 for none, at a step at which all devices know of it."""
        asked = self.stop_requested or 0
        if trainer.world_size == 1 or step % _STEPS_BETWEEN_QUESTIONS:
            return asked if trainer.world_size == 1 else 0
        device = trainer.strategy.root_device
        return int(trainer.strategy.reduce(torch.tensor(asked, device=device), reduce_op="max"))

    def _check(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        algorithm.on_validation_start()
        means = self.tally.means()
        line: records.CheckLine = {
            "step": trainer.global_step,
            "seconds": self.tally.seconds,
            "train": dict(zip(self.train_names, means, strict=True)),
            "splits": evaluate(
                algorithm.network,
                self.record.data,
                self.record.splits_at(trainer.global_step),
                algorithm.device,
                trainer.precision_plugin,
            ),
        }
        if algorithm.conclusion is not None:
            line["conclusion"] = cast(records.Conclusion, algorithm.conclusion)
        trainer.should_stop = trainer.should_stop or self.record.has_diverged(line)
        if trainer.is_global_zero:
            self.record.add(line)
        if self.record.keeps_selected and self.record.is_selected(self._checks(trainer)):
            self._save(trainer, records.SELECTED_CHECKPOINT)
        self._save(trainer, records.LAST_CHECKPOINT)
        self._write_status(trainer, "running")
        for logger in trainer.loggers:
            logger.log_metrics(flat_metrics(line), step=trainer.global_step)

    def _checks(self, trainer: pl.Trainer) -> list[records.CheckLine]:
        """The checks so far, as the first process has written them."""
        checks = self.record.checks() if trainer.is_global_zero else []
        return trainer.strategy.broadcast(checks)

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        """Replaces a checkpoint atomically: the old one stays until the new one is on the disk."""
        path = self.record.folder / name
        temporary = path.with_name(f".{name}.tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            records.replace(temporary, path)

    def _write_status(self, trainer: pl.Trainer, status: str, error: str | None = None) -> None:
        if trainer.is_global_zero:
            self.record.write_status(status, trainer.global_step, error)


def flat_metrics(line: records.CheckLine) -> dict[str, float]:
    """A check as a logger takes it: one name a number, those that are not finite left out.

    Args:
        line: the check.
    """
    values: dict[str, float | None] = {f"train/{k}": v for k, v in line["train"].items()}
    for split, metrics in line["splits"].items():
        numbers = {name: number for name, number in metrics.items() if isinstance(number, float)}
        values |= {f"{split}/{name}": number for name, number in numbers.items()}
    return {name: value for name, value in values.items() if value is not None}
