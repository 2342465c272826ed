"""Equal settings give equal weights, whatever an algorithm builds, wherever it is trained."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.scm import Table
from dgbench import registry
from dgbench.linear_forms import Form, make_algorithm
from dgbench.networks import NetworkOptions, build_network
from dgbench.runtime import seeded
from dgbench.settings import Settings, resolve
from dgbench.stacked.training import run_stacked
from dgbench.training import build_algorithm, build_data, run
from tests.dgbench import dann
from tests.dgbench.tiny import checks, command, fit

DANN, LATE = "tests.dgbench.dann.DANN", "tests.dgbench.dann.LateDANN"


def weights(folder: Path) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    return state


def differing(one: dict[str, Tensor], two: dict[str, Tensor]) -> list[str]:
    assert one.keys() == two.keys()
    return [name for name in one if not torch.equal(one[name], two[name])]


def settings(out: Path, algo: str, **options: Any) -> Settings:
    config = {
        "algo": algo, "test_env": 2, "steps": 4, "check_every": 2, "network": {"width": 8},
        "data": {"draws": 200, "holdout_draws": 50}, "out": str(out),
    }  # fmt: skip
    return resolve(config | options)


@pytest.mark.parametrize("algo", [DANN, LATE])
def test_the_same_fit_typed_twice_gives_the_same_weights_and_losses(algo, tmp_path):
    torch.manual_seed(1)
    folder = fit(tmp_path, algo=algo)
    first, losses = weights(folder), checks(folder)
    torch.manual_seed(2)
    assert fit(tmp_path, "--force", algo=algo) == folder
    assert differing(first, weights(folder)) == []
    assert checks(folder) == losses


def test_the_trial_seed_decides_every_module(tmp_path):
    built = []
    for trial_seed in (0, 1):
        own = settings(tmp_path, DANN, trial_seed=trial_seed)
        built.append(dict(build_algorithm(own, build_data(own)).named_parameters()))
    assert all(
        not torch.equal(built[0][name], built[1][name]) for name in built[0] if "weight" in name
    )
    assert not torch.equal(*(each["discriminator.weight"] for each in built))


def test_resumed_it_has_what_no_checkpoint_holds(tmp_path):
    whole = fit(tmp_path / "whole", algo=DANN)
    short = fit(tmp_path / "grown", "--steps", 2, algo=DANN)
    torch.manual_seed(3)
    code, shown, errors = command("fit", "--resume", short, "--steps", 4)
    assert code == 0, errors
    grown = short.parent / whole.name
    assert str(grown) in shown
    assert differing(weights(whole), weights(grown)) == []


def test_stacked_it_is_what_it_is_alone(tmp_path):
    # In float32 Adam's first steps are signs of gradients, of which some are zero but for rounding.
    double = {"trainer": {"precision": "64-true"}, "data_seed": 0}
    runs = [settings(tmp_path / "stacked", DANN, trial_seed=seed, **double) for seed in (0, 1)]
    for own, stacked in zip(runs, run_stacked(runs), strict=True):
        assert stacked.run["hardware"]["stacked"] == 2
        alone = run(replace(own, out=str(tmp_path / "alone")))
        assert alone.folder.name == stacked.folder.name
        for name, value in weights(alone.folder).items():
            found = weights(stacked.folder)[name]
            torch.testing.assert_close(found, value, rtol=0, atol=1e-9)


def test_screened_it_is_built_alike():
    places = np.array(["north", "north", "south", "south"])
    table = Table(np.ones((4, 3)), np.arange(4) % 2, places, ("a", "b", "c"), ())
    form = Form(regression=False, reduced=False)
    built = [make_algorithm(form, dann.DANN, {}, table, 0).state_dict() for _ in range(2)]
    assert differing(*built) == []


@pytest.mark.parametrize("name", registry.entries("algorithm"))
def test_what_the_suite_has_keeps_the_weights_that_its_network_alone_was_seeded_with(
    name, tmp_path
):
    own = settings(tmp_path, name)
    data = build_data(own)
    network = build_network(NetworkOptions(**own.network), data.input_shape, 2, own.trial_seed)
    options = {key: value for key, value in own.algo.items() if key != "name"}
    if "views" in options:
        options["views"] = list(data.views)
    kind: Any = registry.load("algorithm", name)
    unseeded = kind(network=network, n_environments=2, **options)
    built = build_algorithm(own, data)
    assert differing(unseeded.state_dict(), built.state_dict()) == []


def states() -> list[Any]:
    numpy: Any = np.random.get_state()
    return [random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()]


def test_global_generators_are_seeded_and_given_back_even_by_what_fails(tmp_path):
    before = states()
    drawn = []
    for _ in range(2):
        with seeded(2**62 + 5):
            drawn.append((random.random(), float(np.random.random()), torch.rand(1).item()))
    with pytest.raises(ZeroDivisionError), seeded(0):
        1 / 0  # noqa: B018
    own = settings(tmp_path, DANN)
    build_algorithm(own, build_data(own))
    assert drawn[0] == drawn[1]
    assert states() == before
