"""What every algorithm of the suite keeps, without being named here."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor

from dgbench import registry
from dgbench.algorithms.base import Algorithm
from dgbench.errors import UsageError
from dgbench.evaluation import all_splits, evaluate
from dgbench.search_space import Choice, HyperParameter, LogInt, Range, hyperparameters
from tests.synthetic import make_algorithm, make_data, train

STEPS = 3
ALGORITHMS = tuple(registry.entries("algorithm"))


class Witness(pl.Callback):
    """Notes losses, and which of the parameters handed to an optimiser got a gradient."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.handed: set[str] = set()
        self.moved: set[str] = set()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        names = {id(parameter): name for name, parameter in pl_module.named_parameters()}
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.handed.add(names[id(parameter)])
                if parameter.grad is not None and parameter.grad.abs().max() > 0:
                    self.moved.add(names[id(parameter)])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        assert isinstance(pl_module, Algorithm)
        self.losses.append(pl_module.outputs["loss"].item())


def class_of(name: str) -> type[Algorithm]:
    return cast("type[Algorithm]", registry.load("algorithm", name))


def early(name: str) -> dict[str, Any]:
    """The options that let a penalty act within a few steps."""
    names = {option.name for option in hyperparameters(class_of(name))}
    return {"anneal_steps": 1} if "anneal_steps" in names else {}


def train_few(
    name: str, *, steps: int = STEPS, precision: str = "32-true", run: Any = (), **options: Any
) -> tuple[Algorithm, Witness, pl.Trainer]:
    data = make_data(**dict(run))
    algorithm = make_algorithm(name, data, **{**early(name), **options})
    witness = Witness()
    trainer = train(algorithm, data, steps, callbacks=[witness], precision=precision)
    return algorithm, witness, trainer


@functools.cache
def trained(name: str) -> tuple[Algorithm, Witness, pl.Trainer]:
    """Three steps that several tests look at; none may change it."""
    return train_few(name)


def weights(algorithm: Algorithm) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in algorithm.state_dict().items()}


def assert_equal_weights(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    different = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    assert different == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_parameter_handed_to_an_optimiser_gets_a_gradient(name):
    algorithm, witness, trainer = trained(name)
    assert trainer.global_step == STEPS
    assert len(witness.losses) == STEPS
    assert all(torch.tensor(witness.losses).isfinite())
    assert witness.handed == witness.moved
    network = {f"network.{inner}" for inner, _ in algorithm.network.named_parameters()}
    assert network <= witness.handed


@pytest.mark.parametrize("name", ALGORITHMS)
def test_predictions_are_one_row_of_logits_an_input(name):
    algorithm, _, _ = trained(name)
    data = make_data()
    inputs = data.environment(4).inputs[:7]
    with torch.no_grad():
        logits = algorithm(inputs)
        network = algorithm.network(inputs)
    assert logits.shape == (7, len(data.class_names))
    assert logits.isfinite().all()
    assert torch.equal(logits, network)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_is_recorded_has_the_training_environments_risks(name):
    algorithm, _, _ = trained(name)
    assert algorithm.outputs["risks"].shape == (4,)
    for value in algorithm.outputs.values():
        assert not value.requires_grad
        assert value.isfinite().all()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_state_dict_round_trip_leads_to_the_same_next_step(name):
    algorithm, _, _ = trained(name)
    copied = make_algorithm(name, make_data(trial_seed=5), **early(name))
    copied.load_state_dict(algorithm.state_dict())
    assert_equal_weights(weights(copied), weights(algorithm))
    batch = make_data().train_dataloader().batch(STEPS)
    objectives = []
    for each in (algorithm, copied):
        torch.manual_seed(0)
        objectives.append(each.objective(batch))
    assert list(objectives[0]) == list(objectives[1])
    assert torch.equal(objectives[0]["loss"], objectives[1]["loss"])
    assert torch.equal(objectives[0]["risks"], objectives[1]["risks"])


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_run_resumed_from_a_checkpoint_takes_the_same_steps(name, tmp_path: Path):
    whole, _, _ = train_few(name, steps=STEPS + 2)
    _, _, trainer = trained(name)
    checkpoint = tmp_path / "last.ckpt"
    trainer.save_checkpoint(checkpoint)
    data = make_data()
    resumed = make_algorithm(name, data, **early(name))
    train(resumed, data, STEPS + 2, checkpoint=str(checkpoint))
    assert_equal_weights(weights(resumed), weights(whole))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_trial_seed_decides_the_losses_and_global_random_state_does_not(name):
    _, first, _ = trained(name)
    torch.manual_seed(77)
    algorithm, again, _ = train_few(name)
    assert again.losses == first.losses
    assert_equal_weights(weights(algorithm), weights(trained(name)[0]))
    _, other, _ = train_few(name, run={"trial_seed": 1})
    assert other.losses[0] != first.losses[0]


def ends(declared: Range | Choice) -> tuple[Any, ...]:
    if isinstance(declared, Choice):
        return declared.values
    number = int if isinstance(declared, LogInt) else float
    return number(declared.low), number(declared.high)


def searched(name: str) -> list[tuple[HyperParameter, Range | Choice]]:
    options = hyperparameters(class_of(name))
    return [(option, option.range) for option in options if option.range is not None]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_defaults_stand_inside_their_ranges(name):
    assert searched(name)
    outside = [p.name for p, declared in searched(name) if p.default not in declared]
    assert outside == []


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_ends_of_every_range_can_be_trained_with(name):
    data = make_data()
    batch = data.train_dataloader().batch(0)
    for option, declared in searched(name):
        for value in ends(declared):
            algorithm = make_algorithm(name, data, **{**early(name), option.name: value})
            optimizer = algorithm.configure_optimizers()
            for step in range(2):
                loss = algorithm.training_step(batch, step)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            finite = [parameter.isfinite().all() for parameter in algorithm.parameters()]
            assert all(finite), (option.name, value)


@pytest.mark.parametrize("environments", [2, 3, 4])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_settings_of_erm_give_erms_steps(name, environments):
    settings = class_of(name).erm_settings(environments)
    if settings is None:
        pytest.skip(f"{name} says that it has no settings at which it is ERM")
    run = {"train_envs": range(environments)}
    double: dict[str, Any] = {"precision": "64-true", "run": run}
    algorithm, _, _ = train_few(name, **double, **settings)
    erm, _, _ = train_few("erm", **double)
    start = make_algorithm("erm", make_data(**run)).network.state_dict()
    for weight, value in erm.network.state_dict().items():
        assert value.dtype == torch.float64
        assert (value - start[weight]).abs().max() > 1e-4
        torch.testing.assert_close(
            algorithm.network.state_dict()[weight], value, rtol=0.0, atol=1e-12
        )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_training_environment_works_or_is_refused_with_a_way_out(name):
    run = {"train_envs": [2]}
    if class_of(name).minimum_environments > 1:
        with pytest.raises(UsageError, match=r"at least \d+ to train on; this run has 1"):
            make_algorithm(name, make_data(**run))
        return
    algorithm, witness, _ = train_few(name, run=run)
    assert algorithm.outputs["risks"].shape == (1,)
    assert all(torch.tensor(witness.losses).isfinite())


@pytest.mark.parametrize("name", ALGORITHMS)
def test_evaluation_is_deterministic_and_changes_nothing(name):
    algorithm, _, _ = trained(name)
    before = weights(algorithm)
    data = make_data()
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        found.append(
            evaluate(algorithm.network, data, all_splits(data), torch.device("cpu"), Precision())
        )
    assert found[0] == found[1]
    assert len(found[0]) == 10
    assert_equal_weights(weights(algorithm), before)
