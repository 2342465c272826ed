"""Images decoded once into a memory-mapped file, or anew each time they are asked for."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image, ImageFile

from datamodules.errors import DataError
from datamodules.images import Pixels
from datamodules.preprocessing import displayed

Truncated = Literal["refuse", "load"]
# Rises with every change of decoding: caches of another version are not read.
VERSION = 1
INDEX_FILE = "index.json"

# Images that are decoded before they are written: what a build holds in memory.
_BLOCK = 256
# Whether Pillow loads what there is of a truncated file is a setting of the whole process.
_LOADING_TRUNCATED = threading.Lock()


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


class _Decoded(NamedTuple):
    reading: Reading
    pixels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ImageCache:
    """The images of a data set, each squeezed to one square size.

    Args:
        name: What the folder in the cache is called, for people.
        files: The image files; their order numbers the images.
        image_size: Height and width in pixels to which each is scaled: bilinearly, as Pillow
            does it, whatever the file's proportions.
        truncated: "refuse": a file whose end is missing is unreadable. "load": its rest is grey.
        folder: Where caches are kept.
        keep_pixels: False decodes an image each time it is read, and keeps what was found in the
            files alone.
        say: Told, in a sentence, what takes time.
    """

    name: str
    files: Sequence[Path]
    image_size: int
    truncated: Truncated
    folder: Path
    keep_pixels: bool
    say: Callable[[str], object]

    def open(self) -> tuple[Pixels, list[Reading]]:
        """Find what was decoded before, or decode.

        Of several processes that open the same images at once, one decodes and the others wait.
        An interrupted build leaves nothing behind that the next one would take for whole.

        Raises:
            DataError: If the disk has no room for the cache, or its folder cannot be written.
        """
        stamps = self._stamps()
        readings = self._kept(stamps)
        if readings is None:
            readings = self._build(stamps)
        if self.keep_pixels:
            return _MappedPixels(self._pixel_file(stamps)), readings
        return _DecodedPixels(self), readings

    def decode_all(self, pool: Executor, paths: Sequence[Path]) -> list[_Decoded]:
        """Read files at once; where truncated ones are to load, those again, one by one.

        Whether Pillow loads what there is of a file is a setting of the whole process: it must not
        be on while another thread finds out whether a file is whole.

        Args:
            pool: What reads several at once.
            paths: The files.
        """
        decoded = list(pool.map(self._decode, paths))
        if self.truncated == "refuse":
            return decoded
        return [
            self._decode_what_there_is(path) if each.reading.truncated else each
            for path, each in zip(paths, decoded, strict=True)
        ]

    def _decode_what_there_is(self, path: Path) -> _Decoded:
        with _LOADING_TRUNCATED:
            ImageFile.LOAD_TRUNCATED_IMAGES = True
            try:
                reading, pixels = self._decode(path)
            finally:
                ImageFile.LOAD_TRUNCATED_IMAGES = False
        return _Decoded(replace(reading, truncated=True), pixels)

    def _decode(self, path: Path) -> _Decoded:
        """Read one file, hash it, and scale it.

        Args:
            path: The file.

        Returns:
            What was found, and (3, image_size, image_size) uint8: black if it cannot be used.
        """
        nothing = np.zeros((3, self.image_size, self.image_size), np.uint8)
        try:
            content = path.read_bytes()
        except OSError as error:
            return _Decoded(Reading("", error=error.strerror or str(error)), nothing)
        sha256 = hashlib.sha256(content).hexdigest()
        try:
            with Image.open(io.BytesIO(content)) as image:
                mode = image.mode
                image.load()
                shown = displayed(image)
            scaled = shown.convert("RGB").resize((self.image_size,) * 2, Image.Resampling.BILINEAR)
        except Exception as error:
            # Pillow raises whatever a damaged file leads to: there is no narrower class.
            reason = " ".join(str(error).replace(repr(content), "").split()) or type(error).__name__
            return _Decoded(Reading(sha256, error=reason, truncated="truncated" in reason), nothing)
        reading = Reading(sha256, shown.height, shown.width, mode)
        return _Decoded(reading, np.asarray(scaled).transpose(2, 0, 1))

    # Files of the cache

    @property
    def _home(self) -> Path:
        """One folder for the images of one place at one size."""
        parts = [str(self.image_size), self.truncated, os.path.commonpath(self.files)]
        key = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]
        return self.folder / f"{self.name}-{self.image_size}-{key}"

    def _stamps(self) -> str:
        """Hash what changes when a file does: its name, size and time of modification."""
        digest = hashlib.sha256(str(VERSION).encode())
        for path in self.files:
            try:
                state = path.stat()
                stamp = f"{path}\0{state.st_size}\0{state.st_mtime_ns}\n"
            except OSError:
                stamp = f"{path}\0gone\n"
            digest.update(stamp.encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _pixel_file(self, stamps: str) -> Path:
        return self._home / f"pixels-{stamps[:16]}.npy"

    def _kept(self, stamps: str) -> list[Reading] | None:
        """What a build before this one found in the same files; None if there is none."""
        try:
            content = json.loads((self._home / INDEX_FILE).read_bytes())
            readings = [Reading(*values) for values in content["readings"]]
            if self.keep_pixels:
                shape = np.load(self._pixel_file(stamps), mmap_mode="r").shape
                if shape != (len(self.files), 3, self.image_size, self.image_size):
                    return None
            return readings if content["stamps"] == stamps else None
        except (OSError, ValueError, TypeError, LookupError):
            # Missing, cut off, or another program's: it is made anew.
            return None

    def _build(self, stamps: str) -> list[Reading]:
        """Decode everything, in one process at a time."""
        size = len(self.files) * 3 * self.image_size**2 if self.keep_pixels else 0
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with FileLock(self._home / "lock"):
                # Another process may have built while this one waited.
                readings = self._kept(stamps)
                if readings is None:
                    self._require_room(size)
                    readings = self._write(stamps, size)
        except OSError as error:
            raise DataError(
                f"the cache of decoded images, {size / 1e9:.2f} GB, cannot be written to "
                f"{self._home} ({error.strerror or error}). Make room there, name another folder "
                "with --data.cache, or decode anew at each step with --data.cache off"
            ) from error
        return readings

    def _require_room(self, size: int) -> None:
        free = shutil.disk_usage(self._home).free
        if size > free:
            raise DataError(
                f"the cache of {len(self.files):,} decoded images takes {size / 1e9:.2f} GB and "
                f"{self._home} has {free / 1e9:.2f} GB free. Make room there, name another folder "
                "with --data.cache, or decode anew at each step with --data.cache off"
            )

    def _write(self, stamps: str, size: int) -> list[Reading]:
        what = f"{self.name}: reading {len(self.files):,} images at {self.image_size} pixels"
        self.say(f"{what}, once; {size / 1e9:.2f} GB in {self._home}")
        started = time.monotonic()
        for left_over in self._home.glob("*.tmp"):
            left_over.unlink()
        pixels, index = (
            path.with_name(path.name + ".tmp")
            for path in (self._pixel_file(stamps), self._home / INDEX_FILE)
        )
        try:
            readings = self._write_pixels(pixels) if self.keep_pixels else self._read_all()
            rows = [astuple(reading) for reading in readings]
            index.write_text(json.dumps({"stamps": stamps, "readings": rows}))
            old = list(self._home.glob("pixels-*.npy"))
            if self.keep_pixels:
                os.replace(pixels, self._pixel_file(stamps))
            os.replace(index, self._home / INDEX_FILE)
        except BaseException:
            for path in (pixels, index):
                path.unlink(missing_ok=True)
            raise
        for path in old:
            if path != self._pixel_file(stamps):
                with suppress(OSError):  # Windows keeps what another process has open
                    path.unlink()
        self.say(f"{what}: done in {time.monotonic() - started:.1f} s")
        return readings

    def _write_pixels(self, path: Path) -> list[Reading]:
        """Write all pixels; by writing and not through a map, which a full disk kills."""
        readings: list[Reading] = []
        shape = (len(self.files), 3, self.image_size, self.image_size)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for decoded in self._decode_all():
                readings.append(decoded.reading)
                file.write(decoded.pixels.tobytes())
            file.flush()
            os.fsync(file.fileno())
        return readings

    def _read_all(self) -> list[Reading]:
        return [decoded.reading for decoded in self._decode_all()]

    def _decode_all(self) -> Iterator[_Decoded]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(self.files), _BLOCK):
                yield from self.decode_all(pool, self.files[start : start + _BLOCK])


class _MappedPixels:
    """Pixels in a file that the system reads where they are needed."""

    def __init__(self, path: Path) -> None:
        self._array: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r").view(np.ndarray)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        images, channels, height, width = self._array.shape
        return images, channels, height, width

    def read(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        return self._array[numbers]


class _DecodedPixels:
    """Pixels that are decoded from their files each time, on every core."""

    def __init__(self, cache: ImageCache) -> None:
        self._cache = cache
        self._pool = ThreadPoolExecutor(os.cpu_count())

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return len(self._cache.files), 3, self._cache.image_size, self._cache.image_size

    def read(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        paths = [self._cache.files[number] for number in numbers]
        pixels = [np.empty((0, *self.shape[1:]), np.uint8)]
        for path, decoded in zip(paths, self._cache.decode_all(self._pool, paths), strict=True):
            if decoded.reading.error:
                raise DataError(
                    f"{path} can no longer be read ({decoded.reading.error}); it could when the "
                    "data set was opened. Bring it back, and go on with --resume"
                )
            pixels.append(decoded.pixels[None])
        return np.concatenate(pixels)
