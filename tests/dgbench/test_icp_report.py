"""The command `icp`: a CSV file in, the outcome in words, numbers and a picture out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dgbench.icp import icp
from tests.dgbench.icp.tables import chain, linear, logistic
from tests.dgbench.tiny import command
from tests.test_readme import README, blocks

ICP = ("icp", "--target", "y", "--environment-column", "e")
PNG = b"\x89PNG"


def save(folder: Path, drawn, **columns) -> Path:
    inputs, target, environment = drawn
    named = {f"x{j}": column for j, column in enumerate(inputs.T)}
    names = np.array(["north", "east", "south"])[environment]
    path = folder / "table.csv"
    pd.DataFrame({"e": names, **named, "y": target, **columns}).to_csv(path, index=False)
    return path


@pytest.fixture
def table(tmp_path) -> Path:
    return save(tmp_path, linear(np.random.default_rng(5)))


def test_it_shows_and_writes_what_the_function_says(table, tmp_path):
    code, shown, errors = command(*ICP, "--table", table, "--out", tmp_path / "found")
    assert code == 0, errors
    rows = pd.read_csv(table)
    result = icp(rows[["x0", "x1", "x2"]], rows["y"], rows["e"], variables=["x0", "x1", "x2"])
    assert "Identified: {x0, x1}." in shown
    assert "Accepted sets: {x0, x1}" in shown
    document = json.loads((tmp_path / "found" / "icp.json").read_text())
    assert document == {"target": "y", **json.loads(json.dumps(result.to_dict()))}
    assert (tmp_path / "found" / "icp.png").read_bytes()[:4] == PNG


def test_a_rejection_has_no_estimate_and_a_picture(tmp_path):
    path = save(tmp_path, chain(np.random.default_rng(0), noise_changes=True))
    code, shown, _ = command(*ICP, "--table", path, "--out", tmp_path)
    assert code == 0
    assert "Rejected" in shown
    assert "No set is accepted; the closest is {" in shown
    assert json.loads((tmp_path / "icp.json").read_text())["estimate"] is None
    assert (tmp_path / "icp.png").read_bytes()[:4] == PNG


def test_classes_by_name_and_columns_by_choice(tmp_path):
    inputs, target, environment = logistic(np.random.default_rng(0), shift=2.0)
    drawn = (inputs, np.where(target == 1, "yes", "no"), environment)
    path = save(tmp_path, drawn, note=["some words"] * len(target))
    options = ("--variables", "x0", "x1", "--alpha", "0.01", "--intervals", "simultaneous")
    code, shown, errors = command(*ICP, "--table", path, *options)
    assert code == 0, errors
    assert "calibration" in shown
    assert "98 %" in shown
    assert "x2" not in shown
    code, shown, _ = command(
        *ICP, "--table", path, "--variables", "x0", "x1", "--test", "mean", "--bonferroni", "R"
    )
    assert code == 0
    assert "test mean" in " ".join(shown.split())


def test_constant_columns_and_screens_are_noted(table, tmp_path):
    rows = pd.read_csv(table).assign(one=1.0)
    rows.to_csv(table, index=False)
    code, shown, _ = command(*ICP, "--table", table, "--out", tmp_path)
    assert code == 0
    assert "-inf to inf" in shown
    assert "Note: Some sets are singular" in shown
    code, shown, _ = command(*ICP, "--table", table, "--screen", "lasso", "--keep", "2")
    assert code == 0
    assert "Screened out: x2, one." in shown
    assert "among the variables that the screen kept" in " ".join(shown.split())


def test_without_matplotlib_the_numbers_are_written_and_it_says_so(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, shown, _ = command(*ICP, "--table", table, "--out", tmp_path / "found")
    assert code == 0
    assert "pip install 'dgbench[report]'" in " ".join(shown.split())
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["icp.json"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--table", "nowhere.csv"), ["nowhere.csv", "cannot be read"]),
        (("--target", "yy"), ["no column 'yy'", "x0"]),
        (("--variables", "x0", "y"), ["different columns"]),
        (("--variables", "e"), ["different columns"]),
        (("--variables", "x0", "x0"), ["different columns"]),
        (("--environment-column", "x0", "--variables", "x1", "e"), ["not numbers: e"]),
        (("--alpha", "2"), ["alpha is 2"]),
        (("--test", "calibration"), ["300 different values"]),
        (("--test", "anova"), []),
        (("--screen", "lasso", "--keep", "0"), ["keep is 0"]),
        (("--variabels", "x0"), ["Did you mean --variables"]),
        (("--out", "/proc/nowhere"), ["/proc/nowhere", "cannot be written"]),
    ],
)
def test_misuse_is_one_message(options, expected, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = command(*ICP, "--table", table, *options)
    assert code == 2
    assert "Traceback" not in errors
    for part in expected:
        assert part in errors


def test_a_models_table_shows_its_causes(tmp_path):
    code, shown, errors = command("icp", "--dataset", "irm_sem_fou", "--out", tmp_path)
    assert code == 0, errors
    assert "Direct causes by construction: {x1, x2, x3, x4, x5}." in shown
    document = json.loads((tmp_path / "icp.json").read_text())
    assert document["estimate"] == ["x1", "x2", "x3", "x4", "x5"]
    code, _, errors = command("icp", "--dataset", "irm_sem_pes", "--data-seed", "1", "--seed", "2")
    assert code == 2
    assert "--seed 2" in errors


def test_a_data_sets_views_are_tested_as_groups_on_independent_rows(tmp_path):
    options = ("--test-env", "2", "--alpha", "1e-4", "--out", tmp_path)
    code, shown, errors = command("icp", "--dataset", "colored_mnist", *options)
    assert code == 0, errors
    assert "2668 rows in 2" in shown
    assert "No intervals: the test fits no coefficient" in shown
    found = json.loads((tmp_path / "icp.json").read_text())
    accepted = [one["variables"] for one in found["sets"] if one["accepted"]]
    assert accepted == [[], ["shape"]]
    assert found["intervals"] is None


def test_a_data_set_knows_its_columns():
    code, _, errors = command("icp", "--dataset", "colored_mnist", "--target", "y")
    assert code == 2
    assert "are for --table" in errors
    code, _, errors = command("icp", "--dataset", "irm_sem_fuo")
    assert code == 2
    assert "irm_sem_fou" in errors
    assert command("icp", "--table", "table.csv")[0] == 2
    assert command("icp", "--table", "table.csv", "--data-seed", "1")[0] == 2


def test_a_table_without_rows_is_named(table):
    table.write_text("e,x0,y\n")
    code, _, errors = command(*ICP, "--table", table)
    assert code == 2
    assert "no rows" in errors


def test_a_missing_value_is_named(table):
    rows = pd.read_csv(table)
    rows.loc[17, "x1"] = np.nan
    rows.to_csv(table, index=False)
    code, _, errors = command(*ICP, "--table", table)
    assert code == 2
    assert "x1 (1 rows, the first is row 18 below the header)" in errors


def test_the_readme_shows_what_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = [block for block in blocks("python") if "farms.csv" in block]
    exec(example, {})
    (line,) = [line for block in blocks("bash") for line in block.splitlines() if " icp " in line]
    code, shown, errors = command(*line.split()[3:])
    assert code == 0, errors
    printed = shown[: shown.index("Written:")]
    assert "\n".join(text.rstrip() for text in printed.splitlines()) in README.read_text()
