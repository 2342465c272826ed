"""An image file becomes pixels of one size: read, judged and scaled.

It imports no torch: the processes that fill a cache import this module, and start at once.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from datamodules.regular_files import open_regular

Truncated = Literal["refuse", "load"]

# Pillow knows 40 formats more, and some of them start other programs: an EPS runs Ghostscript.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# Bytes of a file; pixels are limited by Pillow.
_LARGEST = 2**30
# What Pillow logs of damaged files would be printed, were there nobody to take it.
logging.getLogger("PIL").addHandler(logging.NullHandler())

# Whether Pillow loads what there is of a truncated file is a setting of the whole process.
_LOADING_TRUNCATED = threading.Lock()


class ImageError(ValueError):
    """A file that cannot be used as an image; the message says why."""


def read_image(path: Path) -> Image.Image:
    """Read an image file as a viewer shows it, see `displayed`.

    Args:
        path: The file, of one of `FORMATS`.

    Raises:
        ImageError: If it is none, or is damaged, too large or of floating-point numbers.
    """
    return _shown(_content(path))[1]


def _content(path: Path) -> bytes:
    try:
        with open_regular(path, _LARGEST) as file:
            return file.read()
    except OSError as error:
        raise ImageError(error.strerror or str(error)) from error


def _shown(content: bytes) -> tuple[str, Image.Image]:
    """An image file's own mode, and the image that a viewer shows."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            mode = image.mode
            image.load()
            return mode, displayed(image)
    except UnidentifiedImageError as error:
        # Pillow's message names an address in memory.
        raise ImageError(f"it is no image of the formats {', '.join(FORMATS)}") from error
    except Exception as error:
        # Pillow raises whatever a damaged file leads to: there is no narrower class.
        raise ImageError(" ".join(str(error).split()) or type(error).__name__) from error


def displayed(image: Image.Image) -> Image.Image:
    """Turn an image of any kind into the 8-bit one that a viewer shows.

    Rotation by EXIF is applied, of 16 bits the upper 8 are kept, a palette becomes its colours.
    Transparency is dropped, as torchvision's loader does. That loader ignores EXIF and clips 16
    bits to white.

    Args:
        image: Any image that Pillow reads; of an animation its first frame.

    Raises:
        ValueError: If its values are floating-point numbers, which have no agreed range.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of an unknown range")
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        return Image.fromarray((np.asarray(upright).astype(np.uint32) >> 8).astype(np.uint8))
    # By way of RGBA: Pillow warns of a palette with transparency otherwise.
    return upright.convert("RGBA") if upright.mode == "P" else upright


@dataclass(frozen=True)
class Reading:
    """What reading an image file found.

    Attributes:
        sha256: Of the file, in hexadecimal; empty if it could not be read at all.
        height: Height as displayed, in pixels; 0 if it is no image.
        width: Width as displayed, in pixels; 0 if it is no image.
        mode: Pillow's name of its kind of pixels, such as "RGB" or "CMYK".
        error: Why it cannot be used; empty if it can.
        truncated: Whether its end is missing.
    """

    sha256: str
    height: int = 0
    width: int = 0
    mode: str = ""
    error: str = ""
    truncated: bool = False


class Decoded(NamedTuple):
    """A file's reading and its pixels, (3, image_size, image_size) uint8: black if unusable."""

    reading: Reading
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Decoder:
    """How files become pixels.

    Args:
        image_size: Height and width in pixels to which each is scaled: bilinearly, as Pillow
            does it, whatever the file's proportions.
        truncated: "refuse": a file whose end is missing is unreadable. "load": its rest is grey.
    """

    image_size: int
    truncated: Truncated

    def __call__(self, paths: Sequence[Path], pool: Executor | None = None) -> list[Decoded]:
        """Read files; where truncated ones are to load, those again, one by one.

        Whether Pillow loads what there is of a file is a setting of the whole process: it must not
        be on while another thread finds out whether a file is whole.

        Args:
            paths: The files.
            pool: Threads that read several at once, if there are any.
        """
        decoded = list(pool.map(self._decode, paths) if pool else map(self._decode, paths))
        if self.truncated == "refuse":
            return decoded
        return [
            self._decode_what_there_is(path) if each.reading.truncated else each
            for path, each in zip(paths, decoded, strict=True)
        ]

    def store(self, paths: Sequence[Path], pixels: Path | None, start: int) -> list[Reading]:
        """Read files and write their pixels, one behind the other.

        Args:
            paths: The files.
            pixels: A file that is there, to write to; None writes nothing.
            start: Where in it to begin, in bytes.
        """
        decoded = self(paths)
        if pixels:
            with pixels.open("r+b") as file:
                file.seek(start)
                file.writelines(each.pixels.tobytes() for each in decoded)
        return [each.reading for each in decoded]

    def _decode_what_there_is(self, path: Path) -> Decoded:
        with _LOADING_TRUNCATED:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                reading, pixels = self._decode(path)
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
        return Decoded(replace(reading, truncated=True), pixels)

    def _decode(self, path: Path) -> Decoded:
        """Read one file, hash it, and scale it."""
        nothing = np.zeros((3, self.image_size, self.image_size), np.uint8)
        try:
            content = _content(path)
        except ImageError as error:
            return Decoded(Reading("", error=str(error)), nothing)
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            mode, shown = _shown(content)
        except ImageError as error:
            reason = str(error)
            return Decoded(Reading(sha256, error=reason, truncated="truncated" in reason), nothing)
        scaled = shown.convert("RGB").resize((self.image_size,) * 2, Image.Resampling.BILINEAR)
        reading = Reading(sha256, shown.height, shown.width, mode)
        return Decoded(reading, np.asarray(scaled).transpose(2, 0, 1))
