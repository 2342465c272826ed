"""The screen: smaller problems are the same problems, stacked runs are separate runs."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from datamodules.scm_presets import EXAMPLES, linear_unit_test
from dgbench.algorithms.base import Algorithm
from dgbench.algorithms.erm import ERM
from dgbench.algorithms.irm import IRM
from dgbench.algorithms.vrex import VREx
from dgbench.linear_forms import Form, best_form, make_algorithm
from dgbench.screen import icp_outcome, published, train
from tests.dgbench.tiny import command

ROWS = 60
STEPS = 30


class SingleRows(VREx):
    """Looks at single rows and at both logits, which the smaller problems do not have."""

    def objective(self, batch):
        outputs = super().objective(batch)
        return {**outputs, "loss": outputs["loss"] + (1 + self(batch.inputs)).abs().mean()}


def weights(algorithm: Algorithm) -> Tensor:
    return torch.cat([value.detach().flatten() for value in algorithm.network.parameters()])


def trained(form: Form, kind: type[Algorithm], example: str, settings) -> list[Tensor]:
    tables = [linear_unit_test(example, seed=seed).sample("train", ROWS) for seed in range(2)]
    algorithms = [
        make_algorithm(form, kind, options, table, 0) for table in tables for options in settings
    ]
    train(algorithms, [form.batch(table) for table in tables for _ in settings], STEPS)
    return [weights(algorithm) for algorithm in algorithms]


SETTINGS = [
    {"learning_rate": 0.01, "penalty_weight": 5.0, "anneal_steps": 0},
    {"learning_rate": 0.02, "penalty_weight": 50.0, "anneal_steps": 10, "weight_decay": 0.1},
]


@pytest.mark.parametrize("example", ["1", "2"])
@pytest.mark.parametrize("kind", [IRM, VREx])
def test_reduced_and_stacked_runs_end_as_full_and_separate_ones(kind, example, monkeypatch):
    regression = example == "1"
    stacked = trained(Form(regression, reduced=True), kind, example, SETTINGS)
    monkeypatch.setattr("dgbench.screen.obstacle", lambda algorithms: "to compare with")
    separate = trained(Form(regression, reduced=False), kind, example, SETTINGS)
    for one, other in zip(stacked, separate, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(stacked[0], stacked[1], atol=1e-2)


@pytest.mark.parametrize("example", ["1", "2"])
def test_the_smaller_problem_is_taken_only_where_it_is_the_same(example):
    table = linear_unit_test(example).sample("train", ROWS)
    for kind in (ERM, IRM, VREx):
        assert best_form(kind, {}, table).reduced
    assert not best_form(SingleRows, {}, table).reduced


@pytest.mark.parametrize(
    ("example", "outcome"),
    [
        # The noise's scale changes: no set is invariant, mixed or not.
        ("1", "rejected"),
        ("1s", "rejected"),
        # Each column of the foreground alone separates the labels: near-copies.
        ("2", "empty_intersection"),
        # The labels' shares are equal everywhere: nothing can be learnt.
        ("3", "empty_set_accepted"),
        ("3s", "empty_set_accepted"),
    ],
)
def test_invariant_causal_prediction_rejects_or_abstains_as_theory_says(example, outcome):
    assert icp_outcome(linear_unit_test(example)) == outcome


def test_the_command_prints_a_table_and_writes_it(tmp_path):
    call = ["screen", "--algo", "irm", "--examples", "1", "3", "--samples", 40, "--steps", 20]
    code, shown, errors = command(*call, "--algo.penalty_weight=3", "--out", tmp_path)
    assert code == 0, errors
    assert "11.15" in shown
    assert "rejected" in shown
    document = json.loads((tmp_path / "screen.json").read_text())
    assert set(document["examples"]) == {"1", "3"}
    result = document["examples"]["1"]["results"]["irm"]
    assert result["options"]["penalty_weight"] == 3
    assert len(result["errors"]) == 3
    assert set(document["examples"]["1"]["results"]) == {"irm", "erm", "oracle"}


def test_bad_requests_end_with_one_message():
    for call, message in (
        (("--algo", "imr"), "Did you mean irm"),
        (("--algo", "irm", "--examples", "4"), "no example '4'"),
        (("--algo", "irm", "--draws", "21"), "at most 20"),
        (("--algo", "irm", "--algo.penalty", "3"), "no option --algo.penalty"),
    ):
        code, _, errors = command("screen", *call)
        assert code == 2
        assert message in errors
        assert "Traceback" not in errors


def test_every_example_has_published_figures():
    for example in EXAMPLES:
        assert {"erm", "irm", "oracle"} <= set(published(example, 3))
        assert published(example, 4) == {}
