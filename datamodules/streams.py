"""Training batches as pure functions of (seed, environment, step)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.augmentation import Augmentation, Draws, uniforms
from datamodules.environments import EnvironmentData
from datamodules.errors import DataError
from datamodules.images import Images
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
        environment: (n,) int64, position 0 to E - 1 among the training environments; -1 for a row
            that belongs to none and counts nowhere, as stacked runs of different batch sizes have.
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
        inputs: (n, *shape) float32; or `Images`, which are read when they are asked for.
        targets: (n,) int64.
        indices: (n,) int64, index of each sample inside its environment.
    """

    environment: int
    inputs: Tensor | Images
    targets: Tensor
    indices: Tensor

    @classmethod
    def of(cls, environment: int, data: EnvironmentData) -> MainSplit:
        """Copy the main split out of an environment; of images that are read later, their list."""
        inputs = (
            data.inputs.subset(data.main)
            if isinstance(data.inputs, Images)
            else data.inputs.index_select(0, data.main)
        )
        return cls(environment, inputs, data.targets[data.main], data.main)


class Stream(ABC):
    """Batches that are a function of the step alone.

    One iteration hands out `steps` batches; the next one goes on where it ended, so that Lightning
    sees every iteration as an epoch. The whole state is the number of batches handed out, which is
    exact because of `__len__`: of an unsized loader Lightning would fetch one batch ahead.

    Args:
        steps: Batches of one iteration.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._position = 0

    @abstractmethod
    def batch(self, step: int) -> EnvironmentBatch:
        """Make the batch of a step, whatever was handed out before.

        Args:
            step: Number of the batch, from 0; may exceed `steps`.
        """

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

    def state_dict(self) -> dict[str, int]:
        """Return the whole state: how many batches were handed out."""
        return {"position": self._position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the batches that were handed out when `state` was taken."""
        self._position = state["position"]


