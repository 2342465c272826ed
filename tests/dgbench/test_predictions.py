"""Predictions that a run saves, and the numbers of its record that follow from them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from dgbench.settings import resolve_arguments
from dgbench.stacked.plan import own_obstacle
from dgbench.training import build_data
from leaderboard import records
from leaderboard.metrics import all_metrics
from leaderboard.predictions import read_predictions
from tests.dgbench.tiny import TINY, checks, command, fit


def saved(folder):
    return {
        (found.step, found.split): found for found in read_predictions(folder / "predictions.npz")
    }


def assert_explained(folder):
    """Every number of the checks that have predictions follows from these."""
    run = records.read_run(folder, verify_checkpoints=True)
    found = saved(folder)
    steps = {step for step, _ in found}
    assert len(run.checks[-1]["splits"]) == 6
    for check in run.checks:
        for split, metrics in check["splits"].items():
            if check["step"] in steps:
                each = found.pop((check["step"], split))
                expected = all_metrics(each.logits, each.targets)
                assert metrics["accuracy"] == expected["accuracy"]
                assert metrics == pytest.approx(expected, abs=1e-7)
    assert found == {}
    return steps


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("plain"), "--save-predictions")


def test_all_splits_of_the_last_check_are_saved(plain):
    assert assert_explained(plain) == {4}
    assert records.read_run(plain).run["saves_predictions"]
    settings = resolve_arguments(["--algo.name=erm", "--test-env=2", *TINY])
    data = build_data(settings)
    for name, each in ((split, each) for (_, split), each in saved(plain).items()):
        environment, split = name.split("/")
        index = data.environment_names.index(environment)
        assert each.logits.dtype == np.float32
        np.testing.assert_array_equal(each.indices, data.split_indices(index, split))
        np.testing.assert_array_equal(
            each.targets, data.environment(index).targets[each.indices].numpy()
        )


def test_they_change_neither_the_run_id_nor_a_number(plain, tmp_path):
    without = fit(tmp_path)
    assert without.name == plain.name
    assert checks(without) == checks(plain)
    assert not (without / "predictions.npz").exists()
    weights = [json.loads((each / "done.json").read_text())["weights"] for each in (plain, without)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("algo", ["irm", "icp"])
def test_the_selected_checks_are_saved_beside_the_last(algo, tmp_path):
    options = ("--selection", "train_val", "--steps", 6, "--save-predictions")
    folder = fit(tmp_path, *options, "--algo.learning_rate", 1, algo=algo)
    chosen = json.loads((folder / "done.json").read_text())["selected"]["train_val"]
    assert chosen < 6
    assert assert_explained(folder) == {chosen, 6}


def test_a_prior_is_saved_as_its_log_probabilities(tmp_path):
    folder = fit(tmp_path, "--save-predictions", algo="icp")
    (check,) = [check for check in checks(folder) if check["step"] == 4]
    found = saved(folder)[4, "-90%/main"]
    if not check["conclusion"]["predictor"]:
        assert np.ptp(found.logits, axis=0).max() == 0
        np.testing.assert_allclose(np.exp(found.logits[0]).sum(), 1, rtol=1e-6)
    assert_explained(folder)


def test_float64_is_saved_as_float64(tmp_path):
    folder = fit(tmp_path, "--save-predictions", "--trainer.precision", "64-true")
    assert {each.logits.dtype for each in saved(folder).values()} == {np.dtype("float64")}
    assert_explained(folder)


def test_half_precision_is_saved_exactly_as_float32(tmp_path):
    folder = fit(tmp_path, "--save-predictions", "--trainer.precision", "bf16-true")
    for each in saved(folder).values():
        logits = torch.from_numpy(each.logits)
        assert logits.dtype == torch.float32
        assert torch.equal(logits.bfloat16().float(), logits)
    assert_explained(folder)


def test_logits_that_are_not_finite_have_no_metrics(tmp_path):
    options = ("--save-predictions", "--algo.learning_rate", "1e38", "--steps", 1)
    folder = fit(tmp_path, *options)
    assert checks(folder)[-1]["diverged"]
    for (_, split), each in saved(folder).items():
        expected = checks(folder)[-1]["splits"][split]
        assert (expected["nll"] is None) == math.isnan(all_metrics(*each[2:4])["nll"])


def test_a_run_that_is_resumed_still_saves_them(plain, tmp_path):
    folder = fit(tmp_path, "--save-predictions")
    for name in ("done.json", "predictions.npz"):
        (folder / name).unlink()
    code, _, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert assert_explained(folder) == {4}
    same = [(each / "predictions.npz").read_bytes() for each in (plain, folder)]
    assert same[0] == same[1]


def test_a_finished_run_without_them_is_named(tmp_path):
    fit(tmp_path)
    arguments = ("fit", "--algo", "erm", "--test-env", 2, *TINY, "--out", tmp_path)
    code, _, errors = command(*arguments, "--save-predictions")
    assert code == 2
    assert "is finished and has saved none. Train it again with --force" in errors
    assert command(*arguments, "--save-predictions", "--force")[0] == 0
    assert command(*arguments, "--save-predictions")[0] == 0


def test_runs_that_save_them_train_alone():
    arguments = ["--algo.name=erm", "--test-env=2", *TINY]
    assert own_obstacle(resolve_arguments(arguments)) is None
    reason = own_obstacle(resolve_arguments([*arguments, "--save-predictions"]))
    assert reason is not None
    assert "last digit" in reason
