"""Images decoded once into a memory-mapped file, or anew each time they are asked for."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from datamodules.decoding import Decoder, Reading
from datamodules.errors import DataError
from datamodules.images import Pixels

# Rises with every change of decoding: caches of another version are not read.
VERSION = 1
INDEX_FILE = "index.json"

# Images that are decoded before they are written: what a process holds in memory.
_PART = 64
# From how many images on more processes pay for their start.
_MANY = 500


@dataclass(frozen=True)
class ImageCache:
    """The images of a data set, each squeezed to one square size.

    Args:
        name: What the folder in the cache is called, for people.
        files: The image files; their order numbers the images.
        decoder: How files become pixels.
        folder: Where caches are kept.
        keep_pixels: False decodes an image each time it is read, and keeps what was found in the
            files alone.
        say: Told, in a sentence, what takes time.
    """

    name: str
    files: Sequence[Path]
    decoder: Decoder
    folder: Path
    keep_pixels: bool
    say: Callable[[str], object]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of all pixels: images, channels, height, width."""
        return len(self.files), 3, self.decoder.image_size, self.decoder.image_size

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

    # Files of the cache

    @property
    def _home(self) -> Path:
        """One folder for the images of one place at one size."""
        size = self.decoder.image_size
        parts = [str(size), self.decoder.truncated, os.path.commonpath(self.files)]
        key = hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]
        return self.folder / f"{self.name}-{size}-{key}"

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
            if not all(reading.sha256 for reading in readings):
                # A file was missing or closed: giving access to it changes no stamp.
                return None
            if self.keep_pixels:
                shape = np.load(self._pixel_file(stamps), mmap_mode="r").shape
                if shape != self.shape:
                    return None
            return readings if content["stamps"] == stamps else None
        except (OSError, ValueError, TypeError, LookupError):
            # Missing, cut off, or another program's: it is made anew.
            return None

    def _build(self, stamps: str) -> list[Reading]:
        """Decode everything, in one process at a time."""
        size = math.prod(self.shape) if self.keep_pixels else 0
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
                f"the cache of decoded images, {_size(size)}, cannot be written to "
                f"{self._home} ({error.strerror or error}). Make room there, name another folder "
                "with --data.cache, or decode anew at each step with --data.cache off"
            ) from error
        return readings

    def _require_room(self, size: int) -> None:
        free = shutil.disk_usage(self._home).free
        if size > free:
            raise DataError(
                f"the cache of {len(self.files):,} decoded images takes {_size(size)} and "
                f"{self._home} has {_size(free)} free. Make room there, name another folder "
                "with --data.cache, or decode anew at each step with --data.cache off"
            )

    def _write(self, stamps: str, size: int) -> list[Reading]:
        what = (
            f"{self.name}: reading {len(self.files):,} images at {self.decoder.image_size} pixels"
        )
        self.say(f"{what}, once; {_size(size)} in {self._home}")
        started = time.monotonic()
        for left_over in self._home.glob("*.tmp"):
            left_over.unlink()
        pixels, index = (
            path.with_name(path.name + ".tmp")
            for path in (self._pixel_file(stamps), self._home / INDEX_FILE)
        )
        try:
            readings = self._write_pixels(pixels) if self.keep_pixels else self._decode_all(None)
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
        header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            readings = self._decode_all(path, file.tell())
            os.fsync(file.fileno())
        return readings

    def _decode_all(self, pixels: Path | None, start: int = 0) -> list[Reading]:
        """Decode all files on every core, in processes: threads would wait for each other.

        Args:
            pixels: The file to write to; None keeps what was found alone.
            start: Where in it the first image's pixels begin, in bytes.
        """
        # Here: no other opening of a data set needs it.
        import joblib  # type: ignore[import-untyped]

        tasks = (
            joblib.delayed(self.decoder.store)(
                self.files[first : first + _PART], pixels, start + first * math.prod(self.shape[1:])
            )
            for first in range(0, len(self.files), _PART)
        )
        processes = joblib.cpu_count() if len(self.files) >= _MANY else 1
        # They go when they have been idle for so many seconds: training needs the memory.
        parts = joblib.Parallel(processes, batch_size=1, max_nbytes=None, idle_worker_timeout=10)
        return list(chain.from_iterable(parts(tasks)))


def _size(count: int) -> str:
    """Write a number of bytes for people.

    >>> _size(10_321_920), _size(1_505_280_000)
    ('10.3 MB', '1.51 GB')
    """
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


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
        return self._cache.shape

    def read(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        paths = [self._cache.files[number] for number in numbers]
        pixels = [np.empty((0, *self.shape[1:]), np.uint8)]
        for path, decoded in zip(paths, self._cache.decoder(paths, self._pool), strict=True):
            if decoded.reading.error:
                raise DataError(
                    f"{path} can no longer be read ({decoded.reading.error}); it could when the "
                    "data set was opened. Bring it back, and go on with --resume"
                )
            pixels.append(decoded.pixels[None])
        return np.concatenate(pixels)
