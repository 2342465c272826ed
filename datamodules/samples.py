"""The image files of a data set, found in folders without being read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from datamodules.environments import Split
from datamodules.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass(frozen=True)
class Sample:
    """One image of an environment.

    Attributes:
        path: The file.
        name: What the fingerprint calls it: its path below the environment.
        label: Name of its class.
        split: The split it belongs to where the data set says so, None where a draw decides.
    """

    path: Path
    name: str
    label: str
    split: Split | None = None


def folders(folder: Path) -> list[Path]:
    """Sub-folders of a folder, in order of names, without what is hidden.

    Args:
        folder: Which one; there are none in one that is not there.

    Raises:
        DataError: If it cannot be read.
    """
    return [Path(entry.path) for entry in _entries(folder) if _is_folder(entry)]


def with_images(folder: Path) -> list[Path]:
    """Sub-folders that hold sub-folders that hold images, at any depth; no link back up.

    Args:
        folder: Where to look.

    Raises:
        DataError: If a folder cannot be read.
    """
    return [
        environment
        for environment in folders(folder)
        if not folder.resolve().is_relative_to(environment.resolve())
        and any(next(_images_below(label), None) for label in folders(environment))
    ]


def samples_of(environment: Path) -> Iterator[Sample]:
    """The images of an environment, class by class, in order of their names.

    Args:
        environment: Its folder, whose sub-folders are the classes.

    Raises:
        DataError: If a folder cannot be read.
    """
    for folder in folders(environment):
        found = sorted(_images_below(folder), key=lambda path: path.as_posix())
        for path in found:
            yield Sample(path, path.relative_to(environment).as_posix(), folder.name)


def _images_below(folder: Path, seen: set[tuple[int, int]] | None = None) -> Iterator[Path]:
    """Image files below a class's folder, each folder gone through once.

    A link back up, to the environment or the root, leads to other classes' images: not followed.
    """
    if seen is None:
        seen = {_identity(folder.parent), _identity(folder.parent.parent)}
    identity = _identity(folder)
    if identity in seen:
        return
    seen.add(identity)
    for entry in _entries(folder):
        if _is_folder(entry):
            yield from _images_below(Path(entry.path), seen)
        elif entry.name.lower().endswith(SUFFIXES):
            yield Path(entry.path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, in order of names, without what is hidden."""
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith((".", "__"))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _unreadable(folder, error) from error
    return sorted(shown, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    """What two paths of one folder have in common."""
    try:
        state = folder.stat()
    except OSError as error:
        raise _unreadable(folder, error) from error
    return state.st_dev, state.st_ino


def _unreadable(folder: Path, error: OSError) -> DataError:
    return DataError(
        f"the folder {folder} cannot be read ({error.strerror}). Give access to it, or name "
        "another with --data.root"
    )
