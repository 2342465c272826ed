"""Which views of the training environments change, and how far their labels differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats

from datamodules.base import EnvironmentDataModule
from datamodules.colored_mnist import ColoredMNIST
from datamodules.environments import EnvironmentData
from datamodules.preprocessing import Preprocessing
from dgbench.inspect import shifts
from dgbench.inspect.environments import compare
from tests.dgbench.tiny import command
from tests.synthetic import make_data


class Skewed(EnvironmentDataModule):
    """Vectors of one number that causes the class alike everywhere, and moves."""

    environment_names = ("low", "high", "last")
    class_names = ("no", "yes")
    input_shape = (1,)
    generator_version = 1

    @property
    def preprocessing(self) -> Preprocessing:
        raise NotImplementedError("vectors are not images")

    def load_environment(self, index: int) -> EnvironmentData:
        random = np.random.default_rng(index)
        inputs = random.normal(size=(3000, 1)) + index
        targets = random.random(3000) < 1 / (1 + np.exp(-inputs[:, 0]))
        rows = torch.arange(3000)
        values = torch.from_numpy(inputs).float(), torch.from_numpy(targets.astype(np.int64))
        return EnvironmentData(*values, rows + 3000 * index, rows, rows[:0])


def test_the_colour_of_colored_mnist_changes_and_the_shape_does_not():
    data = ColoredMNIST(test_envs=[2], draws=4000, holdout_draws=0)
    found = compare(data)
    assert found.environments == ("+90%", "+80%")
    views = {test.view: test for test in found.views}
    assert found.differs(views["colour"])
    assert not found.differs(views["shape"])
    # The colour agrees with the label in 90 and 80 of 100 samples.
    assert views["colour"].accuracy == pytest.approx(0.85, abs=0.02)


def test_alike_environments_show_no_change():
    data = ColoredMNIST(test_envs=[2], draws=4000, holdout_draws=0)
    data.colour_flips = (0.15, 0.15, 0.9)
    assert not any(compare(data).differs(test) for test in compare(data).views)


def test_labels_are_compared_as_by_hand():
    data = Skewed(test_envs=["last"])
    found = compare(data)
    yes = np.array([float(data.environment(e).targets.sum()) for e in (0, 1)])
    table = np.stack([3000 - yes, yes], axis=1)
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    assert found.label_p_value == pytest.approx(stats.chi2.sf(statistic, 1))
    assert found.label_distance == pytest.approx(abs(yes[0] - yes[1]) / 3000)
    assert found.commonest == pytest.approx(table.sum(axis=0).max() / 6000)
    # Labels differ because the cause does: what it says of them does not.
    (test,) = found.views
    assert found.label_p_value < 1e-6
    assert not found.differs(test)


def test_the_command_prints_and_writes_what_was_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(shifts, "TRIALS", 1)
    monkeypatch.setattr(shifts, "PASSES", 1)
    monkeypatch.setattr(shifts, "POINTS", 500)
    options = ("--environments", "--test-env", "2", "--data.draws", "1000", "--out", tmp_path)
    code, shown, errors = command("inspect", *options)
    assert code == 0, errors
    assert "Changing: colour. Perhaps invariant: shape." in shown
    code, shown, _ = command("inspect", "--json", *options)
    assert code == 0
    document = json.loads(shown)
    assert document["shifts"]["held_out"] == ["-90%"]
    assert document["shifts"]["published"]["correlation"][0] == 0.5468
    compared = document["training_environments"]
    assert compared["environments"] == ["+90%", "+80%"]
    assert [view["differs"] for view in compared["views"]] == [True, False]


def test_one_training_environment_is_refused(tmp_path):
    held_out = ("--test-env", "1", "--test-env", "2")
    code, _, errors = command("inspect", "--environments", *held_out, "--out", tmp_path)
    assert code == 2
    assert "there are 1" in errors


def test_each_number_of_a_vector_is_a_view():
    found = compare(make_data())
    assert [test.view for test in found.views] == ["x1", "x2", "x3", "x4", "x5", "x6"]
