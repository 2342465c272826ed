"""A folder of images as a data set: an environment is a sub-folder, and a class one of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.augmentation import RECIPES, Recipe
from datamodules.base import EnvironmentDataModule
from datamodules.decoding import Decoder, Reading, Truncated
from datamodules.environments import (
    SPLITS,
    EnvironmentData,
    check_holdout_fraction,
    split_main_holdout,
)
from datamodules.errors import DataError
from datamodules.image_cache import ImageCache
from datamodules.images import Images, Pixels
from datamodules.locations import home, places
from datamodules.preprocessing import Preprocessing
from datamodules.problems import (
    Listing,
    Problem,
    class_problems,
    count_problems,
    duplicates,
    file_problems,
    some,
)
from datamodules.samples import SUFFIXES, Sample, folders, samples_of, with_images


class ImageFolder(EnvironmentDataModule):
    """A folder of your own: ROOT/<environment>/<class>/**/*.jpg (png, webp, bmp, ...).

    Environments are the sub-folders in alphabetical order; one whose name is a number is called
    `environment_<number>`, as plain numbers are indices. Classes are matched by their folders'
    names: a class that an environment lacks keeps its number everywhere, and is reported. Files
    and folders whose names begin with a dot or two underscores are left out; links are followed,
    each folder once.

    An image is turned upright by its EXIF, converted to RGB (of 16 bits the upper 8 are kept,
    transparency is dropped) and squeezed to a square, as in DomainBed. This happens once: the
    pixels are kept in a memory-mapped file. A file that cannot be read ends the run before it
    starts, with its path.

    Deviations from DomainBed: crops are taken of the squeezed image in place of the file's own
    pixels, with the same law of place and proportions; its loader ignores EXIF; holdout splits of
    training environments are not augmented.

    Args:
        root: The folder of the environments, or its parent.
        image_size: Height and width of an input in pixels.
        augmentation: What happens to training images: "domainbed" crops, mirrors, jitters colours
            and takes them away (see `Augmentation`), "none" nothing.
        holdout_fraction: Share of an environment's samples in its holdout split, in [0, 1).
        cache: Where decoded images are kept: a folder, "auto" for ~/.cache/dgbench/images, or "off"
            to decode each image each time it is used, for sets that fit no disk.
        truncated: What to do with a file whose end is missing: "refuse" it as unreadable, or
            "load" what there is, as DomainBed does.
        **run: Options of every data set, see `EnvironmentDataModule`.

    Attributes:
        environment_spellings: Of a preset, the folder names by which each environment is known.
        tree_names: Of a preset, usual names of the folder that holds the environments.
        expected_counts: Of a preset, the number of images of each environment.
        class_count: Of a preset, the number of classes.
        licence: Of a preset, under which terms its images are available.
        obtained_from: Of a preset, where to get it.

    Raises:
        DataError: If an option is out of its range, or no environments are found.
    """

    contents: str = "your own images"
    generator_version = 1
    location_options: tuple[str, ...] = ("root", "cache")
    environment_spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    tree_names: ClassVar[tuple[str, ...]] = ()
    expected_counts: ClassVar[Mapping[str, int]] = {}
    class_count: ClassVar[int] = 0
    licence: ClassVar[str] = ""
    obtained_from: ClassVar[str] = ""

    def __init__(
        self,
        *,
        root: str | None = None,
        image_size: int = 224,
        augmentation: Recipe = "domainbed",
        holdout_fraction: float = 0.2,
        cache: str = "auto",
        truncated: Truncated = "refuse",
        **run: Any,
    ) -> None:
        check_holdout_fraction(holdout_fraction)
        if image_size < 8:
            raise DataError(f"image_size is {image_size}; give 8 pixels or more")
        if augmentation not in RECIPES:
            raise DataError(f"augmentation is {augmentation!r}; choose one of {tuple(RECIPES)}")
        if truncated not in get_args(Truncated):
            raise DataError(f"truncated is {truncated!r}; choose one of {get_args(Truncated)}")
        self.root = root
        self.image_size = image_size
        self.augmentation = RECIPES[augmentation]
        self.holdout_fraction = holdout_fraction
        self.cache = cache
        self.truncated = truncated
        self.input_shape = (3, image_size, image_size)
        listed = self.list_samples()
        self.environment_names = tuple(listed)
        self._samples = tuple(listed.values())
        self.class_names = tuple(
            sorted({sample.label for samples in self._samples for sample in samples})
        )
        self._check_listing()
        super().__init__(**run)

    def list_samples(self) -> dict[str, list[Sample]]:
        """Find the images of every environment, reading none of them.

        Returns:
            Environments in order, each with its samples in order of their names.

        Raises:
            DataError: If there are none, saying what was looked for and where.
        """
        found = self._preset_folders() if self.environment_spellings else self._own_folders()
        return {name: list(samples_of(folder)) for name, folder in found.items()}

    def samples(self, index: int) -> Sequence[Sample]:
        """Return an environment's samples, by sample index, without reading their files.

        Args:
            index: Which environment, from 0.
        """
        return self._samples[index]

    def readings(self, index: int) -> Sequence[Reading]:
        """Return what reading each of an environment's files found, by sample index.

        Args:
            index: Which environment, from 0.
        """
        start = self._starts[index]
        return self._opened[1][start : start + len(self._samples[index])]

    @property
    def preprocessing(self) -> Preprocessing:
        """RGB, squeezed to the square."""
        size = (self.image_size, self.image_size)
        return Preprocessing("RGB", size, "bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)

    def parameters(self) -> dict[str, Any]:
        """Return the options that decide the data beside the data seed, as plain JSON values."""
        return {
            "image_size": self.image_size,
            "holdout_fraction": self.holdout_fraction,
            "truncated": self.truncated,
            "class_names": list(self.class_names),
        }

    def source_hashes(self) -> dict[str, str]:
        """Return one SHA-256 an environment, of its files' names and hashes."""
        hashes = {}
        for index, environment in enumerate(self.environment_names):
            digest = hashlib.sha256()
            for sample, reading in zip(self.samples(index), self.readings(index), strict=True):
                line = f"{sample.label}\0{sample.name}\0{reading.sha256}\n"
                digest.update(line.encode(errors="surrogateescape"))
            hashes[environment] = digest.hexdigest()
        return hashes

    def load_environment(self, index: int) -> EnvironmentData:
        """Make one environment; its pixels stay in the cache.

        Args:
            index: Which one, from 0.

        Raises:
            DataError: If a file of the data set cannot be read as an image.
        """
        pixels, _ = self._opened
        unreadable = [p for p in self._file_problems() if p.kind == "unreadable image"]
        if unreadable:
            raise DataError(
                " ".join(problem.message for problem in unreadable)
                + " Repair the files or take them out of the folder"
            )
        samples, readings = self.samples(index), self.readings(index)
        numbers = np.arange(len(samples)) + self._starts[index]
        sizes = np.array([(reading.height, reading.width) for reading in readings], np.int64)
        numbered = {name: number for number, name in enumerate(self.class_names)}
        main, holdout = self.split(index)
        return EnvironmentData(
            inputs=Images(pixels, numbers, sizes),
            targets=torch.tensor([numbered[sample.label] for sample in samples]),
            sources=torch.from_numpy(numbers),
            main=main,
            holdout=holdout,
        )

    def split(self, index: int) -> tuple[Tensor, Tensor]:
        """Cut an environment into main and holdout, where its samples do not say it themselves.

        Args:
            index: Which one, from 0.

        Returns:
            Sample indices, int64, ascending.
        """
        samples = self.samples(index)
        if any(sample.split for sample in samples):
            of = [torch.tensor([s.split == split for s in samples]) for split in SPLITS]
            return of[0].nonzero()[:, 0], of[1].nonzero()[:, 0]
        seed = (self.data_seed, "image_folder", "split", self.environment_names[index])
        return split_main_holdout(len(samples), self.holdout_fraction, *seed)

    def problems(self) -> list[Problem]:
        """Say what is wrong or unexpected, reading all files if that has not been done."""
        named = dict(zip(self.environment_names, self._samples, strict=True))
        found = [*count_problems({n: len(own) for n, own in named.items()}, self.expected_counts)]
        classes, expected = len(self.class_names), self.class_count
        if expected and classes != expected:
            text = f"there are {classes} classes where {expected} are expected."
            found.append(Problem("count", text))
        for name, samples in named.items():
            found += class_problems(name, samples, self.class_names)
        return [*found, *self._file_problems(), *duplicates(self._splits())]

    # Finding

    def _own_folders(self) -> dict[str, Path]:
        """Environments of a folder of one's own, by name."""
        if self.root is None:
            raise DataError(
                "no folder was named; give the one whose sub-folders are the environments, "
                "ROOT/<environment>/<class>/*.jpg, with --data.root"
            )
        root = Path(self.root).expanduser()
        found = with_images(root)
        if len(found) == 1:
            # The parent of the folder that was meant.
            found = with_images(found[0])
        if len(found) < 2:
            raise DataError(
                f"{root} holds no two environments: looked for two sub-folders or more with "
                f"<class>/*{SUFFIXES[0]} (or {', '.join(SUFFIXES[1:])}) in them. Name the folder "
                "of the environments with --data.root"
            )
        return {as_name("environment", folder.name): folder for folder in found}

    def _preset_folders(self) -> dict[str, Path]:
        """Environments of a known data set, by name, wherever one of its usual trees is."""
        best: dict[str, Path] = {}
        looked: list[Path] = []
        for place in places(self.root):
            for tree in self._candidates(place):
                looked.append(tree)
                found = self._match(tree)
                if len(found) == len(self.environment_spellings):
                    return found
                best = max(best, found, key=len)
        lacking = [name for name in self.environment_spellings if name not in best]
        there = f" Found {_listed(list(best.values()))}, but not {lacking}." if best else ""
        if self.root is None:
            where = f"folders called {' or '.join(self.tree_names)} in {_listed(places(None))}"
        else:
            where = _listed(looked)
        spellings = "; ".join(" or ".join(names) for names in self.environment_spellings.values())
        raise DataError(
            f"{type(self).__name__} is not there: looked in {where} for "
            f"sub-folders {spellings} (case, spaces and hyphens do not matter).{there} Name the "
            f"folder that holds them, or its parent, with --data.root. {self.obtained_from} "
            f"Licence: {self.licence}."
        )

    def _candidates(self, place: Path) -> Iterator[Path]:
        """Folders that may hold the environments: a place, what is in it, what is in a usual one.

        Of a place that nobody named, folders with a usual name alone: another set may lie there.
        """
        if self.root is not None:
            yield place
        usual = [_normalised(name) for name in self.tree_names]
        known = [folder for folder in folders(place) if _normalised(folder.name) in usual]
        for folder in known:
            yield folder
            yield from folders(folder)
        if self.root is not None:
            yield from (folder for folder in folders(place) if folder not in known)

    def _match(self, tree: Path) -> dict[str, Path]:
        """Environments that a folder holds, under any of their spellings."""
        there = {_normalised(folder.name): folder for folder in folders(tree)}
        return {
            name: there[_normalised(spelling)]
            for name, spellings in self.environment_spellings.items()
            for spelling in reversed(spellings)
            if _normalised(spelling) in there
        }

    def _check_listing(self) -> None:
        """Raise DataError for what no training can be made of."""
        names = [*self.environment_names, *self.class_names]
        undecodable = [name for name in names if name.encode(errors="ignore").decode() != name]
        if undecodable:
            raise DataError(
                f"the folders {some(undecodable)} have names that are not UTF-8, which no record "
                "and no table could show. Rename them; files may keep such names"
            )
        breaking = [name for name in names if re.search(r"[\x00-\x1f\x7f]", name)]
        if breaking:
            raise DataError(
                f"the environments or classes {some(list(map(repr, breaking)))} have names with "
                "line breaks or other control characters, which no table could show. Rename them"
            )
        empty = [
            n for n, found in zip(self.environment_names, self._samples, strict=True) if not found
        ]
        if empty:
            raise DataError(
                f"{empty} of {list(self.environment_names)} hold no images, whose names end in "
                f"{', '.join(SUFFIXES)}. Add some, or take the folder away"
            )
        if len(self.class_names) < 2:
            raise DataError(
                f"there is one class only, {self.class_names[0]!r}; expected "
                "ROOT/<environment>/<class>/*.jpg with two classes or more"
            )

    # Reading

    @cached_property
    def _opened(self) -> tuple[Pixels, list[Reading]]:
        """The pixels of all files of all environments, and what reading the files found."""
        folder = home() / "images" if self.cache in ("auto", "off") else Path(self.cache)
        return ImageCache(
            name=re.sub(r"\W+", "_", type(self).__name__).lower(),
            files=[sample.path for samples in self._samples for sample in samples],
            decoder=Decoder(self.image_size, self.truncated),
            folder=folder.expanduser(),
            keep_pixels=self.cache != "off",
            say=lambda sentence: self.say(sentence),
        ).open()

    @cached_property
    def _starts(self) -> list[int]:
        """Number of each environment's first file among those of all."""
        return [0, *np.cumsum([len(samples) for samples in self._samples]).tolist()]

    def _file_problems(self) -> list[Problem]:
        return [
            problem
            for index, name in enumerate(self.environment_names)
            for problem in file_problems(Listing(name, self.samples(index), self.readings(index)))
        ]

    def _splits(self) -> Iterator[Listing]:
        for index, name in enumerate(self.environment_names):
            samples, readings = self.samples(index), self.readings(index)
            for split, indices in zip(SPLITS, self.split(index), strict=True):
                numbers = indices.tolist()
                own = [samples[number] for number in numbers]
                yield Listing(f"{name}/{split}", own, [readings[number] for number in numbers])


def as_name(kind: str, text: str) -> str:
    """Name an environment so that it is told apart from an index.

    Args:
        kind: What it is, such as "hospital".
        text: What it is called.

    >>> as_name("hospital", "3"), as_name("hospital", "north")
    ('hospital_3', 'north')
    """
    return f"{kind}_{text}" if re.fullmatch(r"-?\d+", text) else text


def _listed(folders: Sequence[Path]) -> str:
    return ", ".join(map(str, folders))


def _normalised(name: str) -> str:
    """Write a folder's name so that case, spaces and hyphens do not tell two apart."""
    return re.sub(r"[\s_-]+", "_", name).lower()
