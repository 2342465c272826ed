"""What a run shows while it trains: a bar in a terminal, a line a check elsewhere."""

from __future__ import annotations

import time
from collections.abc import Container, Sequence
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm

_REFRESH_SECONDS = 0.25


class ProgressBar(pl.Callback):
    """Shows the step, each environment's risk, the penalty, and images a second.

    Values are fetched four times a second and not every step: on a GPU each look waits for it.
    Speed is that of training, input included, since it was last shown or since the last check.
    """

    def __init__(
        self, console: Console, environments: Sequence[str], check_steps: Container[int]
    ) -> None:
        """Prepares the bar.

        Args:
            console: where to show it.
            environments: names of the training environments.
            check_steps: the steps behind which the run is measured; where the console is no
                terminal, each has a line.
        """
        self.console = console
        self.environments = environments
        self.check_steps = check_steps
        self.shown = 0.0
        self.since, self.steps = 0.0, 0
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}"),
            console=console,
        )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the empty bar."""
        self.task = self.bar.add_task("", total=trainer.max_steps, values="")
        if self.console.is_terminal and trainer.is_global_zero:
            self.bar.start()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begins to count anew behind a check, which is no training."""
        if trainer.global_step in self.check_steps or not self.since:
            self.since, self.steps = time.monotonic(), 0

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: EnvironmentBatch,
        batch_idx: int,
    ) -> None:
        """Moves the bar, or prints a line at each check."""
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Algorithm)
        self.steps += 1
        step = trainer.global_step
        # A terminal may be closed: the run must come to its checkpoint all the same.
        with suppress(OSError):
            if self.console.is_terminal:
                if step == trainer.max_steps or time.monotonic() - self.shown > _REFRESH_SECONDS:
                    self.shown = time.monotonic()
                    values = f"{self.describe(pl_module.outputs)}  {self.speed(batch)}"
                    self.bar.update(self.task, completed=step, values=values)
            elif step == 1 or step in self.check_steps:
                values = f"{self.describe(pl_module.outputs)}  {self.speed(batch)}"
                self.console.print(
                    f"step {step}/{trainer.max_steps}  {values}", highlight=False, soft_wrap=True
                )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the full bar."""
        self.bar.stop()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Gives the terminal back."""
        with suppress(OSError):
            self.bar.stop()

    def speed(self, batch: EnvironmentBatch) -> str:
        """Samples a second on all devices together; the next ones are counted anew.

        Args:
            batch: the last one.
        """
        # The values shown beside it were fetched first, so what was asked of a GPU is done.
        now, samples = time.monotonic(), self.steps * int(batch.counts.sum())
        rate = samples / max(now - self.since, 1e-9)
        self.since, self.steps = now, 0
        return f"{rate:,.0f} {'images' if batch.inputs.ndim == 4 else 'samples'}/s"

    def describe(self, outputs: dict[str, Tensor]) -> str:
        """One line of an objective's values.

        Args:
            outputs: what the objective returned.
        """
        risks = outputs.get("risks")
        parts = (
            []
            if risks is None
            else [
                f"risk {name} {risk:.3f}"
                for name, risk in zip(self.environments, risks.tolist(), strict=True)
            ]
        )
        named = ("penalty",) if risks is not None else ("loss", "penalty")
        parts += [f"{name} {outputs[name].item():.2e}" for name in named if name in outputs]
        return "  ".join(parts)