class TrainingStream(Stream):
    """The batches of a run, for one rank, made on its device.

    Batch t of an environment depends on the seed, the environment's index in its data set and t
    alone: not on the other environments, on earlier batches, or on the number of ranks. Rank r of W
    takes rows r, r + W, ... of each environment's global batch. What augmentation does to a row
    depends on its number in that batch, too.

    Args:
        environments: The main splits to train on, in training order: all of tensors, which are kept
            on the device, or all of images, which are read one batch ahead of their use.
        batch_size: Rows of each environment's global batch, or "full" for all rows in order.
        sampling: "permutation": the endless chain of fresh permutations, one a pass, cut into
            batches; a batch may span passes. "replacement": every row drawn on its own. Without
            effect on full batches.
        augmentation: What happens to images; None for nothing. Tensors are never augmented.
        seed: Decides the order of the rows, and the augmentation.
        steps: Batches of one iteration.
        rank: Which rank this is, from 0 to ``world_size - 1``.
        world_size: Number of ranks.
        device: Where the batches are made.

    Raises:
        DataError: If an environment has no main rows, or there is none.
    """

    def __init__(
        self,
        environments: Sequence[MainSplit],
        *,
        batch_size: BatchSize,
        sampling: Sampling = "permutation",
        augmentation: Augmentation | None = None,
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
        super().__init__(steps)
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
        self._targets = torch.cat([split.targets[kept] for split in environments]).to(device)
        self._indices = torch.cat([split.indices[kept] for split in environments]).to(device)
        images = [split.inputs for split in environments if isinstance(split.inputs, Images)]
        # Rows of images are read on the host.
        drawn_on = "cpu" if images else device
        self._drawers = [
            RowDrawer(range(end - size, end), (seed, sampling, split.environment), drawn_on)
            for split, size, end in zip(environments, sizes, accumulate(sizes), strict=True)
        ]
        self._inputs: Tensor | _ImageReader
        if images:
            self._inputs = _ImageReader(
                Images.joined([part.subset(torch.arange(len(part))[kept]) for part in images]),
                self._draw,
                augmentation,
                [(seed, "augmentation", split.environment) for split in environments],
                counts,
                self._shard,
                torch.device(device),
            )
        else:
            tensors = [split.inputs for split in environments if isinstance(split.inputs, Tensor)]
            self._inputs = torch.cat([part[kept] for part in tensors]).to(device)

    def batch(self, step: int) -> EnvironmentBatch:
        """Make the batch of a step, whatever was handed out before.

        Args:
            step: Number of the batch, from 0; may exceed `steps`.

        Returns:
            This rank's rows of it.
        """
        if isinstance(self._inputs, _ImageReader):
            rows, inputs = self._inputs.batch(step)
            rows = rows.to(self._targets.device)
        elif self._batch_size == "full":
            return self._complete(self._inputs, self._targets, self._indices)
        else:
            rows = self._draw(step)
            inputs = self._inputs.index_select(0, rows)
        return self._complete(
            inputs, self._targets.index_select(0, rows), self._indices.index_select(0, rows)
        )

    def _draw(self, step: int) -> Tensor:
        """Return this rank's rows of a batch among all that are kept, (n,) int64."""
        if self._batch_size == "full":
            return torch.arange(len(self._targets))
        start = step * self._batch_size
        draws = [drawer.draw(start, self._batch_size)[self._shard] for drawer in self._drawers]
        return torch.cat(draws)

    def _complete(self, inputs: Tensor, targets: Tensor, indices: Tensor) -> EnvironmentBatch:
        """Complete a batch with the parts that are the same at every step."""
        return EnvironmentBatch(
            inputs, targets, self._environment, indices, self._rows, self._counts
        )


class _ImageReader:
    """Reads and augments the images of batches; while one is in use, the next one is read.

    Args:
        images: All images that may be drawn.
        draw: From a step to its rows among them.
        augmentation: What happens to them; None for nothing.
        seeds: The names of an environment's augmentation, in training order.
        counts: Rows of each environment's global batch.
        shard: Which of these are this rank's.
        device: Where images are augmented.
    """

    def __init__(
        self,
        images: Images,
        draw: Callable[[int], Tensor],
        augmentation: Augmentation | None,
        seeds: Sequence[tuple[int | str, ...]],
        counts: Sequence[int],
        shard: slice,
        device: torch.device,
    ) -> None:
        self._images = images
        self._draw = draw
        self._augmentation = augmentation
        self._seeds = seeds
        self._counts = counts
        self._shard = shard
        self._device = device
        self._reader = ThreadPoolExecutor(1)
        self._ahead: tuple[int, Future[_Read]] | None = None

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the rows of a batch on the host, and its inputs on the device."""
        if self._ahead is None or self._ahead[0] != step:
            # By the one reader, too: it draws, and what is drawn is kept for the next batch.
            self._ahead = step, self._reader.submit(self._read, step)
        read = self._ahead[1].result()
        self._ahead = step + 1, self._reader.submit(self._read, step + 1)
        pixels = read.pixels.to(self._device, non_blocking=True)
        if self._augmentation is None or read.draws is None:
            return read.rows, pixels.float().div_(255)
        return read.rows, self._augmentation(pixels, read.draws)

    def _read(self, step: int) -> _Read:
        """Draw a batch and read its images."""
        rows = self._draw(step)
        pixels = self._images.read(rows)
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        if self._augmentation is None:
            return _Read(rows, pixels, None)
        numbers = np.concatenate(
            [
                uniforms(count, *seed, step)[self._shard]
                for seed, count in zip(self._seeds, self._counts, strict=True)
            ]
        )
        return _Read(rows, pixels, self._augmentation.draw(numbers, self._images.sizes[rows]))


class _Read(NamedTuple):
    """A batch on the host: its rows, (n, 3, height, width) uint8, and what happens to them."""

    rows: Tensor
    pixels: Tensor
    draws: Draws | None


class RowDrawer:
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
