"""Random crops, flips and colours of image batches, every sample's by draws of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.seeds import raw_integers

Recipe = Literal["domainbed", "none"]
Uniforms = npt.NDArray[np.floating[Any]]

_ATTEMPTS = 10
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)
_GREY = (0.299, 0.587, 0.114)  # ITU-R 601-2, as Pillow weighs red, green and blue
# From RGB to the luma and two chromaticities of NTSC, in which a hue is an angle.
_YIQ = (_GREY, (0.59590059, -0.27455667, -0.32134392), (0.21153661, -0.52273617, 0.31119955))
# Which of a sample's uniform numbers decides what.
_CROPS = slice(0, 2 * _ATTEMPTS)
_PLACE = slice(_CROPS.stop, _CROPS.stop + 2)
_FLIP = _PLACE.stop
_FACTORS = slice(_FLIP + 1, _FLIP + 5)
_ORDER = slice(_FACTORS.stop, _FACTORS.stop + 4)
_GRAYSCALE = _ORDER.stop
NUMBERS = _GRAYSCALE + 1


@dataclass(frozen=True)
class Draws:
    """What was drawn for each of n samples.

    Attributes:
        boxes: (n, 4) float64, the crop's top, left, height and width, as shares of the image's.
        flips: (n,) bool, whether it is mirrored.
        order: (n, 4) int64, in which order brightness 0, contrast 1, saturation 2 and hue 3
            change.
        factors: (n, 4) float64: of these, in that numbering; the hue's in turns.
        grayscale: (n,) bool, whether it loses its colours at the end.
    """

    boxes: Tensor
    flips: Tensor
    order: Tensor
    factors: Tensor
    grayscale: Tensor

    def rows(self, chosen: slice) -> Draws:
        """Return the draws of some of the samples."""
        return Draws(*(getattr(self, field.name)[chosen] for field in fields(self)))


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop, flip, colour jitter and grayscale; the defaults are DomainBed's.

    The laws are those of torchvision's RandomResizedCrop, RandomHorizontalFlip, ColorJitter and
    RandomGrayscale, which DomainBed applies one after the other. Pixels equal theirs up to rounding
    (Pillow cuts off to 8 bits behind each operation), with two deviations: a crop is taken of the
    squeezed image at its stored size, and a hue turns in the YIQ colour space, which keeps the
    luma, in place of HSV, which keeps the largest channel.

    Attributes:
        scale: Smallest and largest share of the image's area that a crop has.
        ratio: Smallest and largest proportion of a crop's width to its height.
        flip: Probability of a mirrored image.
        brightness: Largest change of the factor, at most 1.
        contrast: As for brightness.
        saturation: As for brightness.
        hue: Largest turn, at most 0.5.
        grayscale: Probability of an image without colours.
    """

    scale: tuple[float, float] = (0.7, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.3
    grayscale: float = 0.1

    def draw(self, uniforms: Uniforms, sizes: npt.NDArray[np.int64]) -> Draws:
        """Turn uniform numbers into what happens to each sample.

        Args:
            uniforms: (n, NUMBERS) in [0, 1), see `uniforms`.
            sizes: (n, 2), height and width of each sample's file, of which crops are drawn.
        """
        strengths = np.array([self.brightness, self.contrast, self.saturation, self.hue])
        factors = strengths * (2 * uniforms[:, _FACTORS] - 1)
        factors[:, :_HUE] += 1
        return Draws(
            boxes=torch.from_numpy(self._boxes(uniforms, sizes)),
            flips=torch.from_numpy(uniforms[:, _FLIP] < self.flip),
            order=torch.from_numpy(np.argsort(uniforms[:, _ORDER], axis=1, kind="stable")),
            factors=torch.from_numpy(factors),
            grayscale=torch.from_numpy(uniforms[:, _GRAYSCALE] < self.grayscale),
        )

    def _boxes(self, uniforms: Uniforms, sizes: npt.NDArray[np.int64]) -> Uniforms:
        """Draw crops as torchvision does: the first of ten that fits, else the middle."""
        height, width = sizes.T[:, :, None].astype(np.float64)
        areas, ratios = np.split(uniforms[:, _CROPS].reshape(-1, 2, _ATTEMPTS), 2, axis=1)
        low, high = map(math.log, self.ratio)
        target = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * areas[:, 0])
        ratio = np.exp(low + (high - low) * ratios[:, 0])
        sides = np.rint(np.sqrt(np.stack([target / ratio, target * ratio], axis=-1)))
        limits = np.stack([height, width], axis=-1)
        fits = ((sides > 0) & (sides <= limits)).all(axis=-1)
        first = np.take_along_axis(sides, fits.argmax(axis=1)[:, None, None], axis=1)[:, 0]
        limits = limits[:, 0]
        place = np.floor(uniforms[:, _PLACE] * (limits - first + 1))
        # None fits: as much of the middle as the proportions allow.
        middle = np.minimum(
            limits,
            np.rint(limits[:, ::-1] * np.array([1 / self.ratio[0], self.ratio[1]])),
        )
        fitting = fits.any(axis=1, keepdims=True)
        corner = np.where(fitting, place, (limits - middle) // 2)
        sides = np.where(fitting, first, middle)
        boxes: Uniforms = np.concatenate([corner, sides], axis=1) / np.tile(limits, 2)
        return boxes

    def __call__(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Augment images, on the device that they are on.

        Args:
            pixels: (n, 3, height, width) uint8.
            draws: Of the same n samples.

        Returns:
            (n, 3, height, width) float32 in [0, 1].
        """
        # On a CPU one at a time: what is computed of a second one would push it out of the cache.
        size = 1 if pixels.device.type == "cpu" else max(len(pixels), 1)
        steps = _Steps.of(draws, pixels.shape[-2], pixels.shape[-1], pixels.device)
        images = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device)
        of_pixels, of_images = torch.split(pixels, size), torch.split(images, size)
        for parts in zip(of_pixels, steps.split(size), of_images, strict=True):
            _augment(*parts)
        return images


RECIPES: dict[Recipe, Augmentation | None] = {"domainbed": Augmentation(), "none": None}


def uniforms(count: int, *parts: int | str) -> Uniforms:
    """Draw the numbers that decide what happens to the rows of a batch.

    Args:
        count: Number of rows.
        *parts: The names of the draw, see `seeds.derive_seed`.

    Returns:
        (count, NUMBERS) in [0, 1). A smaller count gives the beginning of a larger one: what
        happens to a row depends on the names and its own number alone.
    """
    raw = raw_integers(count * NUMBERS, *parts).reshape(count, NUMBERS)
    return (raw >> np.uint64(11)) * 2.0**-53


class _Steps(NamedTuple):
    """What is computed of n samples' draws, as float32 on the device of the images.

    Attributes:
        columns: (n, width), where each column is fetched from, from -1 to 1.
        rows: (n, height), where each row is.
        matrices: (n, 4, 3, 3), what the operations do to a colour, in their order.
        contrasts: (n, 4), what share of the mean grey each adds.
        grayscale: (n,) bool, on the host.
    """

    columns: Tensor
    rows: Tensor
    matrices: Tensor
    contrasts: Tensor
    grayscale: Tensor

    @classmethod
    def of(cls, draws: Draws, height: int, width: int, device: torch.device) -> _Steps:
        """Compute them on the host, for all samples at once."""
        samples = torch.arange(len(draws.order))[:, None]
        lost = torch.zeros_like(draws.factors)
        lost[:, _CONTRAST] = 1 - draws.factors[:, _CONTRAST]
        computed = (
            _fetched(draws.boxes[:, 1::2], width, draws.flips),
            _fetched(draws.boxes[:, ::2], height, torch.zeros_like(draws.flips)),
            _matrices(draws.factors)[samples, draws.order],
            lost[samples, draws.order],
        )
        return cls._make([*(part.to(device, torch.float32) for part in computed), draws.grayscale])

    def split(self, size: int) -> Iterator[_Steps]:
        """Cut into those of `size` samples each."""
        return map(_Steps._make, zip(*(torch.split(part, size) for part in self), strict=True))


def _augment(pixels: Tensor, steps: _Steps, images: Tensor) -> None:
    """Crop and mirror in one resampling, then change colours by 3x3 matrices, into `images`."""
    grid = pixels.new_empty((len(pixels), *pixels.shape[-2:], 2), dtype=torch.float32)
    grid[..., 0] = steps.columns[:, None]
    grid[..., 1] = steps.rows[:, :, None]
    scaled = pixels.float().div_(255)
    resampled = torch.nn.functional.grid_sample(
        scaled, grid, padding_mode="border", align_corners=False
    )
    grey = images.new_tensor(_GREY)
    colours = resampled.flatten(2)
    # Each operation writes where nothing is needed any more: new memory costs more than arithmetic.
    for number, target in enumerate((scaled, resampled, scaled, images)):
        offset = steps.contrasts[:, number] * (colours.mean(dim=2) @ grey)
        colours = torch.baddbmm(
            offset[:, None, None], steps.matrices[:, number], colours, out=target.flatten(2)
        )
        # Between two operations an image has 8 bits: there is nothing beyond black and white.
        colours.clamp_(0, 1)
    rows = steps.grayscale.nonzero()[:, 0]
    if len(rows):
        images[rows] = torch.einsum("c,nchw->nhw", grey, images[rows])[:, None]


def _fetched(boxes: Tensor, size: int, flips: Tensor) -> Tensor:
    """Where the pixels along one axis are fetched from, (n, size), from -1 to 1.

    Args:
        boxes: (n, 2), start and length of the crops, as shares of the size.
        size: Pixels along the axis.
        flips: (n,) bool, whether they come in the opposite order.
    """
    start, length = (boxes * size)[:, :, None].unbind(dim=1)
    steps = torch.arange(size)
    steps = torch.where(flips[:, None], size - 1 - steps, steps)
    # In pixels of the image, not beyond the middle of the crop's outermost ones.
    fetched = start + (steps + 0.5) * length / size - 0.5
    fetched = torch.minimum(torch.maximum(fetched, start), start + length - 1)
    return (2 * fetched + 1) / size - 1


def _matrices(factors: Tensor) -> Tensor:
    """What each operation does to a colour, (n, 4, 3, 3); contrast adds an offset to it."""
    identity = torch.eye(3, device=factors.device)
    grey = factors.new_tensor(_GREY).expand(3, 3)
    brightness, contrast, saturation = (
        factors[:, k, None, None] * identity for k in (_BRIGHTNESS, _CONTRAST, _SATURATION)
    )
    saturation = saturation + (1 - factors[:, _SATURATION, None, None]) * grey
    angle = -2 * torch.pi * factors[:, _HUE]  # YIQ turns from red to blue, HSV to green
    cosine, sine, zero, one = angle.cos(), angle.sin(), 0 * angle, 0 * angle + 1
    turn = torch.stack([one, zero, zero, zero, cosine, -sine, zero, sine, cosine], dim=1)
    to_yiq = factors.new_tensor(_YIQ)
    hue = torch.linalg.inv(to_yiq) @ turn.view(-1, 3, 3) @ to_yiq
    return torch.stack([brightness, contrast, saturation, hue], dim=1)
