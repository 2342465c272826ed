"""Writes the records of runs that train as one: K ordinary ones."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch

from datamodules.seeds import derive_seed
from datamodules.streams import EnvironmentBatch
from dgbench.errors import Interrupted
from dgbench.evaluation import evaluate_stacked
from dgbench.record import Record
from dgbench.recorder import StepRecorder
from dgbench.stacked.checkpoints import Part
from dgbench.stacked.model import StackedAlgorithm
from leaderboard import records


class StackedRecorder(StepRecorder):
    """Measures K runs at each check and writes K records, as :class:`dgbench.recorder.Recorder`.

    A run whose numbers are no longer finite is closed at that check; its place goes on empty.
    """

    def __init__(self, runs: Sequence[Record], parts: Sequence[Part]) -> None:
        """Prepares to record.

        Args:
            runs: the runs' records, in the order in which they are stacked; each has its folder.
            parts: what their checkpoints have of their own.
        """
        super().__init__()
        self.runs = runs
        self.parts = parts
        self.seed = derive_seed("stacked", *(run.settings["trial_seed"] for run in runs))

    # The runs

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the records, or reopens them at the checkpoints' step."""
        self.tally.start()
        for run in self.runs:
            run.open(trainer.global_step)
            run.write_status("running", trainer.global_step)

    def step_seed(self, trainer: pl.Trainer) -> int:
        """A function of all runs' seeds and the step."""
        return derive_seed(self.seed, "step", trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: EnvironmentBatch,
        batch_idx: int,
    ) -> None:
        """Adds up what the step showed; at a check, measures and saves."""
        assert isinstance(pl_module, StackedAlgorithm)
        shown = pl_module.outputs
        if not self.train_names:
            self.train_names = self.runs[0].names_of({n: v[0] for n, v in shown.items()})
        self.tally.add(torch.cat([v.reshape(len(self.runs), -1) for v in shown.values()], dim=1))
        step = trainer.global_step
        if step in self.runs[0].check_steps:
            self._check(trainer, pl_module)
        if self.stop_requested and step < self.runs[0].settings["steps"]:
            self._save(trainer)
            name = signal.Signals(self.stop_requested).name
            raise Interrupted(
                f"{len(self.runs)} stacked runs stopped by {name} after step {step}; "
                "the same command goes on from there"
            )

    def close(self, trainer: pl.Trainer, stack: StackedAlgorithm) -> None:
        """Measures what selected checks lack, and closes the records that are open.

        Args:
            trainer: after its fit.
            stack: at the last step.
        """
        for position, run in list(self._open()):
            # Where the checkpoint is of the last step, Lightning has not started a training.
            run.open(trainer.global_step)
            self._close(trainer, stack, position)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Marks the open runs as interrupted or failed; their last checkpoints stay."""
        interrupted = isinstance(exception, Interrupted | KeyboardInterrupt | SystemExit)
        for _, run in self._open():
            # A full disk may be the exception; it must not hide behind a second one.
            with suppress(OSError):
                status = "interrupted" if interrupted else "failed"
                error = None if interrupted else str(exception)
                run.write_status(status, trainer.global_step, error)

    # Parts of it

    def _open(self) -> Iterator[tuple[int, Record]]:
        """The runs that are not closed, with their places."""
        for position, run in enumerate(self.runs):
            if not (run.folder / records.DONE_FILE).exists():
                yield position, run

    def _check(self, trainer: pl.Trainer, stack: StackedAlgorithm) -> None:
        step = trainer.global_step
        means = self.tally.means()
        measured = self._measured(trainer, stack)
        diverged = []
        for position, run in self._open():
            line: records.CheckLine = {
                "step": step,
                "seconds": self.tally.seconds,
                "train": dict(zip(self.train_names, means[position], strict=True)),
                "splits": measured[position],
            }
            run.add(line)
            if run.has_diverged(line):
                diverged.append(position)
        self._save(trainer, at_check=True)
        for position in diverged:
            self._close(trainer, stack, position)
        for _, run in self._open():
            run.write_status("running", step)
        trainer.should_stop = trainer.should_stop or not any(self._open())

    def _measured(
        self, trainer: pl.Trainer, stack: StackedAlgorithm
    ) -> dict[int, dict[str, records.SplitMetrics]]:
        """Metrics of each open run, those that share their data in one pass."""
        sharing: dict[int, list[int]] = {}
        for position, run in self._open():
            sharing.setdefault(id(run.data), []).append(position)
        measured: dict[int, dict[str, records.SplitMetrics]] = {}
        stack.eval()
        for positions in sharing.values():
            run = self.runs[positions[0]]
            found = evaluate_stacked(
                stack.logits_of(positions),
                len(positions),
                run.data,
                run.splits_at(trainer.global_step),
                stack.device,
                trainer.precision_plugin,
                rows=stack.rows(len(positions)),
            )
            measured |= dict(zip(positions, found, strict=True))
        stack.train()
        return measured

    def _save(self, trainer: pl.Trainer, *, at_check: bool = False) -> None:
        """Replaces the open runs' checkpoints, all of them only when all are on the disk."""
        trainer.save_checkpoint(records.LAST_CHECKPOINT)
        for position, run in self._open():
            if at_check and run.keeps_selected and run.is_selected(run.checks()):
                temporary = run.folder / f".{records.SELECTED_CHECKPOINT}.tmp"
                shutil.copyfile(self.parts[position].waiting, temporary)
                records.replace(temporary, run.folder / records.SELECTED_CHECKPOINT)
        for position, _ in self._open():
            self.parts[position].put()

    def _close(self, trainer: pl.Trainer, stack: StackedAlgorithm, position: int) -> None:
        run = self.runs[position]
        checks = run.checks()
        run.complete(checks, stack.network(position), stack.device, trainer.precision_plugin)
        run.close(checks, checks[-1]["step"], self.tally.seconds)
