"""Images of a data set as inputs that are read when they are asked for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class Pixels(Protocol):
    """Where the pixels of all images of a data set are, each at the same size.

    Attributes:
        shape: (images, 3, height, width).
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(images, 3, height, width)."""

    def read(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Return images by their numbers, (n, 3, height, width) uint8."""


class Images:
    """A choice of images, in place of a tensor (n, 3, height, width) float32 in [0, 1].

    It answers to what a batch needs of a tensor: a length, a shape, `index_select`.

    Args:
        pixels: Where the pixels are.
        numbers: (n,) int64, the chosen images among those of `pixels`.
        sizes: (n, 2) int64, height and width in pixels of each chosen image's file.
    """

    dtype = torch.float32

    def __init__(
        self, pixels: Pixels, numbers: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]
    ) -> None:
        self._pixels = pixels
        self.numbers = numbers
        self.sizes = sizes

    @classmethod
    def joined(cls, parts: list[Images]) -> Images:
        """Put choices from the same pixels one behind the other."""
        return cls(
            parts[0]._pixels,
            np.concatenate([part.numbers for part in parts]),
            np.concatenate([part.sizes for part in parts]),
        )

    @property
    def shape(self) -> torch.Size:
        """(n, 3, height, width)."""
        return torch.Size((len(self), *self._pixels.shape[1:]))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.numbers)

    def subset(self, indices: Tensor) -> Images:
        """Choose among these images, reading nothing."""
        chosen = indices.numpy()
        return Images(self._pixels, self.numbers[chosen], self.sizes[chosen])

    def read(self, indices: Tensor) -> Tensor:
        """Read images as they are stored.

        Args:
            indices: (n,) int64, on the CPU.

        Returns:
            (n, 3, height, width) uint8.
        """
        return torch.from_numpy(self._pixels.read(self.numbers[indices.numpy()]))

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        """Read images as evaluation sees them: never augmented.

        Args:
            dim: 0.
            index: (n,) int64, on the CPU.

        Returns:
            (n, 3, height, width) float32 in [0, 1].
        """
        assert dim == 0
        return self.read(index).float().div_(255)

    def __getitem__(self, index: Tensor) -> Tensor:
        """Return `index_select` of the first dimension."""
        return self.index_select(0, index)
