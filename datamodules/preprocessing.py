"""How an image file becomes what a network of a data set was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datamodules.decoding import displayed
from datamodules.errors import DataError

Mode = Literal["RG", "L", "RGB"]
Interpolation = Literal["nearest", "bilinear"]

_LARGEST_SIDE = 8192


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to a network's input: mode, size, then mean and deviation.

    Attributes:
        mode: "RGB": three channels. "RG": red and green of the RGB image. "L": one, grey.
        size: Height and width in pixels.
        interpolation: "nearest" picks pixel 2 i for a halving, as ``[::2, ::2]`` does;
            "bilinear" averages over what a smaller pixel covers.
        mean: One number a channel, taken off values in [0, 1].
        std: One number a channel, divided by afterwards.

    Raises:
        DataError: If a mode or interpolation is unknown, a size is no height and width in pixels,
            or mean and std do not have one number a channel.
    """

    mode: Mode
    size: tuple[int, int]
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check what may have come from a file."""
        if self.mode not in get_args(Mode):
            raise DataError(f"mode is {self.mode!r}; choose one of {get_args(Mode)}")
        if not all(isinstance(side, int) and 1 <= side <= _LARGEST_SIDE for side in self.size):
            raise DataError(f"size is {self.size}; give 1 to {_LARGEST_SIDE} pixels a side")
        if self.interpolation not in get_args(Interpolation):
            raise DataError(
                f"interpolation is {self.interpolation!r}; choose one of {get_args(Interpolation)}"
            )
        if not len(self.mean) == len(self.std) == len(self.mode):
            raise DataError(
                f"mode {self.mode!r} has {len(self.mode)} channels, mean is {self.mean} and std is "
                f"{self.std}; give one number a channel"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Of an input: (channels, height, width)."""
        return len(self.mode), *self.size

    def to_dict(self) -> dict[str, Any]:
        """Write as plain JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote.

        Raises:
            DataError: If keys are missing or unknown.
        """
        names = set(cls.__dataclass_fields__)
        if set(values) != names:
            raise DataError(
                f"preprocessing has the keys {sorted(values)}; it needs {sorted(names)}"
            )
        return cls(
            mode=values["mode"],
            size=cast("tuple[int, int]", tuple(values["size"])),
            interpolation=values["interpolation"],
            mean=tuple(values["mean"]),
            std=tuple(values["std"]),
        )

    def __call__(self, image: Image.Image) -> Tensor:
        """Turn an image of any mode and size into a network's input.

        Args:
            image: The image.

        Returns:
            (channels, height, width) float32.
        """
        converted = displayed(image).convert("L" if self.mode == "L" else "RGB")
        pixels = np.atleast_3d(np.asarray(converted, dtype=np.float32) / 255)
        values = torch.from_numpy(pixels).permute(2, 0, 1)[: len(self.mode)]
        mean, std = (torch.tensor(row).reshape(-1, 1, 1) for row in (self.mean, self.std))
        return (self._resize(values) - mean) / std

    def _resize(self, values: Tensor) -> Tensor:
        """Scale (channels, h, w) to `size`."""
        if values.shape[1:] == self.size:
            return values
        smooth = self.interpolation == "bilinear"
        return torch.nn.functional.interpolate(
            values[None], self.size, mode=self.interpolation, antialias=smooth
        )[0]
