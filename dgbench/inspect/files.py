"""The files behind a data set of images; data sets that are generated have none."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from datamodules.base import EnvironmentDataModule
from datamodules.image_folder import ImageFolder
from datamodules.manifest import Manifest
from datamodules.samples import folders


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
    """Folders that stand where environments or classes do and hold no images.

    Args:
        data: the data set; a table says where its images are, so it has none.
    """
    if not isinstance(data, ImageFolder) or isinstance(data, Manifest):
        return []
    homes: dict[Path, set[str]] = {}
    for index in range(len(data.environment_names)):
        samples = data.samples(index)
        home = Path(samples[0].path.as_posix().removesuffix(samples[0].name))
        homes[home] = {sample.label for sample in samples}
    empty = [
        folder
        for home, known in homes.items()
        for folder in folders(home)
        if folder.name not in known
    ]
    if not data.environment_spellings:
        # Beside the environments of a known data set other things may stand, such as lists.
        tree = next(iter(homes)).parent
        empty += [folder for folder in folders(tree) if folder not in homes]
    return sorted(empty)
