"""Training batches as pure functions of (seed, environment, step)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

from datamodules.environments import EnvironmentData
from datamodules.errors import DataError
from datamodules.seeds import integers, permutation

BatchSize = int | Literal["full"]
Sampling = Literal["permutation", "replacement"]


# Not frozen: Lightning's 64-true, 16-true and bf16-true precisions copy a dataclass field by field.
@dataclass(slots=True)
class EnvironmentBatch:
    """One step's samples of every training environment, as one rank sees them.

    Samples of one environment stand together, environments in training order. Treat it as
    read-only: a full-batch stream hands out the same tensors at each step.

    Attributes:
        inputs: (n, *shape) float32.
        targets: (n,) int64, the class; float32 where a number is predicted.
        environment: (n,) int64, position 0 to E - 1 among the training environments.
        indices: (n,) int64, index of the sample inside its environment.
        rows: (n,) int64, position of the sample in its environment's global batch.
        counts: (E,) int64, samples of each environment's global batch, over all ranks.
    """

    inputs: Tensor
    targets: Tensor
    environment: Tensor
    indices: Tensor
    rows: Tensor
    counts: Tensor

    def to(
        self, device: torch.device | str | int, non_blocking: bool = False, **_: object
    ) -> EnvironmentBatch:
        """Move to a device; Lightning calls this on whatever has it.

        Args:
            device: The device to move to.
            non_blocking: Whether copies from pinned memory may overlap with the host.
            **_: Further arguments of `Tensor.to`, which mean nothing here.

        Returns:
            This batch itself if it is there already.
        """
        if self.inputs.device == torch.device(device):
            return self
        return EnvironmentBatch(
            **{
                item.name: getattr(self, item.name).to(device, non_blocking=non_blocking)
                for item in fields(self)
            }
        )


@dataclass(frozen=True, slots=True)
class MainSplit:
    """The main split of one training environment, and nothing of its holdout.

    Attributes:
        environment: Index of the environment in its data set.
        inputs: (n, *shape) float32.
        targets: (n,) int64.
        indices: (n,) int64, index of each sample inside its environment.
    """

    environment: int
    inputs: Tensor
    targets: Tensor
    indices: Tensor

    @classmethod
    def of(cls, environment: int, data: EnvironmentData) -> MainSplit:
        """Copy the main split out of an environment."""
        inputs = data.inputs.index_select(0, data.main)
        return cls(environment, inputs, data.targets[data.main], data.main)


class TrainingStream:
    """The batches of a run, for one rank, over data that already stand on its device.

    Batch t of an environment depends on the seed, the environment's index in its data set and t
    alone: not on the other environments, on earlier batches, or on the number of ranks. Rank r of W
    takes rows r, r + W, ... of each environment's global batch.

    One iteration hands out `steps` batches; the next one goes on where it ended, so that Lightning
    sees every iteration as an epoch. The whole state is the number of batches handed out, which is
    exact because of `__len__`: of an unsized loader Lightning would fetch one batch ahead.

    Args:
        environments: The main splits to train on, in training order.
        batch_size: Rows of each environment's global batch, or "full" for all rows in order.
        sampling: "permutation": the endless chain of fresh permutations, one a pass, cut into
            batches; a batch may span passes. "replacement": every row drawn on its own. Without
            effect on full batches.
        seed: Decides the order of the rows.
        steps: Batches of one iteration.
        rank: Which rank this is, from 0 to ``world_size - 1``.
        world_size: Number of ranks.
        device: Where the data are kept and the batches made.

    Raises:
        DataError: If an environment has no main rows, or there is none.
    """

    def __init__(
        self,
        environments: Sequence[MainSplit],
        *,
        batch_size: BatchSize,
        sampling: Sampling = "permutation",
        seed: int = 0,
        steps: int = 1,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        sizes = [len(split.targets) for split in environments]
        if not sizes or 0 in sizes:
            raise DataError(
                f"training environments have {sizes} main samples; each needs one at least, so "
                "name other environments or lower the holdout fraction"
            )
        self._steps = steps
        self._position = 0
        self._batch_size = batch_size
        self._shard = slice(rank, None, world_size)
        counts = sizes if batch_size == "full" else [batch_size] * len(sizes)
        shards = [torch.arange(count)[self._shard] for count in counts]
        lengths = torch.tensor([len(shard) for shard in shards])
        self._counts = torch.tensor(counts, device=device)
        self._rows = torch.cat(shards).to(device)
        self._environment = torch.repeat_interleave(lengths).to(device)
        # A full batch is what is kept here; of other batches any row may come to any rank.
        kept = self._shard if batch_size == "full" else slice(None)
        self._inputs = torch.cat([split.inputs[kept] for split in environments]).to(device)
        self._targets = torch.cat([split.targets[kept] for split in environments]).to(device)
        self._indices = torch.cat([split.indices[kept] for split in environments]).to(device)
        self._drawers = [
            _RowDrawer(range(end - size, end), (seed, sampling, split.environment), device)
            for split, size, end in zip(environments, sizes, accumulate(sizes), strict=True)
        ]

    def __len__(self) -> int:
        """Return the number of batches of one iteration."""
        return self._steps

    def __iter__(self) -> Iterator[EnvironmentBatch]:
        """Hand out the batches that are left of this iteration, or those of the next one."""
        end = (self._position // self._steps + 1) * self._steps
        while self._position < end:
            # Moved on first: a checkpoint written while a batch is in use must not repeat it.
            self._position += 1
            yield self.batch(self._position - 1)

    def batch(self, step: int) -> EnvironmentBatch:
        """Make the batch of a step, whatever was handed out before.

        Args:
            step: Number of the batch, from 0; may exceed `steps`.

        Returns:
            This rank's rows of it.
        """
        if self._batch_size == "full":
            return self._complete(self._inputs, self._targets, self._indices)
        start = step * self._batch_size
        draws = [drawer.draw(start, self._batch_size)[self._shard] for drawer in self._drawers]
        rows = torch.cat(draws)
        return self._complete(
            self._inputs.index_select(0, rows),
            self._targets.index_select(0, rows),
            self._indices.index_select(0, rows),
        )

    def state_dict(self) -> dict[str, int]:
        """Return the whole state: how many batches were handed out."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches that were handed out when `state` was taken."""
        self._position = state["position"]

    def _complete(self, inputs: Tensor, targets: Tensor, indices: Tensor) -> EnvironmentBatch:
        """Complete a batch with the parts that are the same at every step."""
        return EnvironmentBatch(
            inputs, targets, self._environment, indices, self._rows, self._counts
        )


