"""Runs on folders of images: what their records keep, and that protocols train what they name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.pacs import PACS
from dgbench.errors import UsageError
from dgbench.settings import resolve_arguments
from dgbench.stacked.training import run_stacked
from leaderboard.filling import make_board
from leaderboard.frame import from_run
from leaderboard.records import DONE_FILE, LAST_CHECKPOINT, Run, read_run
from leaderboard.tables import title
from tests.dgbench.tiny import command
from tests.folders import make_tree

SMALL = ("--steps", 1, "--data.image_size", 16, "--data.batch_size", 2)


def fit(out: Path, root: Path, *arguments: object) -> tuple[Run, str]:
    """A run of ERM on a tree that has PACS's environments."""
    where = ("--data.root", root, "--data.cache", out / "cache", "--out", out)
    code, shown, errors = command(
        "fit", "--algo", "erm", "--dataset", "pacs", "--test-env", "S", *SMALL, *where, *arguments
    )
    assert code == 0, errors
    (record,) = [line for line in shown.splitlines() if line.startswith("Record: ")]
    return read_run(Path(record.removeprefix("Record: "))), shown


def test_other_counts_than_the_presets_are_warned_of_recorded_and_have_tables_of_their_own(
    tmp_path, monkeypatch
):
    tree = make_tree(tmp_path / "PACS", PACS.environment_names, ("dog", "house"))
    run, shown = fit(tmp_path / "other", tree, "--network.width", 8)
    assert "Warning: sketch has 10 images where 3,929 are expected." in shown
    assert "Warning: there are 2 classes where 7 are expected." in shown
    assert [p["kind"] for p in run.run["data_problems"]] == ["count"] * 5
    monkeypatch.setattr(PACS, "expected_counts", dict.fromkeys(PACS.environment_names, 10))
    monkeypatch.setattr(PACS, "class_count", 2)
    whole, shown = fit(tmp_path / "whole", tree, "--network.width", 8, "--trial-seed", 1)
    assert "Warning" not in shown
    assert "data_problems" not in whole.run
    # Two trials of one setting would be one row of one table.
    sections = make_board([from_run(run), from_run(whole)]).sections
    titles = [title(section) for section in sections if section.key.rule == "train_val"]
    said = "sketch has 10 images where 3,929 are expected."
    assert sorted(text.count(said) for text in titles) == [0, 1]


def test_a_finished_run_is_not_that_of_another_folder_with_other_images(tmp_path):
    """Where a folder is decides no number, so runs on both have one identity."""
    kinds = ("dog", "house")
    tree = make_tree(tmp_path / "a" / "PACS", PACS.environment_names, kinds, images=2)
    run, _ = fit(tmp_path / "out", tree, "--network.width", 8)
    moved = shutil.copytree(tree, tmp_path / "b" / "PACS")
    assert fit(tmp_path / "out", moved, "--network.width", 8)[0].checks == run.checks
    other = make_tree(tmp_path / "c" / "PACS", PACS.environment_names, kinds[::-1], images=2)
    call = ["--algo", "erm", "--dataset", "pacs", "--test-env", "S", "--network.width", 8, *SMALL]
    call += ["--data.root", other, "--data.cache", "off", "--out", tmp_path / "out"]
    code, _, errors = command("fit", *call)
    assert code == 2
    assert f"{run.folder} is a finished run of these settings on other data" in errors
    assert "Name another --out" in errors
    settings = resolve_arguments(list(map(str, call)))
    with pytest.raises(UsageError, match="on other data"):
        run_stacked([settings, replace(settings, trial_seed=1)])
    checkpoint = (run.folder / LAST_CHECKPOINT).read_bytes()
    (run.folder / DONE_FILE).unlink()  # as if it had been interrupted
    for longer in ((), ("--steps", 2)):
        code, _, errors = command("fit", *call, *longer, "--resume", run.folder)
        assert (code, "it was trained on other data" in errors) == (2, True)
    assert (run.folder / LAST_CHECKPOINT).read_bytes() == checkpoint
    assert fit(tmp_path / "out", tree, "--network.width", 8, "--resume", run.folder)[0].done


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [(), ("--network.backbone", "resnet18")])
def test_the_protocol_domainbed_trains_the_network_that_it_names(backbone, tmp_path):
    tree = make_tree(tmp_path / "PACS", PACS.environment_names, ("dog", "house"))
    run, _ = fit(tmp_path, tree, "--protocol", "domainbed", "--network.weights", "none", *backbone)
    network = run.run["settings"]["network"]
    assert network["backbone"] == (backbone[1] if backbone else "resnet50")
    assert network["batch_norm"] == "frozen"
    assert all(check["splits"]["sketch/main"]["nll"] is not None for check in run.checks)
