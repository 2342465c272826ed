"""DomainBed's sweeps: its own tables to the letter, and the right statistics without."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from leaderboard.build import build_parity, load_board
from leaderboard.errors import RecordError
from leaderboard.sources import load
from tests.leaderboard.make_golden import GOLDEN
from tests.leaderboard.make_sweep import write_sweep


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder)
    return folder


def test_parity_prints_what_collect_results_printed(sweep: Path, tmp_path: Path) -> None:
    text = build_parity([sweep], tmp_path)
    assert text == (GOLDEN / "domainbed.txt").read_text()
    assert (tmp_path / "results.txt").read_text() == text


def test_parity_needs_a_sweep() -> None:
    with pytest.raises(RecordError, match="no job of DomainBed"):
        build_parity([GOLDEN / "records"], "unused")


def accuracies(sweep: Path, dataset: str, algorithm: str, test: list[int]) -> np.ndarray:
    """`(trials, draws, steps, environments, in and out)` straight from the files."""
    found = np.full((2, 2, 3, 4, 2), np.nan)
    for path in sweep.glob("*/results.jsonl"):
        for step, line in enumerate(map(json.loads, path.read_text().splitlines())):
            args = line["args"]
            if [args[k] for k in ("dataset", "algorithm", "test_envs")] != [
                dataset,
                algorithm,
                test,
            ]:
                continue
            for name, value in line.items():
                if name.endswith("_acc"):
                    environment, split = int(name[3]), int("out" in name)
                    place = args["trial_seed"], args["hparams_seed"], step, environment, split
                    found[place] = value
    return found


def test_train_val_against_the_files(sweep: Path) -> None:
    board = load_board([sweep], "train_val")
    (section,) = [
        s for s in board.sections if s.key.dataset == "ColoredMNIST" and s.key.held_out == 1
    ]
    for row in section.rows:
        assert row.label == f"{row.algorithm} (best of 2 draws)"
        for column, cell in zip(section.columns, row.cells, strict=True):
            found = accuracies(sweep, "ColoredMNIST", row.algorithm, [column.index])
            others = [index for index in range(3) if index != column.index]
            scores = found[:, :, :, others, 1].mean(axis=3)
            for number in cell.numbers:
                trial = number.trial.trial_seed
                step = [0, 300, 600].index(number.step)
                assert scores[trial, number.draw, step] == scores[trial].max()
                assert number.accuracy == found[trial, number.draw, step, column.index, 0]
            if cell.complete:
                assert cell.accuracy is not None
                numbers = [number.accuracy for number in cell.numbers]
                error = np.std(numbers, ddof=1) / np.sqrt(2)
                assert cell.accuracy.standard_error == pytest.approx(error)


def test_leave_one_out_against_the_files(sweep: Path) -> None:
    board = load_board([sweep], "leave_one_out")
    (section,) = [s for s in board.sections if s.key.dataset == "PACS" and s.key.held_out == 1]
    compared = 0
    for row in section.rows:
        for column, cell in zip(section.columns, row.cells, strict=True):
            single = accuracies(sweep, "PACS", row.algorithm, [column.index])
            others = [index for index in range(4) if index != column.index]
            scores = np.mean(
                [
                    accuracies(sweep, "PACS", row.algorithm, sorted((column.index, j)))[..., j, 0]
                    for j in others
                ],
                axis=0,
            )
            for number in cell.numbers:
                trial = number.trial.trial_seed
                step = [0, 300, 600].index(number.step)
                assert scores[trial, number.draw, step] == pytest.approx(scores[trial].max())
                assert number.accuracy == single[trial, number.draw, step, column.index, 0]
                compared += 1
    # The absent pair leaves two cells of IRM without their first trial; the unfinished job takes
    # more only if its own cells need it.
    irm = next(row for row in section.rows if row.algorithm == "IRM")
    for cell in irm.cells[:2]:
        assert cell.accuracy is None
        assert any("leave_one_out needs" in m.reason for m in cell.missing)
    assert compared >= 10


def test_an_unfinished_job_is_listed_and_counts_nowhere(sweep: Path) -> None:
    board = load_board([sweep])
    first = min(path.name for path in sweep.iterdir())
    (entry,) = [entry for entry in board.left_out if entry.kind == "partial"]
    assert entry.place.endswith(first)
    assert entry.reason == "interrupted: resume it"


def test_other_backbones_never_share_a_table(sweep: Path) -> None:
    backbones = {(s.key.dataset, s.key.backbone) for s in load_board([sweep]).sections}
    assert backbones == {("ColoredMNIST", "MNIST_CNN"), ("PACS", "resnet18")}


def test_differences_of_unpaired_runs_are_welchs(sweep: Path) -> None:
    sections = load_board([sweep], "oracle").sections
    assert not any(section.paired for section in sections)
    found = [cell.to_erm for s in sections for row in s.rows for cell in row.cells if cell.to_erm]
    assert found
    assert not any(difference.paired for difference in found)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", "corrupt"),
        ("{not json}\n", "corrupt"),
        ("[1]\n", "corrupt"),
        ('{"loss": 1}\n', "foreign"),
        ('{"args": {}, "hparams": {}, "step": 0, "env0_in_acc": 0.5}\n', "foreign"),
    ],
)
def test_other_results_are_listed(tmp_path: Path, content: str, kind: str) -> None:
    job = tmp_path / "sweep" / "job"
    job.mkdir(parents=True)
    (job / "results.jsonl").write_text(content)
    records, (entry,) = load([tmp_path])
    assert records == []
    assert (entry.place, entry.kind) == ("sweep/job", kind)


def test_a_job_that_had_hardly_begun_is_listed(tmp_path: Path) -> None:
    for name in ("out.txt", "err.txt"):
        (tmp_path / "sweep" / "job").mkdir(parents=True, exist_ok=True)
        (tmp_path / "sweep" / "job" / name).touch()
    (entry,) = load([tmp_path])[1]
    assert (entry.place, entry.kind) == ("sweep/job", "partial")