class _RowDrawer:
    """Draws the rows of one environment: an endless chain of passes, cut into batches.

    Args:
        rows: The environment's rows among those of all.
        seed_parts: Seed, sampling and index of the environment in its data set.
        device: Where the drawn rows are kept.
    """

    def __init__(
        self, rows: range, seed_parts: tuple[int, Sampling, int], device: torch.device | str
    ) -> None:
        self._rows = rows
        self._seed_parts = seed_parts
        self._device = device
        self._passes: dict[int, Tensor] = {}

    def draw(self, start: int, count: int) -> Tensor:
        """Return the rows at the positions `start` to ``start + count - 1`` of the chain, int64."""
        first_pass, offset = divmod(start, len(self._rows))
        end_pass = -(-(start + count) // len(self._rows))
        self._passes = {
            number: self._passes[number] if number in self._passes else self._draw_pass(number)
            for number in range(first_pass, end_pass)
        }
        passes = list(self._passes.values())
        return (passes[0] if len(passes) == 1 else torch.cat(passes))[offset : offset + count]

    def _draw_pass(self, number: int) -> Tensor:
        """Draw as many rows as the environment has, (rows,) int64 on the device."""
        count = len(self._rows)
        _, sampling, _ = self._seed_parts
        if sampling == "permutation":
            positions = permutation(count, *self._seed_parts, number)
        else:
            positions = integers(count, count, *self._seed_parts, number)
        return torch.from_numpy(positions + self._rows.start).to(self._device)
