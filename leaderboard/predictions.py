"""Saved predictions: the logits behind a record's metrics, so that anybody can measure them again.

`predictions.npz` is numpy's archive, uncompressed. Of every split `<environment>/<main or holdout>`
it has `<split>/indices` and `<split>/targets`, `(n,)` int64, and for each check whose weights the
run kept, `<split>/logits@<step>`, `(n, k)` float32; float64 where the run was trained in it.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from leaderboard.errors import RecordError
from leaderboard.records import replace


class Predictions(NamedTuple):
    """What a network said of one split at one check.

    Attributes:
        split: `<environment>/<main or holdout>`.
        step: Of the check.
        logits: `(n, k)` float.
        targets: `(n,)` integer, in 0..k-1.
        indices: `(n,)` integer, the samples' numbers inside their environment.
    """

    split: str
    step: int
    logits: npt.NDArray[np.floating[Any]]
    targets: npt.NDArray[np.integer[Any]]
    indices: npt.NDArray[np.integer[Any]]


class PredictionsWriter:
    """Writes an archive split by split, and puts it in its place when it is whole."""

    def __init__(self, path: Path) -> None:
        """Begins a hidden file beside `path`.

        Args:
            path: The archive; what was there stays until the new one is whole.
        """
        self._path = path
        self._temporary = path.with_name(f".{path.name}.tmp")
        self._archive = zipfile.ZipFile(self._temporary, "w")
        self._written: set[str] = set()

    def add(self, predictions: Predictions) -> None:
        """Writes one split at one check; targets and indices only once a split."""
        name = f"{predictions.split}/logits@{predictions.step}"
        self._add(name, predictions.logits)
        self._add(f"{predictions.split}/targets", predictions.targets)
        self._add(f"{predictions.split}/indices", predictions.indices)

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Puts the archive in its place; after an exception, leaves nothing of it."""
        self._archive.close()
        if error is not None:
            self._temporary.unlink()
            return
        with open(self._temporary, "rb") as file:
            os.fsync(file.fileno())
        replace(self._temporary, self._path)

    def _add(self, name: str, values: npt.NDArray[Any]) -> None:
        if name not in self._written:
            self._written.add(name)
            # A ZipInfo of its own has no time of day in it: the same run leaves the same bytes.
            with self._archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def read_predictions(path: Path) -> Iterator[Predictions]:
    """Go through an archive, one split at one check at a time, in the order of writing.

    Raises:
        RecordError: it is no such archive, or an array that it must have is missing or of a wrong
            shape.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                split, _, step = name.rpartition("/logits@")
                if split:
                    targets, indices = archive[f"{split}/targets"], archive[f"{split}/indices"]
                    found = Predictions(split, int(step), archive[name], targets, indices)
                    _refuse_other_shapes(found)
                    yield found
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        raise RecordError(f"{path.name}: no archive of predictions ({error})") from error


def _refuse_other_shapes(found: Predictions) -> None:
    if found.logits.ndim != 2 or not (
        found.targets.shape == found.indices.shape == found.logits.shape[:1]
    ):
        raise ValueError(
            f"{found.split}: logits {found.logits.shape}, targets {found.targets.shape}, indices "
            f"{found.indices.shape}"
        )
