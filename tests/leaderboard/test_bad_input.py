"""Records that are few, broken, strange or many make a board that can be read, or one message."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from leaderboard.board import Board
from leaderboard.build import build, load_board
from leaderboard.details import pack, unpack
from leaderboard.errors import NewerSchemaError, RecordError
from leaderboard.filling import make_board
from leaderboard.outputs import texts
from leaderboard.page import page
from leaderboard.tables import in_order, title
from tests.leaderboard.make_board import synthetic_board
from tests.leaderboard.make_golden import colored_run, make_check, make_settings, write_run
from tests.leaderboard.make_sweep import write_job, write_sweep


def shown(board: Board) -> str:
    """All formats, one after the other."""
    return "".join([*texts(board).values(), page(board)])


@pytest.mark.parametrize(
    ("algorithms", "trials", "environments"),
    [(("irm",), 1, ("a", "b")), (("irm",), 3, ("a", "b")), (("erm", "irm"), 1, ("a", "b"))],
)
def test_few_records_make_a_board(
    algorithms: tuple[str, ...], trials: int, environments: tuple[str, ...]
) -> None:
    board = synthetic_board(
        data_sets={"data": environments}, algorithms=algorithms, trials=trials, checks=1
    )
    (section,) = (s for s in board.sections if s.key.rule == "last")
    for row in section.rows:
        assert [cell.n for cell in row.cells] == [trials, trials]
        # No baseline, no difference; no verdict below three trials, nor on one algorithm.
        assert all(cell.bold is None for cell in row.cells)
        if "erm" not in algorithms:
            assert all(cell.to_erm is None for cell in row.cells)
        if trials == 1:
            assert all(c.accuracy and c.accuracy.interval is None for c in row.cells)
    assert "irm" in shown(board)


def test_one_run_makes_a_board(tmp_path: Path) -> None:
    colored_run(tmp_path, "irm", "-90%", 0, 0.5)
    assert "| irm | 50.0 | — | 1 |" in shown(load_board([tmp_path], "last"))


def test_an_accuracy_that_is_not_finite_is_a_missing_trial(tmp_path: Path) -> None:
    for trial, accuracy in enumerate((0.5, math.nan)):
        settings = make_settings(trial=trial)
        write_run(tmp_path, settings, [make_check(100, {"-90%/main": accuracy})])
    board = load_board([tmp_path])
    (row,) = board.sections[0].rows
    (missing,) = row.cells[0].missing
    assert missing.reason == "its accuracy is not finite, or was not measured"
    assert row.cells[0].accuracy is None
    assert len(board.left_out) == 1
    assert "1 of 2 †" in shown(board)
    assert "nan" not in "".join(texts(board).values()).lower()


def test_a_sweep_of_domainbed_makes_a_page_even_of_accuracies_that_are_nan(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    for path in [*tmp_path.glob("*/results.jsonl")][:3]:
        lines = path.read_text().splitlines()
        head, tail = lines[-1].split('"env0_in_acc": ')
        lines[-1] = f'{head}"env0_in_acc": NaN,{tail.partition(",")[2]}'
        path.write_text("\n".join(lines) + "\n")
    board = load_board([tmp_path])
    assert not [entry for entry in board.left_out if entry.kind == "corrupt"]
    assert "made by" in page_details(board)


def page_details(board: Board) -> str:
    """The runs of the first table, as its page unpacks them."""
    return str(unpack(pack(board, [(0, in_order(board)[0])])))


def test_algorithms_that_nobody_knows_have_rows(tmp_path: Path) -> None:
    colored_run(tmp_path, "my_package.MyAlgorithm", "-90%", 0, 0.5)
    write_job(tmp_path / "sweep", "PACS", "Mine", (0,), 0, 0, 4, random.Random(0))
    board = load_board([tmp_path])
    labels = {row.label for section in board.sections for row in section.rows}
    assert labels == {"my_package.MyAlgorithm", "Mine"}
    assert "my_package.MyAlgorithm" in shown(board)


def test_everything_that_is_wrong_is_named_and_counted(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    colored_run(runs / "a", "erm", "-90%", 0, 0.5)
    colored_run(runs / "b", "erm", "-90%", 0, 0.5)  # a copy
    colored_run(runs / "a", "erm", "-90%", 1, 0.5, status="interrupted")
    colored_run(runs / "a", "erm", "-90%", 2, 0.5, status="diverged")
    corrupt = colored_run(runs / "a", "erm", "-90%", 3, 0.5)
    (corrupt / "checks.jsonl").write_text("{")
    foreign = runs / "a" / "elsewhere" / "tool" / "1"
    foreign.mkdir(parents=True)
    (foreign / "run.json").write_text('{"schema": "other/1"}')
    begun = runs / "a" / "colored_mnist" / "erm" / "begun"
    begun.mkdir()
    (begun / "checks.jsonl").write_text("")
    board = load_board([runs])
    assert Counter(entry.kind for entry in board.left_out) == {
        "duplicate": 1,
        "partial": 2,
        "diverged": 1,
        "corrupt": 1,
        "foreign": 1,
    }
    text = shown(board)
    for entry in board.left_out:
        assert entry.place in text
    assert str(tmp_path) not in text


def test_a_record_of_a_later_format_stops_the_build(tmp_path: Path) -> None:
    folder = colored_run(tmp_path / "runs", "erm", "-90%", 0, 0.5, status="interrupted")
    text = (folder / "run.json").read_text().replace("dgbench.run/1", "dgbench.run/2")
    (folder / "run.json").write_text(text)
    with pytest.raises(NewerSchemaError, match="upgrade dgbench"):
        build([tmp_path / "runs"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_mixed_versions_are_refused_by_name(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    colored_run(tmp_path, "irm", "-90%", 0, 0.5, benchmark_version="2")
    with pytest.raises(RecordError, match="versions 1 and 2 cannot stand in one table"):
        load_board([tmp_path])


def test_folders_of_other_environments_never_share_a_table(tmp_path: Path) -> None:
    """Those of two users, or of one who added an environment: both are an image_folder."""
    for names in (("a", "b", "c"), ("a", "b", "c", "d")):
        for test, trial in product(names, range(2)):
            settings = make_settings(
                dataset="image_folder", names=names, test_env=(test,), trial=trial
            )
            check = make_check(100, {f"{test}/main": len(names) / 10 + trial / 100})
            write_run(tmp_path, settings, [check], names=names)
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    board = load_board([tmp_path], "last")
    assert board.left_out == ()
    (overall,) = board.overall
    assert overall.datasets == (
        "colored_mnist (100 of 501 steps)",
        'image_folder (environments=["a","b","c","d"])',
        'image_folder (environments=["a","b","c"])',
    )
    for section, count in zip(board.sections[1:], (4, 3), strict=True):
        (row,) = section.rows
        assert len(row.cells) == len(section.environments) == count
        accuracies = [cell.accuracy and cell.accuracy.mean for cell in row.cells]
        assert accuracies == pytest.approx([count / 10 + 0.005] * count)
        assert len(unpack(pack(board, [(0, section)]))["runs"]) == 2 * count
    titles = {title(section) for section in board.sections}
    assert len(titles) == 3
    assert any('environments=["a", "b", "c"],' in each for each in titles)


def test_ten_thousand_environments_stay_usable(tmp_path: Path) -> None:
    """Two are held out, in a run each, and every run lists all."""
    names = tuple(f"environment_{index}" for index in range(10_000))
    for place in (0, 9_999):
        settings = make_settings(names=names, test_env=(names[place],))
        holdouts = {f"{name}/holdout": 0.75 for name in names[:20] if name != names[place]}
        check = make_check(100, {**holdouts, f"{names[place]}/main": place / 9_999})
        write_run(tmp_path / "runs", settings, [check], names=names)
    written = build([tmp_path / "runs"], tmp_path / "out")
    text = written[0].read_text("utf-8")
    assert "| Algorithm | environment\\_0 | environment\\_9999 |" in text
    assert "| erm | 0.0 | 100.0 | 50.0 | 0.0 |" in text
    sizes = {path.name: path.stat().st_size for path in written}
    assert sizes["LEADERBOARD.md"] < 20_000
    assert sizes["index.html"] < 2_000_000


def test_thousands_held_out_together_are_counted_not_listed() -> None:
    board = synthetic_board(data_sets={"data": ("a", "b")}, algorithms=("erm",), trials=1, checks=1)
    record = next(iter(board.runs.values()))
    names = tuple(f"environment {index}" for index in range(1_000))
    splits = {f"{name}/main": place for place, name in enumerate(names)}
    checks = record.checks
    many = replace(
        record,
        environments=(*names, "trained on"),
        test=names,
        train=("trained on",),
        checks=replace(
            checks,
            splits=splits,
            metrics=checks.metrics[:, :1].repeat(1_000, axis=1),
            counts=checks.counts[:, :1].repeat(1_000, axis=1),
        ),
    )
    text = shown(make_board([many], rule="last"))
    assert "environment 0 (with 999 others)" in text
    assert len(text) < 30_000_000
