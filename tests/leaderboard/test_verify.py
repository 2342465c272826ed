"""What `leaderboard verify` finds: any field of any file of a submission, once it is changed."""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leaderboard import canonical, records, verify
from leaderboard.build import load_board
from leaderboard.errors import RecordError
from leaderboard.pack import pack
from leaderboard.sources import load
from tests.leaderboard.make_submission import close, write_run, write_submission

MAY_BE_ABSENT = {"last.ckpt", "predictions.npz", "status.json", "leaderboard.parquet"}
Mutation = tuple[str, bytes]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("submission")
    write_submission(folder)
    return folder


@pytest.fixture
def submission(untouched, tmp_path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "submission"))


def violations(folder: Path) -> list[str]:
    return [str(found) for found in verify.verify(folder).violations]


def test_an_untouched_submission_has_none_and_says_what_was_checked(untouched):
    report = verify.verify(untouched)
    assert report.violations == ()
    checked, unchecked = " ".join(report.checked), " ".join(report.unchecked)
    assert "4 records: schema" in checked
    assert "4 records: metrics computed again" in checked
    assert "2 rows of 2 trials; held out: -90%, of 3 environments" in checked
    assert "data of colored_mnist: the suite has no fingerprint" in unchecked


# Any field


def changed(value: Any) -> Any:
    """Another value of the same type, as near as there is one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return float(np.nextafter(value, np.inf))
    if isinstance(value, str):
        return f"{value[:-1]}{'1' if value.endswith('0') else '0'}" if value else "0"
    return 0 if value is None else [*value, 0] if isinstance(value, list) else {**value, "x": 0}


def json_mutations(content: Any) -> Iterator[tuple[str, Any]]:
    """The content with each of its leaves changed, and without each of its members."""
    if not content or not isinstance(content, dict | list):
        yield "", changed(content)
        return
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        shorter = content.copy()
        del shorter[key]
        yield f".{key} gone", shorter
        for name, value in json_mutations(content[key]):
            other = content.copy()
            other[key] = value
            yield f".{key}{name}", other


def of_json(data: bytes) -> Iterator[Mutation]:
    for name, content in json_mutations(json.loads(data)):
        yield name, json.dumps(content, sort_keys=True, indent=2).encode()


def of_json_lines(data: bytes) -> Iterator[Mutation]:
    lines = data.splitlines()
    for number, line in enumerate(lines):
        yield f"line {number} gone", b"".join(b"%s\n" % each for each in lines if each != line)
        for name, content in json_mutations(json.loads(line)):
            other = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
            whole = [*lines[:number], other, *lines[number + 1 :]]
            yield f"line {number}{name}", b"".join(b"%s\n" % each for each in whole)


def of_csv(data: bytes) -> Iterator[Mutation]:
    rows = list(csv.reader(io.StringIO(data.decode())))
    for row, cells in enumerate(rows):
        for column, cell in enumerate(cells):
            text = io.StringIO()
            other = [*cells[:column], f"{cell}1", *cells[column + 1 :]]
            csv.writer(text, lineterminator="\n").writerows([*rows[:row], other, *rows[row + 1 :]])
            yield f"row {row}, column {column}", text.getvalue().encode()


def of_text(data: bytes) -> Iterator[Mutation]:
    lines = data.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if line.strip():
            yield f"line {number}", b"".join([*lines[:number], b"1" + line, *lines[number + 1 :]])


def of_archive(data: bytes) -> Iterator[Mutation]:
    arrays = dict(np.load(io.BytesIO(data)))
    for name, values in arrays.items():
        for place in (0, -1):
            other = values.copy()
            flat = other.reshape(-1)
            flat[place] = 1 - flat[place] if "targets" in name else flat[place] + 1
            content = io.BytesIO()
            np.savez(content, **{**arrays, name: other})
            yield f"{name}[{place}]", content.getvalue()


def of_bytes(data: bytes) -> Iterator[Mutation]:
    yield "a byte", bytes([data[0] ^ 1]) + data[1:]


def of_parquet(data: bytes) -> Iterator[Mutation]:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(data))
    rows = table.to_pylist()
    for number, row in enumerate(rows):
        for name, value in row.items():
            other = [*rows[:number], {**row, name: changed_like(table, name, value)}]
            content = io.BytesIO()
            whole = pyarrow.Table.from_pylist([*other, *rows[number + 1 :]], table.schema)
            parquet.write_table(whole, content)
            yield f"row {number}, {name}", content.getvalue()


def changed_like(table: Any, name: str, value: Any) -> Any:
    if value is not None:
        return changed(value)
    kind = str(table.schema.field(name).type)
    return {"string": "x", "bool": True, "int64": 1}.get(kind, 1.0)


KINDS: dict[str, Callable[[bytes], Iterator[Mutation]]] = {
    ".json": of_json,
    ".jsonl": of_json_lines,
    ".csv": of_csv,
    ".md": of_text,
    ".tex": of_text,
    ".html": of_text,
    ".npz": of_archive,
    ".ckpt": of_bytes,
    ".parquet": of_parquet,
}


def mutations(path: Path) -> Iterator[str]:
    """Changes a file in one place after the other, and restores it."""
    data = path.read_bytes()
    for name, content in KINDS[path.suffix](data):
        if content != data:
            path.write_bytes(content)
            yield f"{path.name}: {name}"
    path.unlink()
    if path.name not in MAY_BE_ABSENT:
        yield f"{path.name} is gone"
    path.write_bytes(data)


def test_any_field_of_any_file_is_found_when_it_is_changed(tmp_path, monkeypatch):
    (first, _) = write_submission(tmp_path, trials=1)
    board = load_board([tmp_path])
    expected = verify.expected_files(board)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    of_run = [path for path in files if path.parent == first]  # the other run is like this one
    tables = [path for path in files if "records" not in path.parts]
    assert {path.suffix for path in tables} >= {".md", ".json", ".csv", ".tex", ".html"}
    assert len(of_run) == 6
    tried: Counter[str] = Counter()
    missed = []
    for path in of_run:
        for name in mutations(path):
            tried[path.name] += 1
            missed += [name] if next(verify.findings(tmp_path), None) is None else []
    # The records are whole again, so the tables that they give are always the same.
    monkeypatch.setattr(verify, "expected_files", lambda board: expected)
    for path in tables:
        for name in mutations(path):
            tried[path.name] += 1
            missed += [name] if next(verify.unlike_tables(tmp_path, board), None) is None else []
    assert missed == []
    assert min(tried.values()) >= 1
    assert tried.total() > 1000
    assert next(verify.findings(tmp_path), None) is None


# What follows from something else, found although every hash was written anew


def edit(folder: Path, change: Callable[[dict], None], name: str = "run.json") -> None:
    if name == "run.json":
        content = json.loads((folder / name).read_text())
        change(content)
        records.write_json_atomic(folder / name, content)
    else:
        lines = records.read_checks(folder / name)
        for line in lines:
            change(line)  # type: ignore[arg-type]
        records.rewrite_checks(folder / name, lines)
    close(folder, json.loads((folder / "done.json").read_text())["selected"])


def better(line: dict) -> None:
    line["splits"]["-90%/main"]["accuracy"] = 1.0


def surer(line: dict) -> None:
    line["splits"]["-90%/main"]["nll"] += 2e-6


def calibrated(line: dict) -> None:
    line["splits"]["-90%/main"]["ece"] += 2e-4


def fewer(line: dict) -> None:
    line["splits"]["+80%/holdout"]["n"] -= 1


def odd(line: dict) -> None:
    line["splits"]["+80%/holdout"]["accuracy"] = 0.53


def unmeasured(line: dict) -> None:
    del line["splits"]["+80%/holdout"]


def trained_on_held_out(line: dict) -> None:
    line["train"]["risk/-90%"] = 0.3


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (better, "checks.jsonl", "accuracy is 1.0 in the record"),
        (surer, "checks.jsonl", "nll is"),
        (calibrated, "checks.jsonl", "ece is"),
        (fewer, "checks.jsonl", "has 4 samples, in run.json 5"),
        (odd, "checks.jsonl", "no whole number"),
        (unmeasured, "checks.jsonl", "not measured, which selection rules read"),
        (trained_on_held_out, "checks.jsonl", "a training risk of -90%, which is not trained on"),
        (lambda run: run["settings"].update(steps=150), "run.json", "does not belong to these"),
        (lambda run: run.update(data_fingerprint="0" * 64), "run.json", "data_fingerprint"),
        (
            lambda run: run["environments"][0]["splits"]["main"].update(n=13),
            "run.json",
            "in run.json 13",
        ),
        (lambda run: run["environments"].reverse(), "run.json", "not numbered"),
        (lambda run: run["environments"][2].update(role="train"), "run.json", "role 'train'"),
    ],
)
def test_a_lie_with_new_hashes_is_found_where_something_tells(change, name, message, submission):
    folder = min(path.parent for path in submission.rglob("run.json"))
    edit(folder, change, name)
    assert any(message in found for found in violations(submission)), violations(submission)


def test_another_check_than_the_rule_selects_is_found(submission):
    folder = min(path.parent for path in submission.rglob("run.json"))
    selected = json.loads((folder / "done.json").read_text())["selected"]
    close(folder, {**selected, "train_val": 150 - selected["train_val"]})
    assert any("done.json: selected is" in found for found in violations(submission))


def test_small_differences_of_rounding_are_none(submission):
    def rounded(line: dict) -> None:
        for metrics in line["splits"].values():
            metrics["nll"] += 5e-7
            metrics["brier"] -= 5e-7
            metrics["ece"] += 5e-5

    folder = min(path.parent for path in submission.rglob("run.json"))
    edit(folder, rounded, "checks.jsonl")
    assert not any("predictions" in found for found in violations(submission))


def test_a_trial_that_is_missing_is_named(submission):
    for path in list(submission.rglob("run.json")):
        settings = json.loads(path.read_text())["settings"]
        if (settings["algo"]["name"], settings["trial_seed"]) == ("erm", 0):
            shutil.rmtree(path.parent)
    found = violations(submission)
    assert any("erm: trials 1, but they count from 0" in line for line in found)


def test_an_unfinished_run_is_named(submission):
    folder = min(path.parent for path in submission.rglob("run.json"))
    (folder / "done.json").unlink()
    assert any(f"{folder.name}: interrupted" in found for found in violations(submission))


def test_tables_of_other_records_are_named(submission):
    (submission / "tables" / "other.tex").write_text("x")
    assert violations(submission) == ["tables/other.tex: does not come from these records"]


def test_without_predictions_it_says_so(tmp_path):
    write_submission(tmp_path, trials=1, predictions=False)
    report = verify.verify(tmp_path)
    assert report.violations == ()
    assert any("metrics of 2 records: no predictions" in line for line in report.unchecked)


def test_large_files_may_stay_at_home(submission):
    for path in [*submission.rglob("last.ckpt"), *submission.rglob("predictions.npz")]:
        path.unlink()
    report = verify.verify(submission)
    assert report.violations == ()
    assert any(line.startswith("8 checkpoints") for line in report.unchecked)


def test_other_data_than_the_suites_are_named(submission, monkeypatch):
    monkeypatch.setattr(canonical, "fingerprint", lambda record: "f" * 64)
    found = violations(submission)
    assert len(found) == 4
    assert all("is not ffffffffffff..." in line for line in found)


def test_runs_of_the_same_data_must_have_the_same_fingerprint(tmp_path):
    _, second = (write_run(tmp_path, algorithm, 0) for algorithm in ("erm", "irm"))
    run = json.loads((second / "run.json").read_text())
    run["data_fingerprint"] = "a" * 64
    records.write_json_atomic(second / "run.json", run)
    close(second, json.loads((second / "done.json").read_text())["selected"])
    assert any("in other runs of this data" in found for found in violations(tmp_path))


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_packed_records_are_checked_as_well(untouched, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    shutil.copytree(untouched, tmp_path / "s", ignore=shutil.ignore_patterns("records"))
    pack(load([untouched])[0], tmp_path / "s" / f"records{suffix}")
    assert violations(tmp_path / "s") == []


def test_a_changed_packed_record_is_found(untouched, tmp_path, monkeypatch):
    shutil.copytree(untouched, tmp_path / "s", ignore=shutil.ignore_patterns("records"))
    path = pack(load([untouched])[0], tmp_path / "s" / "records.jsonl")
    lines = path.read_bytes().splitlines(keepends=True)
    missed = []
    for name, content in json_mutations(json.loads(lines[1])):
        path.write_bytes(b"".join([lines[0], json.dumps(content).encode() + b"\n", *lines[2:]]))
        if next(verify.findings(tmp_path / "s"), None) is None:
            missed.append(name)
    assert missed == []


def test_what_is_no_submission_is_refused(tmp_path):
    with pytest.raises(RecordError, match="is no folder"):
        verify.verify(tmp_path / "nowhere")
    assert "no runs in" in violations(tmp_path)[0]


def test_a_damaged_archive_is_one_violation(submission):
    for path in submission.rglob("predictions.npz"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/logits@1.npy", b"no array")
        close(path.parent, json.loads((path.parent / "done.json").read_text())["selected"])
    assert sum("no archive of predictions" in found for found in violations(submission)) == 4
