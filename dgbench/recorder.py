"""Writes the record of a run: one recorder measures all algorithms alike."""

from __future__ import annotations

import copy
import math
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.seeds import derive_seed
from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.evaluation import all_splits, evaluate, splits_for_selection
from leaderboard import records
from leaderboard.selection import selected_steps

# Several devices ask each other whether to stop: a question costs as much as a small step.
_STEPS_BETWEEN_QUESTIONS = 10


class Interrupted(Exception):  # noqa: N818 - it is no error of anybody's
    """A signal asked the run to stop; everything up to the last step is on the disk."""


class Recorder(pl.Callback):
    """Measures at each check, writes checks and checkpoints, and closes the record.

    A check is written before its checkpoint, and a resumed run drops the checks after its
    checkpoint: whatever moment a run is killed at, its record has no gap and no duplicate.
    """

    def __init__(
        self,
        folder: Path,
        run: records.RunJson,
        data: EnvironmentDataModule,
        description: dict[str, Any],
        *,
        check_all: bool = False,
    ) -> None:
        """Prepares to record into a folder.

        Args:
            folder: the run's folder; made when the run starts.
            run: content of ``run.json``.
            data: what is measured on.
            description: plain values that a checkpoint carries, to be of use on its own.
            check_all: measure every split of every environment at every check.
        """
        self.folder = folder
        self.run = run
        self.data = data
        self.description = description
        self.check_all = check_all
        self.sums = torch.zeros(0, dtype=torch.float64)
        self.counted = 0
        self.seconds_before = 0.0
        self.started = time.monotonic()
        self.train_names: list[str] = []
        self.stop_requested: int | None = None

    # What the checkpoint remembers of the recorder

    def state_dict(self) -> dict[str, Any]:
        """The mean of the training values since the last check, and the time spent."""
        return {"sums": self.sums.tolist(), "counted": self.counted, "seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from there."""
        self.sums = torch.tensor(state_dict["sums"], dtype=torch.float64)
        self.counted = state_dict["counted"]
        self.seconds_before = state_dict["seconds"]

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Puts settings, preprocessing and class names beside the weights."""
        checkpoint["dgbench"] = self.description

    # The run

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the record, or reopens it at the checkpoint's step."""
        self.started = time.monotonic()
        if trainer.is_global_zero:
            if not (self.folder / records.RUN_FILE).exists():
                records.write_json_atomic(self.folder / records.RUN_FILE, self.run)
            (self.folder / records.CHECKS_FILE).touch()
            records.truncate_checks(self.folder / records.CHECKS_FILE, trainer.global_step)
        self._write_status(trainer, "running")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Makes every random draw of a step a function of the seed, the step and the device."""
        trial_seed = self.run["settings"]["trial_seed"]
        seed = derive_seed(trial_seed, "step", trainer.global_step, trainer.global_rank)
        # Not torch.manual_seed: that also notes a stack trace for every kind of absent device,
        # which costs more than the step of a small network.
        torch.default_generator.manual_seed(seed)
        if pl_module.device.type == "cuda":
            torch.cuda.manual_seed(seed)

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
        self._accumulate(pl_module.outputs)
        step = trainer.global_step
        settings = self.run["settings"]
        if step % settings["check_every"] == 0 or step == settings["steps"]:
            self._check(trainer, pl_module)
        stop = self._agreed_stop(trainer, step)
        if stop and step < settings["steps"]:
            self._save(trainer, records.LAST_CHECKPOINT)
            raise Interrupted(
                f"stopped by {signal.Signals(stop).name} after step {step}; "
                f"go on with `dgbench fit --resume {self.folder}`"
            )

    def close(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        """Measures what the selected check lacks, and closes the record.

        Args:
            trainer: after its fit.
            algorithm: at the last step; it stays there.
        """
        checks = self._checks(trainer)
        selected = selected_steps(checks, *self._roles())
        for check in checks:
            if check["step"] == selected.get(self.run["settings"]["selection"]):
                check["splits"] = self._complete(trainer, algorithm, check)
        if trainer.is_global_zero:
            records.rewrite_checks(self.folder / records.CHECKS_FILE, checks)
            self._write_status(trainer, "finished")
            records.write_done(
                self.folder,
                status="diverged" if "diverged" in checks[-1] else "finished",
                last_step=trainer.global_step,
                selected=selected,
                seconds=self._seconds(),
            )
        trainer.strategy.barrier("the record is closed")

    def _complete(
        self, trainer: pl.Trainer, algorithm: Algorithm, check: records.CheckLine
    ) -> dict[str, records.SplitMetrics]:
        """Every split at a check, of which only those that a rule reads were measured."""
        names = self.data.environment_names
        missing = [
            (index, split)
            for index, split in all_splits(self.data)
            if f"{names[index]}/{split}" not in check["splits"]
        ]
        if not missing:
            return check["splits"]
        network = algorithm.network
        if check["step"] != trainer.global_step:
            network = copy.deepcopy(network)
            state = torch.load(self.folder / records.SELECTED_CHECKPOINT, weights_only=True)
            own = {name: state["state_dict"][f"network.{name}"] for name in network.state_dict()}
            network.load_state_dict(own)
        measured = evaluate(network, self.data, missing, algorithm.device, trainer.precision_plugin)
        return {**check["splits"], **measured}

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Marks the run as interrupted or failed; the last checkpoint stays."""
        interrupted = isinstance(exception, Interrupted | KeyboardInterrupt | SystemExit)
        if trainer.is_global_zero and self.folder.exists():
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

    def _accumulate(self, outputs: dict[str, Tensor]) -> None:
        values = torch.cat([value.reshape(-1) for value in outputs.values()]).double()
        if not self.train_names:
            self.train_names = self._named(outputs)
        self.sums = self.sums.to(values.device) + values if self.counted else values
        self.counted += 1

    def _named(self, outputs: dict[str, Tensor]) -> list[str]:
        names: list[str] = []
        for name, value in outputs.items():
            if name == "risks":
                names += [f"risk/{environment}" for environment in self._roles()[0]]
            elif value.numel() == 1:
                names.append(name)
            else:
                names += [f"{name}/{position}" for position in range(value.numel())]
        return names

    def _check(self, trainer: pl.Trainer, algorithm: Algorithm) -> None:
        last = trainer.global_step == self.run["settings"]["steps"]
        splits = all_splits if last or self.check_all else splits_for_selection
        means = (self.sums / self.counted).tolist()
        self.counted = 0
        line: records.CheckLine = {
            "step": trainer.global_step,
            "seconds": self._seconds(),
            "train": dict(zip(self.train_names, means, strict=True)),
            "splits": evaluate(
                algorithm.network,
                self.data,
                splits(self.data),
                algorithm.device,
                trainer.precision_plugin,
            ),
        }
        numbers = [*means, *flat_metrics(line).values()]
        trainer.should_stop = trainer.should_stop or not all(map(math.isfinite, numbers))
        if trainer.is_global_zero:
            records.append_check(self.folder / records.CHECKS_FILE, line)
        if self._is_selected(trainer, trainer.global_step):
            self._save(trainer, records.SELECTED_CHECKPOINT)
        self._save(trainer, records.LAST_CHECKPOINT)
        self._write_status(trainer, "running")
        for logger in trainer.loggers:
            logger.log_metrics(flat_metrics(line), step=trainer.global_step)

    def _is_selected(self, trainer: pl.Trainer, step: int) -> bool:
        if self.run["settings"]["selection"] != "train_val":
            return False
        return selected_steps(self._checks(trainer), *self._roles())["train_val"] == step

    def _checks(self, trainer: pl.Trainer) -> list[records.CheckLine]:
        """The checks so far, as the first process has written them."""
        path = self.folder / records.CHECKS_FILE
        checks = records.read_checks(path) if trainer.is_global_zero else []
        return trainer.strategy.broadcast(checks)

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        """Replaces a checkpoint atomically: the old one stays until the new one is on the disk."""
        path = self.folder / name
        temporary = path.with_name(f".{name}.tmp")
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)

    def _roles(self) -> tuple[list[str], list[str]]:
        settings = self.run["settings"]
        return settings["train_env"], settings["test_env"]

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started

    def _write_status(self, trainer: pl.Trainer, status: str, error: str | None = None) -> None:
        if trainer.is_global_zero:
            content = {"status": status, "step": trainer.global_step, "error": error}
            records.write_json_atomic(self.folder / records.STATUS_FILE, content)


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
