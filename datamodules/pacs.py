"""PACS: photos, art paintings, cartoons and sketches of seven things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.image_folder import ImageFolder
from datamodules.problems import some

Splits = Literal["random", "official"]
# The official lists of each environment's training and validation images.
_LISTS = ("train", "crossval")


class PACS(ImageFolder):
    """PACS (Li et al., 2017, https://arxiv.org/abs/1710.03077).

    Seven classes: dog, elephant, giraffe, guitar, horse, house, person. Images are 227x227. Dassl
    leaves `sketch/dog/n02103406_4068-1.png` out as damaged; it is one of the 3,929 that the
    official lists and DomainBed have, and is kept here.

    Args:
        splits: "random": main and holdout are drawn by the data seed, as in DomainBed. "official":
            main is the authors' training list and holdout their validation list, which leave
            nothing out (`art_painting_train_kfold.txt` and so on, in the folder of the environments
            or beside it). An image's class is its folder's: the lists' labels, which count from 1,
            are not read.
        **folder: Options of an image folder, see `ImageFolder`.

    Raises:
        DataError: If an option is out of its range, environments or lists are missing, or the
            lists do not fit the images.
    """

    environment_names = ("art_painting", "cartoon", "photo", "sketch")
    environment_aliases: Mapping[str, str] = {
        "A": "art_painting",
        "C": "cartoon",
        "P": "photo",
        "S": "sketch",
    }
    environment_spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "art_painting": ("art_painting", "art", "A"),
        "cartoon": ("cartoon", "C"),
        "photo": ("photo", "P"),
        "sketch": ("sketch", "S"),
    }
    tree_names = ("PACS", "kfold")
    expected_counts: ClassVar[Mapping[str, int]] = {
        "art_painting": 2048,
        "cartoon": 2344,
        "photo": 1670,
        "sketch": 3929,
    }
    class_count = 7
    contents = "9,991 images"
    licence = "none stated"
    obtained_from = (
        "PACS is linked from its authors' page, https://dali-dl.github.io/project_iccv2017.html."
    )

    def __init__(self, *, splits: Splits = "random", **folder: Any) -> None:
        if splits not in get_args(Splits):
            raise DataError(f"splits is {splits!r}; choose one of {get_args(Splits)}")
        self.splits = splits
        super().__init__(**folder)

    def parameters(self) -> dict[str, Any]:
        """Return the options that decide the data beside the data seed, as plain JSON values."""
        return {**super().parameters(), "splits": self.splits}

    def split(self, index: int) -> tuple[Tensor, Tensor]:
        """Cut an environment into main and holdout.

        Args:
            index: Which one, from 0.
        """
        if self.splits == "random":
            return super().split(index)
        places = {sample.name: number for number, sample in enumerate(self.samples(index))}
        environment = self.samples(index)[0].path.parents[1]
        lists = [self._listed(environment, self.environment_names[index], name) for name in _LISTS]
        listed = [name for names in lists for name in names]
        wrong = {
            "images are in no list": sorted(set(places) - set(listed)),
            "names have no image": sorted(set(listed) - set(places)),
            "are listed twice": [name for name, count in Counter(listed).items() if count > 1],
        }
        found = [f"{len(names)} {what} ({some(names)})" for what, names in wrong.items() if names]
        if found:
            raise DataError(
                f"the official lists of {self.environment_names[index]} do not fit its images: "
                f"{'; '.join(found)}. Use the complete data set, or --data.splits random"
            )
        main, holdout = (torch.tensor(sorted(places[name] for name in names)) for names in lists)
        return main, holdout

    def _listed(self, environment: Path, name: str, part: str) -> list[str]:
        """Names in one of the authors' lists, lines of `environment/class/file label`."""
        file = f"{name}_{part}_kfold.txt"
        tree = environment.parent
        folders = [tree, *tree.glob("*/"), tree.parent, *tree.parent.glob("*/")]
        found = next((folder / file for folder in folders if (folder / file).is_file()), None)
        if found is None:
            raise DataError(
                f"PACS's official list {file} is not there: looked in {tree}, {tree.parent} and "
                "their sub-folders. Copy the lists there, or use --data.splits random"
            )
        lines = found.read_text(encoding="utf-8", errors="backslashreplace").split("\n")
        return [line.rsplit(" ", 1)[0].split("/", 1)[-1] for line in lines if line.strip()]
