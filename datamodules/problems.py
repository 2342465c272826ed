"""What is wrong with a data set, found while reading it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from datamodules.decoding import Reading
from datamodules.samples import Sample

Kind = Literal[
    "unreadable image",
    "truncated image",
    "missing class",
    "lone image",
    "count",
    "duplicate",
]

# Files and samples that a message names before it says how many more there are.
_NAMED = 5


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, or not as expected.

    Attributes:
        kind: What kind of thing.
        message: What it is and, where something can be done, what to do.
        files: The files concerned, if it is about files.
        spoils: Whether numbers of a benchmark on these data mean something else than they say.
    """

    kind: Kind
    message: str
    files: tuple[Path, ...] = ()
    spoils: bool = False


class Listing(NamedTuple):
    """Files that stand together.

    Attributes:
        name: An environment, or a split of one: `<environment>/<main or holdout>`.
        samples: The files.
        readings: What reading each of them found.
    """

    name: str
    samples: Sequence[Sample]
    readings: Sequence[Reading]


def count_problems(counts: Mapping[str, int], expected: Mapping[str, int]) -> Iterator[Problem]:
    """Environments that have more or fewer images than a known data set.

    Args:
        counts: Images of each environment.
        expected: The same of the known data set; of those it names.
    """
    for name, count in expected.items():
        if counts[name] != count:
            yield Problem(
                "count", f"{name} has {counts[name]:,} images where {count:,} are expected."
            )


def class_problems(name: str, samples: Sequence[Sample], classes: Sequence[str]) -> list[Problem]:
    """Classes of which an environment has no image, or one.

    Args:
        name: The environment.
        samples: Its files.
        classes: Names of all classes of the data set.
    """
    counts = Counter(sample.label for sample in samples)
    missing = [label for label in classes if not counts[label]]
    lone = [label for label, count in counts.items() if count == 1]
    found = []
    if missing:
        message = (
            f"{name} has no images of {some(missing)}; other environments do, and the class keeps "
            "its number."
        )
        found.append(Problem("missing class", message))
    if lone:
        message = (
            f"{name} has a single image of {some(lone)}: it stands in one split, and the other has "
            "none."
        )
        found.append(Problem("lone image", message))
    return found


def file_problems(environment: Listing) -> list[Problem]:
    """Files of an environment that cannot be read, or end too soon."""
    pairs = list(zip(environment.samples, environment.readings, strict=True))
    unreadable = [(sample.path, reading.error) for sample, reading in pairs if reading.error]
    truncated = [sample for sample, reading in pairs if reading.truncated and not reading.error]
    found = []
    if unreadable:
        message = (
            f"{environment.name} has {_counted(unreadable, 'file')} that cannot be read as images: "
            f"{some([f'{path} ({error})' for path, error in unreadable])}."
        )
        files = tuple(path for path, _ in unreadable)
        found.append(Problem("unreadable image", message, files, spoils=True))
    if truncated:
        message = (
            f"{environment.name} has {_counted(truncated, 'file')} with a missing end, shown grey: "
            f"{some([sample.name for sample in truncated])}."
        )
        files = tuple(sample.path for sample in truncated)
        found.append(Problem("truncated image", message, files))
    return found


def duplicates(splits: Iterable[Listing]) -> Iterator[Problem]:
    """Files of the same content in more than one split, of one environment or of several."""
    where: dict[str, dict[str, Sample]] = defaultdict(dict)
    for split in splits:
        for sample, reading in zip(split.samples, split.readings, strict=True):
            where[reading.sha256].setdefault(split.name, sample)
    shared: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for sha256, copies in where.items():
        if sha256 and len(copies) > 1:
            shared[tuple(copies)] += copies.values()
    for names, samples in shared.items():
        yield Problem(
            "duplicate",
            f"{', '.join(names)} share {_counted(samples[:: len(names)], 'image')}, byte for byte: "
            f"{some([sample.name for sample in samples])}.",
            tuple(sample.path for sample in samples),
            spoils=True,
        )


def _counted(things: Sequence[object], what: str) -> str:
    return f"{len(things):,} {what}{'' if len(things) == 1 else 's'}"


def some(things: Sequence[object]) -> str:
    """Name a few things, and how many more there are; bytes and breaks that are no text as such.

    >>> some(range(8))
    '0, 1, 2, 3, 4 and 3 more'
    """
    texts = ("\\n".join(str(thing).splitlines()) for thing in things[:_NAMED])
    named = ", ".join(texts).encode(errors="backslashreplace").decode()
    more = len(things) - _NAMED
    return f"{named} and {more} more" if more > 0 else named
