"""The files behind a data set of images; data sets that are generated have none."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from datamodules.base import EnvironmentDataModule
from datamodules.image_folder import ImageFolder


def path_of(data: EnvironmentDataModule, environment: int, sample: int) -> Path | None:
    """The file of a sample.

    Args:
        data: the data set.
        environment: its index.
        sample: the sample's index in it.
    """
    return data.samples(environment)[sample].path if isinstance(data, ImageFolder) else None


def kinds(data: EnvironmentDataModule) -> dict[str, int]:
    """Sizes and modes of the files that can be read, the most frequent first.

    Args:
        data: the data set.
    """
    if not isinstance(data, ImageFolder):
        return {}
    found = Counter(
        f"{reading.width} x {reading.height} {reading.mode}"
        for index in range(len(data.environment_names))
        for reading in data.readings(index)
        if not reading.error
    )
    return dict(found.most_common())


def terms(data: EnvironmentDataModule) -> dict[str, str]:
    """The licence of a known data set, and where to get it; nothing of others.

    Args:
        data: the data set.
    """
    if not isinstance(data, ImageFolder) or not data.licence:
        return {}
    return {"licence": data.licence, "obtained_from": data.obtained_from}


def empty_folders(data: EnvironmentDataModule) -> list[Path]:
    """Folders that stand where classes do and hold no images.

    Args:
        data: the data set.
    """
    if not isinstance(data, ImageFolder):
        return []
    empty = []
    for index in range(len(data.environment_names)):
        samples = data.samples(index)
        known = {sample.label for sample in samples}
        if samples[0].path.as_posix().endswith(f"/{samples[0].label}/{samples[0].path.name}"):
            home = Path(samples[0].path.as_posix().removesuffix(samples[0].name))
            with os.scandir(home) as entries:
                empty += [
                    Path(entry.path)
                    for entry in entries
                    if entry.is_dir() and entry.name not in known and entry.name[0] not in "._"
                ]
    return sorted(empty)
