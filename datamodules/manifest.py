"""A table of images as a data set: any of its columns can tell environments apart."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from datamodules.environments import Split
from datamodules.errors import DataError
from datamodules.image_folder import ImageFolder, as_name
from datamodules.problems import some
from datamodules.regular_files import open_regular
from datamodules.samples import Sample

# What a `split` column may say; "test" is no part of training data, so it is not here.
_SPLITS: dict[str, Split] = {
    "main": "main",
    "train": "main",
    "holdout": "holdout",
    "val": "holdout",
    "validation": "holdout",
}


class Manifest(ImageFolder):
    """A table of your own: a CSV file with the columns path, label, environment, maybe split.

    Environments are the values of a column in alphabetical order, such as hospital, camera or
    demographic group; one that is a number is called `<column>_<number>`, as plain numbers are
    indices. Images are treated as those of an image folder are.

    Args:
        manifest: The CSV file, in UTF-8 with a header line. A `split` column says main (or train)
            or holdout (or val, validation) in every row; without one a draw decides.
        environment_column: The column that names a row's environment.
        root: The folder that paths begin in; by default that of the CSV file.
        **folder: Options of an image folder, see `ImageFolder`.

    Raises:
        DataError: If an option is out of its range, or the file lacks columns or values.
    """

    contents = "your own images"
    location_options = ("manifest", "root", "cache")

    def __init__(
        self,
        *,
        manifest: str | None = None,
        environment_column: str = "environment",
        root: str | None = None,
        **folder: Any,
    ) -> None:
        self.manifest = manifest
        self.environment_column = environment_column
        super().__init__(root=root, **folder)

    def parameters(self) -> dict[str, Any]:
        """Return the options that decide the data beside the data seed, as plain JSON values."""
        return {**super().parameters(), "environment_column": self.environment_column}

    def list_samples(self) -> dict[str, list[Sample]]:
        """Read the table.

        Returns:
            Environments in alphabetical order, each with its samples in order of their paths.

        Raises:
            DataError: If it is no such table.
        """
        if self.manifest is None:
            raise DataError(
                "no table was named; give a CSV file with the columns path, label and "
                f"{self.environment_column} with --data.manifest"
            )
        file = Path(self.manifest).expanduser()
        folder = file.parent if self.root is None else Path(self.root).expanduser()
        listed: dict[str, list[Sample]] = defaultdict(list)
        seen: dict[str, int] = {}
        absolute: dict[bool, int] = {}
        for line, row in self._rows(file):
            path = Path(os.path.normpath(row["path"])).as_posix()
            absolute.setdefault(os.path.isabs(path), line)
            if len(absolute) > 1:
                raise DataError(
                    f"{file} gives a relative path in line {absolute[False]} and an absolute one "
                    f"in line {absolute[True]}, so that one image could stand there twice; give "
                    "all paths in one way"
                )
            if seen.setdefault(path, line) != line:
                raise DataError(
                    f"{file}, lines {seen[path]} and {line}, names {path} twice; give each image "
                    "to one split of one environment"
                )
            name = as_name(self.environment_column, row[self.environment_column])
            listed[name].append(Sample(folder / path, path, row["label"], _split(file, line, row)))
        if len(listed) < 2:
            raise DataError(
                f"{file} names {len(listed)} environments in its column "
                f"{self.environment_column!r}; two or more are needed. Choose another column with "
                "--data.environment_column"
            )
        return {name: sorted(listed[name], key=lambda s: s.name) for name in sorted(listed)}

    def _rows(self, file: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Go through the table's rows, with their line numbers; values are stripped."""
        needed = ("path", "label", self.environment_column)
        try:
            with TextIOWrapper(open_regular(file), encoding="utf-8-sig", newline="") as lines:
                reader = csv.DictReader(lines, strict=True)
                columns = [name.strip() for name in reader.fieldnames or []]
                reader.fieldnames = columns
                self._check_columns(file, columns, needed)
                for row in reader:
                    if None in row:
                        raise DataError(
                            f"{file}, line {reader.line_num}, has more values than there are "
                            "columns; put values that hold commas in quotes"
                        )
                    values = {key: (row[key] or "").strip() for key in columns}
                    empty = [name for name in needed if not values[name]]
                    if empty:
                        raise DataError(
                            f"{file}, line {reader.line_num}, has no {', '.join(empty)}; give "
                            "every row a value, or take it out"
                        )
                    if any("\0" in value for value in values.values()):
                        raise DataError(
                            f"{file}, line {reader.line_num}, holds a NUL character, which no path "
                            "and no name can have; take it out"
                        )
                    yield reader.line_num, values
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{file} cannot be read as a CSV file in UTF-8 ({error}). Name another with "
                "--data.manifest"
            ) from error

    def _check_columns(self, file: Path, columns: list[str], needed: tuple[str, ...]) -> None:
        """Raise DataError for a first line that leaves open which value is which."""
        if not columns:
            raise DataError(
                f"{file} is empty; its first line names the columns {', '.join(needed)} and maybe "
                "split, and the others are images"
            )
        if len(columns) == 1 and re.search(r"[;\t]", columns[0]):
            raise DataError(
                f"{file} has one column, {columns[0]!r}; put commas between values, in place of "
                "semicolons or tabs"
            )
        lacking = [name for name in needed if name not in columns]
        if lacking:
            raise DataError(
                f"{file} has the columns {columns} and lacks {lacking}; rename them, or name the "
                "environments' with --data.environment_column"
            )
        doubled = [name for name, count in Counter(filter(None, columns)).items() if count > 1]
        if doubled:
            raise DataError(
                f"{file} has several columns of the name {some(doubled)}; rename all but one of "
                "each, or take them out"
            )


def _split(file: Path, line: int, row: Mapping[str, str]) -> Split | None:
    """Which split a row belongs to, None where there is no such column."""
    if "split" not in row:
        return None
    given = row["split"]
    if given.lower() not in _SPLITS:
        raise DataError(
            f"{file}, line {line}, has the split {given!r}; say one of {', '.join(_SPLITS)}, or "
            "leave the column out to have splits drawn. Images that no training may see belong in "
            "an environment of their own"
        )
    return _SPLITS[given.lower()]
