"""Invariant causal prediction on views: its heads, what they are tested on, what is recorded."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dgbench
from datamodules.colored_mnist import ColoredMNIST
from datamodules.views import VIEWS
from dgbench.algorithms.icp import ICP
from dgbench.checkpoints import read, score
from dgbench.errors import UsageError
from dgbench.networks import NetworkOptions, build_network
from dgbench.subset_network import SubsetNetwork
from leaderboard import records
from tests.dgbench.tiny import checks, command, fit
from tests.real import needs_mnist
from tests.synthetic import make_algorithm, make_data, train

BEST = ("--algo.predict_with", "best_accepted")


def images(count: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 2, 14, 14, generator=torch.Generator().manual_seed(seed))


def network(views=("colour", "shape"), **options: Any) -> SubsetNetwork:
    made = SubsetNetwork(
        build_network(NetworkOptions(width=16, **options), (2, 14, 14), 2, seed=3), views
    )
    made.standardise(made.numbers(images(50)))
    return made


def make_icp(data, **options: Any) -> ICP:
    made = make_algorithm("icp", data, **options)
    assert isinstance(made, ICP)
    return made


# Heads


@pytest.mark.parametrize("backbone", ["mlp", "small_cnn"])
def test_a_head_sees_its_views_and_nothing_else(backbone):
    made = network(backbone=backbone)
    swapped, other = images()[:, [1, 0]], images(seed=1)
    recoloured = swapped * torch.tensor([0.5, 1.0])[:, None, None]
    assert torch.equal(VIEWS["shape"](swapped), VIEWS["shape"](images()))
    before, after, differ = map(made.subset_logits, (images(), swapped, other))
    unchanged = [
        s for s, a, b in zip(made.subsets, before, after, strict=True) if torch.equal(a, b)
    ]
    assert unchanged == [(), ("shape",)]
    assert [torch.equal(a, b) for a, b in zip(before, differ, strict=True)] == [True] + 3 * [False]
    assert not torch.equal(made.subset_logits(recoloured)[1], after[1])


def test_heads_share_nothing():
    made = network()
    made.subset_logits(images())[1].sum().backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {n for n, _ in made.named_parameters() if n.split(".")[1] == "0"}
    assert len({name.split(".")[1] for name, _ in made.named_parameters()}) == 3


def test_its_own_choice_predicts_and_the_prior_until_there_is_one():
    made = network()
    assert torch.equal(made(images()), torch.full((6, 2), 0.5).log())
    for position, logits in enumerate(made.subset_logits(images())):
        made.chosen.fill_(position)
        torch.testing.assert_close(made(images()), logits)


def test_numbers_are_seen_with_mean_0_and_deviation_1():
    made = network(views=("colour", "ink", "layout", "orientation"))
    parts = made._parts(images(50))
    joined = torch.cat(list(parts.values()), dim=1)
    assert joined.shape == (50, 4 + 1 + 16 + 2)
    torch.testing.assert_close(joined.mean(dim=0), torch.zeros(23), atol=1e-4, rtol=0)
    torch.testing.assert_close(joined.std(dim=0, correction=0), torch.ones(23))


def test_each_head_takes_the_steps_of_erm_on_its_variables():
    data = make_data(train_envs=[0, 1])
    algorithm = make_icp(data).double()
    batch = data.train_dataloader().batch(0)
    batch.inputs = batch.inputs.double()
    algorithm.objective(batch)["loss"].backward()
    heads = algorithm.network
    for position, subset in list(enumerate(heads.subsets))[1::9]:
        columns = [heads.names.index(name) for name in subset]
        featurizer = heads.get_submodule(f"featurizer.{position - 1}.featurizers.0")
        classifier = heads.get_submodule(f"classifier.{position - 1}")
        module = torch.nn.Sequential(featurizer, classifier)
        found = [parameter.grad for parameter in module.parameters()]
        losses = F.cross_entropy(module(batch.inputs[:, columns]), batch.targets, reduction="none")
        erm = torch.stack([losses[batch.environment == e].mean() for e in (0, 1)]).mean()
        expected = torch.autograd.grad(erm, list(module.parameters()))
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_more_variables_than_sets_can_be_trained_for_are_refused():
    like = build_network(NetworkOptions(width=4), (11,), 2, seed=0)
    with pytest.raises(UsageError, match="11 variables have 2,048 sets"):
        SubsetNetwork(like, ())


# What sets are tested on


def prepared(**options: Any) -> tuple[ICP, Any]:
    """An algorithm whose data are known to it, after a step."""
    data = make_data(batch_size="full")
    algorithm = make_icp(data, **options)
    train(algorithm, data, 1)
    return algorithm, data


def test_withheld_rows_are_a_share_of_each_class_and_no_head_learns_from_them():
    algorithm, data = prepared(withheld_fraction=0.25)
    for position, index in enumerate(data.train_environments):
        environment = data.environment(index)
        withheld = algorithm.withheld[position]
        assert not withheld[environment.holdout].any()
        for label in (0, 1):
            rows = environment.main[environment.targets[environment.main] == label]
            assert withheld[rows].sum() == len(rows) // 4
    batch = data.train_dataloader().batch(0)
    withheld = algorithm.withheld[batch.environment, batch.indices]
    loss = algorithm.objective(batch)["loss"]
    batch.targets = torch.where(withheld, 1 - batch.targets, batch.targets)
    torch.testing.assert_close(algorithm.objective(batch)["loss"], loss, rtol=0, atol=0)
    batch.targets = torch.where(withheld, batch.targets, 1 - batch.targets)
    assert algorithm.objective(batch)["loss"] != loss


@pytest.mark.parametrize("fraction", [0.0, 0.25])
def test_sets_are_tested_on_rows_that_no_head_was_trained_on(fraction):
    algorithm, data = prepared(withheld_fraction=fraction)
    for index, rows in zip(data.train_environments, algorithm._held_out(), strict=True):
        environment = data.environment(index)
        expected = environment.main if fraction else environment.holdout
        assert torch.isin(rows, expected).all()
        assert len(rows) == (len(rows) if fraction else len(environment.holdout)) > 0


def test_the_prior_is_the_training_environments_label_law():
    algorithm, data = prepared()
    shares = [
        (data.environment(e).targets[data.environment(e).main] == 1).double().mean()
        for e in data.train_environments
    ]
    assert algorithm.network.log_prior.exp()[1].item() == pytest.approx(
        torch.stack(shares).mean().item(), abs=0.02
    )
    assert algorithm.network.log_prior.exp().sum().item() == pytest.approx(1)


def test_data_without_a_holdout_need_withheld_rows(tmp_path):
    options = ("--algo", "icp", "--test-env", "2", "--out", tmp_path, "--steps", "2")
    data = ("--data.draws", "200", "--data.holdout_draws", "0")
    code, _, errors = command("fit", *options, *data)
    assert code == 2
    assert "Withhold a part of the main split by --algo.withheld_fraction 0.2" in errors
    code, _, errors = command("fit", *options, *data, "--algo.withheld_fraction", "0.2")
    assert code == 0, errors


# Runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("runs"), *BEST, "--steps", "40", algo="icp")


def test_the_record_and_the_table_say_what_was_found(folder):
    run = records.read_run(folder)
    code, shown, _ = command(
        "fit", "--algo", "icp", "--test-env", "2", "--out", folder.parents[2], *BEST,
        "--steps", "40", "--check-every", "2", "--network.width", "8",
        "--data.draws", "200", "--data.holdout_draws", "50",
    )  # fmt: skip
    assert code == 0
    for check in run.checks:
        conclusion = check["conclusion"]
        assert conclusion["variables"] == ["colour", "shape"]
        assert conclusion["rule"] == "best_accepted"
        tested = {tuple(one["variables"]): one["p_value"] for one in conclusion["sets"]}
        accepted = [names for names, p_value in tested.items() if p_value > 0.05]
        assert tuple(conclusion["predictor"]) in {(), *accepted}
    assert " ".join(conclusion["text"].split()) in " ".join(shown.split())
    assert "{colour, shape}" in shown


def test_a_checkpoint_is_the_same_predictor(folder):
    network_ = dgbench.load(folder / "last.ckpt")
    assert isinstance(network_, SubsetNetwork)
    last = records.read_run(folder).checks[-1]
    assert network_.subsets[int(network_.chosen)] == tuple(last["conclusion"]["predictor"])
    assert score(read(folder / "last.ckpt")) == last["splits"]


def test_strict_prediction_without_an_estimate_is_the_label_prior(tmp_path):
    folder = fit(tmp_path, "--algo.alpha", "0.001", algo="icp")
    last = records.read_run(folder).checks[-1]
    assert last["conclusion"]["outcome"] == "empty_set_accepted"
    assert last["conclusion"]["predictor"] == []
    data = ColoredMNIST(test_envs=[2], draws=200, holdout_draws=50)
    share = data.environment(2).targets[data.environment(2).main].double().mean().item()
    accuracy = last["splits"]["-90%/main"]["accuracy"]
    assert accuracy is not None
    assert min(abs(accuracy - share), abs(accuracy - (1 - share))) < 1e-9


def test_a_run_that_goes_on_has_the_checks_of_one_that_never_stopped(folder, tmp_path):
    short = fit(tmp_path, *BEST, "--steps", "20", algo="icp")
    code, _, errors = command("fit", "--resume", short, "--steps", "40")
    assert code == 0, errors
    resumed = next(f for f in short.parent.iterdir() if f != short)
    assert checks(resumed) == checks(folder)
    ours, theirs = (
        torch.load(f / "last.ckpt", weights_only=True)["state_dict"] for f in (resumed, folder)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_representation_is_taken_over_and_asked_whether_it_is_invariant(tmp_path):
    trained = fit(tmp_path, algo="erm") / "last.ckpt"
    copy = shutil.copy(trained, tmp_path / "erm.ckpt")
    options = ("--algo.views", "[features]", "--algo.representation", copy)
    folder = fit(tmp_path, *options, algo="icp")
    run = records.read_run(folder)
    asked = run.checks[-1]["conclusion"]
    elsewhere = shutil.copy(trained, tmp_path / "elsewhere.ckpt")
    assert fit(tmp_path, *options[:-1], elsewhere, algo="icp") == folder
    digest = hashlib.sha256(trained.read_bytes()).hexdigest()
    assert run.run["settings"]["algo"]["representation"] == f"sha256:{digest[:16]}"
    assert [one["variables"] for one in asked["sets"]] == [[], ["features"]]
    Path(copy).unlink()
    found = dgbench.load(folder / "last.ckpt")
    assert isinstance(found, SubsetNetwork)
    erm = dgbench.load(trained)
    assert torch.equal(found.variables(images())["features"], erm.featurizer(images()))


def test_a_representation_of_another_network_is_refused(tmp_path):
    trained = fit(tmp_path, "--network.width", "16", algo="erm") / "last.ckpt"
    code, _, errors = command(
        "fit", "--algo", "icp", "--test-env", "2", "--out", tmp_path, "--network.width", "8",
        "--algo.views", "[features]", "--algo.representation", trained,
    )  # fmt: skip
    assert code == 2
    assert "width=8" in errors
    for options in (["--algo.views", "[features]"], ["--algo.representation", trained]):
        code, _, errors = command("fit", "--algo", "icp", "--test-env", "2", *options)
        assert code == 2
        assert "Name both" in errors


def test_an_unknown_view_is_refused_with_those_there_are(tmp_path):
    code, _, errors = command(
        "fit", "--algo", "icp", "--test-env", "2", "--algo.views", "[hue]", "--out", tmp_path
    )
    assert code == 2
    assert "name some of colour, ink, layout, orientation, shape" in errors


# On real Colored MNIST


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["digits", pytest.param("irm-paper", marks=needs_mnist)])
def test_the_shape_is_chosen_and_strict_prediction_learns_nothing(protocol, tmp_path):
    for seed in range(5):
        common: dict[str, Any] = {
            "protocol": protocol, "test_env": "-90%", "trial_seed": seed, "out": str(tmp_path),
        }  # fmt: skip
        best, strict = (
            dgbench.fit(algo={"name": "icp", "predict_with": rule}, **common).checks[-1]
            for rule in ("best_accepted", "intersection")
        )
        assert best["conclusion"]["predictor"] == ["shape"]
        accuracy = best["splits"]["-90%/main"]["accuracy"]
        assert accuracy is not None
        assert accuracy >= 0.70
        assert strict["conclusion"]["outcome"] == "empty_set_accepted"
        assert strict["splits"]["-90%/main"]["accuracy"] == pytest.approx(0.5, abs=0.02)
