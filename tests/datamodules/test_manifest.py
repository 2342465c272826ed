"""A table of images: which column is the environment, what splits it, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.manifest import Manifest
from tests.folders import image, write_manifest

Rows = list[dict[str, str]]


def rows_of(folder: Path) -> Rows:
    """Twelve X-rays of two hospitals by three cameras, each written to its file."""
    rows = []
    for number in range(12):
        path = f"scans/{number:02}.png"
        (folder / "scans").mkdir(exist_ok=True)
        image(number).save(folder / path)
        row = {"path": path, "label": ("healthy", "ill")[number % 2]}
        row |= {"environment": f"batch{number // 4}", "hospital": str(number % 4 // 2)}
        rows.append(row)
    return rows


def make(file: Path, **options) -> Manifest:
    given = {"test_envs": [0], "image_size": 8, "cache": str(file.parent / "cache"), **options}
    data = Manifest(manifest=str(file), **given)
    data.setup()
    return data


def test_rows_are_images_of_environments_and_classes(tmp_path):
    rows = rows_of(tmp_path)
    data = make(write_manifest(tmp_path / "a.csv", rows[::-1]))
    assert data.environment_names == ("batch0", "batch1", "batch2")
    assert data.class_names == ("healthy", "ill")
    listed = [(s.name, s.label) for s in data.samples(1)]
    assert listed == [(row["path"], row["label"]) for row in rows[4:8]]
    assert data.environment(1).targets.tolist() == [0, 1, 0, 1]


def test_any_column_tells_environments_apart_and_a_number_is_no_index(tmp_path):
    rows = rows_of(tmp_path)
    data = make(write_manifest(tmp_path / "a.csv", rows), environment_column="hospital")
    assert data.environment_names == ("hospital_0", "hospital_1")
    expected = [row["path"] for row in rows if row["hospital"] == "1"]
    assert [sample.name for sample in data.samples(1)] == expected


@pytest.mark.parametrize(("main", "holdout"), [("main", "holdout"), ("Train", "VAL")])
def test_a_split_column_decides_the_splits(main, holdout, tmp_path):
    rows = rows_of(tmp_path)
    for number, row in enumerate(rows):
        row["split"] = holdout if number % 4 == 3 else main
    data = make(write_manifest(tmp_path / "a.csv", rows), data_seed=5)
    for index in range(3):
        assert data.split_indices(index, "main").tolist() == [0, 1, 2]
        assert data.split_indices(index, "holdout").tolist() == [3]


def test_paths_begin_at_the_table_or_at_a_root_or_nowhere(tmp_path):
    rows = rows_of(tmp_path)
    (tmp_path / "tables").mkdir()
    file = write_manifest(tmp_path / "tables" / "a.csv", rows)
    assert make(file, root=str(tmp_path)).samples(0)[0].path == tmp_path / rows[0]["path"]
    with pytest.raises(DataError, match=r"batch0 has 4 files that cannot be read.*00\.png"):
        make(file)
    for row in rows:
        row["path"] = str(tmp_path / row["path"])
    assert make(write_manifest(file, rows)).samples(0)[0].path == tmp_path / "scans" / "00.png"


def test_where_files_are_decides_nothing(tmp_path):
    fingerprints = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        data = make(write_manifest(tmp_path / place / "a.csv", rows_of(tmp_path / place)))
        fingerprints.add(data.fingerprint)
    assert len(fingerprints) == 1


def without(column: str):
    return lambda rows: [{k: v for k, v in row.items() if k != column} for row in rows]


def changed(number: int, **values: str):
    return lambda rows: [row | (values if n == number else {}) for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("label"), r"has the columns \['path'.*lacks \['label'\]; rename"),
        (without("environment"), r"lacks \['environment'\].*--data\.environment_column"),
        (changed(2, label=" "), "line 4, has no label; give every row a value"),
        (changed(2, environment="", path=""), "line 4, has no path, environment"),
        (changed(5, path="./scans/../scans/01.png"), "lines 3 and 7, names scans/01.png twice"),
        (lambda rows: rows[:4], "names 1 environments in its column 'environment'"),
        (lambda rows: [row | {"split": "test"} for row in rows], "has the split 'test'; say one"),
        (lambda rows: [row | {"label": "ill"} for row in rows], "one class only, 'ill'"),
        (changed(3, path="scans/nowhere.png"), r"cannot be read as images.*nowhere\.png"),
    ],
)
def test_what_is_no_such_table_is_refused_with_its_line(change, message, tmp_path):
    file = write_manifest(tmp_path / "a.csv", change(rows_of(tmp_path)))
    with pytest.raises(DataError, match=message):
        make(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; its first line names the columns path, label, environment"),
        (b"path;label;environment\na.png;x;y\n", "one column, 'path;label;env.*; put commas"),
        (b"path\tlabel\tenvironment\na.png\tx\ty\n", "put commas between values"),
        (b"path,label,environment\na, b.png,x,y\n", "line 2, has more values than there are col"),
        (b"path,label,environment\n\xff\xfe,x,y\n", "cannot be read as a CSV file in UTF-8"),
        (b'path,label,environment\n"a.png,x,y\n', "cannot be read as a CSV file"),
        (b"path,label,environment\na\0.png,x,y\n", "line 2, holds a NUL character"),
        (b"path,label,label,environment\na.png,x,z,y\n", "several columns of the name label"),
        (b"path,label,environment\n/a.png,x,y\n\na.png,x,z\n", "line 4 and an absolute .* line 2"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, message, tmp_path):
    file = tmp_path / "a.csv"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        make(file)


def test_columns_without_a_name_may_be_several(tmp_path):
    rows = [{**row, " ": "", "  ": ""} for row in rows_of(tmp_path)]
    assert len(make(write_manifest(tmp_path / "a.csv", rows)).environment_names) == 3


def test_a_pipe_is_no_table(tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(DataError, match=r"a\.csv cannot be read .*no regular file"):
        make(tmp_path / "a.csv")


def test_no_table_is_asked_for_and_one_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no table was named.*--data\.manifest"):
        Manifest(test_envs=[0])
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read"):
        make(tmp_path / "nowhere.csv")


def test_a_table_of_a_spreadsheet_begins_with_a_mark_that_is_no_name(tmp_path):
    file = write_manifest(tmp_path / "a.csv", rows_of(tmp_path))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(make(file).environment_names) == 3


def test_spaces_around_values_and_names_of_columns_are_none_of_them(tmp_path):
    spaced = [{f" {k}": f" {v} " for k, v in row.items()} for row in rows_of(tmp_path)]
    assert make(write_manifest(tmp_path / "a.csv", spaced)).fingerprint == (
        make(write_manifest(tmp_path / "b.csv", rows_of(tmp_path))).fingerprint
    )


def test_copies_under_two_names_in_two_splits_spoil_a_benchmark(tmp_path):
    rows = rows_of(tmp_path)
    image(0).save(tmp_path / "scans" / "05.png")
    found = make(write_manifest(tmp_path / "a.csv", rows)).problems()
    (duplicate,) = [problem for problem in found if problem.kind == "duplicate"]
    assert duplicate.spoils
    assert {path.name for path in duplicate.files} == {"00.png", "05.png"}
