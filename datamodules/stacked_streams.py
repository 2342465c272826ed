"""Training batches of several runs at once, one above the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.streams import (
    BatchSize,
    EnvironmentBatch,
    MainSplit,
    RowDrawer,
    Sampling,
    Stream,
)


@dataclass(frozen=True, slots=True)
class StackedRun:
    """What of a run decides its batches.

    Attributes:
        data: Number of its data among those that the stream was given.
        batch_size: Rows of each environment's batch, or "full" for all rows in order.
        seed: Decides the order of the rows.
    """

    data: int
    batch_size: BatchSize
    seed: int


class StackedStream(Stream):
    """The batches of K runs: row k of everything is the batch that run k's own stream would make.

    Runs of different batch sizes have rows beyond their own, which are real samples but belong to
    environment -1. Runs on the same data share one copy of them.

    Args:
        data: The main splits of each data set, in training order; as many everywhere.
        runs: What decides each run's batches.
        sampling: How batches of less than everything are drawn, see `TrainingStream`.
        steps: Batches of one iteration.
        device: Where the data are kept and the batches made.

    Raises:
        DataError: If an environment has no main rows, inputs are images that are read when they are
            asked for, or some batches are full and others not.
    """

    def __init__(
        self,
        data: Sequence[Sequence[MainSplit]],
        runs: Sequence[StackedRun],
        *,
        sampling: Sampling = "permutation",
        steps: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(steps)
        full = {run.batch_size == "full" for run in runs}
        if len(full) > 1:
            raise DataError("some batches are full and others not; stack the two kinds apart")
        splits = [split for each in data for split in each]
        tensors = [split.inputs for split in splits if isinstance(split.inputs, Tensor)]
        if len(tensors) < len(splits):
            raise DataError("images that are read from files cannot be stacked; train these apart")
        self._inputs = torch.cat(tensors).to(device)
        self._targets = torch.cat([split.targets for split in splits]).to(device)
        self._indices = torch.cat([split.indices for split in splits]).to(device)
        ranges = _ranges(data)
        self._counts = [
            [len(rows) if run.batch_size == "full" else run.batch_size for rows in ranges[run.data]]
            for run in runs
        ]
        self._widths = [max(counts) for counts in zip(*self._counts, strict=True)]
        self._drawers = [
            [
                RowDrawer(rows, (run.seed, sampling, split.environment), device)
                for rows, split in zip(ranges[run.data], data[run.data], strict=True)
            ]
            for run in runs
        ]
        counts = torch.tensor(self._counts)
        rows = torch.cat([torch.arange(width) for width in self._widths])
        environment = torch.repeat_interleave(torch.tensor(self._widths))
        own = rows < counts[:, environment]
        self._parts = [
            part.to(device)
            for part in (torch.where(own, environment, -1), rows.expand(own.shape), counts)
        ]
        self._full: EnvironmentBatch | None = None
        if full == {True}:
            self._full = self._at([_in_order(ranges[run.data], self._widths) for run in runs])

    def batch(self, step: int) -> EnvironmentBatch:
        """Make the runs' batches of a step, with the runs as first dimension of every field."""
        if self._full is not None:
            return self._full
        return self._at(
            [
                drawer.draw(step * count, width)
                for drawers, counts in zip(self._drawers, self._counts, strict=True)
                for drawer, count, width in zip(drawers, counts, self._widths, strict=True)
            ]
        )

    def _at(self, drawn: Sequence[Tensor]) -> EnvironmentBatch:
        """Gather the rows that were drawn for each run and environment."""
        environment, rows, counts = self._parts
        positions = torch.cat(list(drawn)).to(self._inputs.device)
        inputs, targets, indices = (
            values.index_select(0, positions).view(*environment.shape, *values.shape[1:])
            for values in (self._inputs, self._targets, self._indices)
        )
        return EnvironmentBatch(inputs, targets, environment, indices, rows, counts)


def _ranges(data: Sequence[Sequence[MainSplit]]) -> list[list[range]]:
    """Where the rows of each environment of each data set stand among those of all.

    Raises:
        DataError: If an environment has none.
    """
    ranges: list[list[range]] = []
    end = 0
    for splits in data:
        ranges.append([])
        for split in splits:
            if len(split.targets) == 0:
                raise DataError(
                    f"training environment {split.environment} has no main samples; name other "
                    "environments or lower the holdout fraction"
                )
            ranges[-1].append(range(end, end + len(split.targets)))
            end += len(split.targets)
    return ranges


def _in_order(ranges: Sequence[range], widths: Sequence[int]) -> Tensor:
    """All rows of each environment, the last one again where others have more."""
    return torch.cat(
        [
            torch.arange(rows.start, rows.start + width).clamp(max=rows.stop - 1)
            for rows, width in zip(ranges, widths, strict=True)
        ]
    )
