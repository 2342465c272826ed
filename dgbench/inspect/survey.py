"""What a data set holds, and what in it would spoil a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from datamodules.base import EnvironmentDataModule
from datamodules.environments import SPLITS, Split
from datamodules.problems import Kind as FileKind
from dgbench.inspect import files
from dgbench.inspect.duplicates import (
    Signatures,
    exact_groups,
    near_groups,
    signatures,
)

Kind = FileKind | Literal["empty folder", "empty split", "exact duplicates", "near duplicates"]

_EXAMPLES = 20
_WITHOUT: dict[Split, str] = {
    "main": "nothing can be trained or measured there",
    "holdout": "the rule train_val cannot use them",
}


@dataclass(frozen=True)
class Problem:
    """Something about a data set that its user should know.

    Attributes:
        kind: what it is.
        spoils: whether numbers measured on the data set would mislead.
        message: what was found and what to do about it.
        count: in how many places; 0 if it stands in none.
        examples: the first of these places.
    """

    kind: Kind
    spoils: bool
    message: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Sample:
    """Where a sample stands: environment and index in it, from 0, and its split."""

    environment: int
    split: Split
    index: int


@dataclass(frozen=True)
class Copies:
    """Images that are the same or look alike.

    Attributes:
        samples: the first one of each environment and split.
        count: how many there are in all.
    """

    samples: tuple[Sample, ...]
    count: int


@dataclass(frozen=True)
class Survey:
    """What a data set holds.

    Attributes:
        environments: names.
        classes: names.
        counts: ``(environments, 2, classes)``, samples of each class in main and holdout splits.
        input_shape: of one sample.
        files: what the image files are, such as ``227 x 227 RGB``, and how many of each.
        terms: licence and origin of a known data set.
        fingerprint: of everything.
        fingerprints: of each split, by ``<environment>/<split>``.
        problems: those that spoil a benchmark first.
        exact: images that stand in several environments or splits.
        near: different images in several environments or splits that look alike.
    """

    environments: tuple[str, ...]
    classes: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    input_shape: tuple[int, ...]
    files: dict[str, int]
    terms: dict[str, str]
    fingerprint: str
    fingerprints: dict[str, str]
    problems: tuple[Problem, ...]
    exact: tuple[Copies, ...]
    near: tuple[Copies, ...]

    @property
    def spoilt(self) -> bool:
        """Whether something would spoil a benchmark."""
        return any(problem.spoils for problem in self.problems)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "environments": [
                {
                    "name": name,
                    "splits": {
                        split: dict(zip(self.classes, counts.tolist(), strict=True))
                        for split, counts in zip(SPLITS, table, strict=True)
                    },
                }
                for name, table in zip(self.environments, self.counts, strict=True)
            ],
            "input_shape": list(self.input_shape),
            "files": self.files,
            "terms": self.terms,
            "fingerprint": self.fingerprint,
            "fingerprints": self.fingerprints,
            "problems": [asdict(problem) for problem in self.problems],
            "spoilt": self.spoilt,
        }


def survey(data: EnvironmentDataModule) -> Survey:
    """Goes through a whole data set as evaluation does.

    Args:
        data: the data set.
    """
    read = list(_source_problems(data))
    usable = not any(problem.kind == "unreadable image" for problem in read)
    # What cannot be loaded has no splits yet: then the files alone are surveyed.
    counts = _counts(data) if usable else _no_counts(data)
    exact, near = _duplicates(data) if usable else ([], [])
    problems = [
        *read,
        *(_missing(data, counts) if usable else ()),
        *(_empty(data, counts) if usable else ()),
        *_repeated(data, exact, near),
    ]
    return Survey(
        data.environment_names,
        data.class_names,
        counts,
        data.input_shape,
        files.kinds(data),
        files.terms(data),
        data.fingerprint if usable else "",
        data.fingerprints() if usable else {},
        tuple(sorted(problems, key=lambda problem: not problem.spoils)),
        tuple(exact),
        tuple(near),
    )


def _source_problems(data: EnvironmentDataModule) -> Iterator[Problem]:
    """What the data set itself finds in its files, but for what is surveyed here for all sets."""
    for found in data.problems():
        if found.kind in ("missing class", "duplicate"):
            continue
        where = tuple(map(str, found.files[:_EXAMPLES]))
        yield Problem(found.kind, found.spoils, found.message, len(found.files), where)
    empty = files.empty_folders(data)
    if empty:
        message = "These folders hold no images. Fill them, or take them away."
        yield _problem("empty folder", False, message, [str(folder) for folder in empty])


def _no_counts(data: EnvironmentDataModule) -> npt.NDArray[np.int64]:
    return np.zeros((len(data.environment_names), len(SPLITS), len(data.class_names)), np.int64)


def _counts(data: EnvironmentDataModule) -> npt.NDArray[np.int64]:
    """Samples of each class, ``(environments, 2, classes)``."""
    classes = len(data.class_names)
    return np.array(
        [
            [
                torch.bincount(environment.targets[environment.indices(split)], minlength=classes)
                .numpy()
                .tolist()
                for split in SPLITS
            ]
            for environment in map(data.environment, range(len(data.environment_names)))
        ],
        dtype=np.int64,
    )


def _missing(data: EnvironmentDataModule, counts: npt.NDArray[np.int64]) -> Iterator[Problem]:
    absent = np.argwhere(counts.sum(axis=1) == 0)
    if len(absent):
        yield _problem(
            "missing class",
            True,
            "Some environments lack a class: accuracies of environments then answer different "
            "questions, and what tells environments apart tells classes apart. Leave the class out "
            "everywhere, or the environment.",
            [f"{data.class_names[y]} in {data.environment_names[e]}" for e, y in absent],
        )


def _empty(data: EnvironmentDataModule, counts: npt.NDArray[np.int64]) -> Iterator[Problem]:
    for split, sizes in zip(SPLITS, counts.sum(axis=2).T, strict=True):
        empty = [data.environment_names[e] for e in np.flatnonzero(sizes == 0)]
        if empty:
            message = f"The {split} split of some environments is empty: {_WITHOUT[split]}."
            yield _problem("empty split", split == "main", message, empty)


def _duplicates(data: EnvironmentDataModule) -> tuple[list[Copies], ...]:
    """Images in several places that are the same, and that look alike; none of other inputs."""
    if len(data.input_shape) != 3:
        return [], []
    samples: list[Sample] = []
    parts: list[Signatures] = []
    for environment in range(len(data.environment_names)):
        for split in SPLITS:
            for inputs, _, indices in data.evaluation_batches(environment, split):
                samples += [Sample(environment, split, index) for index in indices.tolist()]
                parts.append(signatures(inputs))
    signed = Signatures.joined(parts)
    # Environments that show the same source images may do so in the same split.
    apart = 0 if data.shares_sources else len(SPLITS)
    places = np.array([SPLITS.index(s.split) + apart * s.environment for s in samples])
    found = exact_groups(signed.digests, places), near_groups(signed, places)
    return tuple([_copies([samples[row] for row in rows]) for rows in groups] for groups in found)


def _copies(samples: Sequence[Sample]) -> Copies:
    first = {(sample.environment, sample.split): sample for sample in reversed(samples)}
    return Copies(tuple(reversed(first.values())), len(samples))


def _repeated(
    data: EnvironmentDataModule, exact: Sequence[Copies], near: Sequence[Copies]
) -> Iterator[Problem]:
    if exact:
        yield _problem(
            "exact duplicates",
            True,
            "The same image stands in several environments or splits: what is trained on is also "
            "measured. Keep one copy.",
            [_listed(data, copies) for copies in exact],
        )
    if near:
        yield _problem(
            "near duplicates",
            False,
            "Images that look alike stand in several environments or splits. Look at them: copies "
            "leak, similar images do not.",
            [_listed(data, copies) for copies in near],
        )


def name_of(data: EnvironmentDataModule, sample: Sample) -> str:
    """What a sample is called: its file, or its environment, split and number."""
    path = files.path_of(data, sample.environment, sample.index)
    if path is not None:
        return f"{path} ({sample.split})"
    return f"{data.environment_names[sample.environment]}/{sample.split} {sample.index}"


def _listed(data: EnvironmentDataModule, copies: Copies) -> str:
    names = " = ".join(name_of(data, sample) for sample in copies.samples)
    more = copies.count - len(copies.samples)
    return f"{names} and {more} more" if more else names


def _problem(kind: Kind, spoils: bool, message: str, where: Sequence[str]) -> Problem:
    return Problem(kind, spoils, message, len(where), tuple(where[:_EXAMPLES]))
