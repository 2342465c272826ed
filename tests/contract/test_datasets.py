"""What every data set of the suite keeps, without being named here."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.environments import SPLITS, EnvironmentData, Split
from datamodules.image_folder import ImageFolder
from datamodules.images import Images
from dgbench import registry
from dgbench.backbones import is_published
from dgbench.protocols import configs, protocols
from dgbench.search_space import hyperparameters
from dgbench.settings import resolve
from dgbench.training import build_algorithm, build_data
from tests.folders import folder_options

DATA_SETS = tuple(registry.entries("data set"))
ALGORITHMS = tuple(registry.entries("algorithm"))
PROTOCOLS = [(data_set, protocol) for data_set in DATA_SETS for protocol in protocols(data_set)]
# Makes a known data set small; one that is not listed is tested as it is.
SMALL: dict[str, dict[str, Any]] = {
    "colored_mnist": {"draws": 200, "holdout_draws": 60},
    "rotated_mnist": {"image_size": 14},
}


def small_options(name: str) -> dict[str, Any]:
    data_set = cast("type[EnvironmentDataModule]", registry.load("data set", name))
    if issubclass(data_set, ImageFolder):
        return folder_options(name, data_set)
    return SMALL.get(name, {})


def make(name: str, **run: Any) -> EnvironmentDataModule:
    options = {"test_envs": [0], **small_options(name), **run}
    return cast("EnvironmentDataModule", registry.load("data set", name)(**options))


def all_inputs(environment: EnvironmentData) -> Tensor:
    inputs: Tensor = environment.inputs.index_select(0, torch.arange(len(environment.targets)))
    return inputs


@functools.cache
def loaded(name: str) -> EnvironmentDataModule:
    """The data set with its defaults, loaded once; no test may change it."""
    data = make(name)
    data.setup()
    return data


def every_split(data: EnvironmentDataModule) -> list[tuple[int, Split]]:
    return [(index, split) for index in range(len(data.environment_names)) for split in SPLITS]


# What a data set says of itself


@pytest.mark.parametrize("name", DATA_SETS)
def test_names_are_told_apart_from_indices_and_each_other(name):
    data = loaded(name)
    spellings = [*data.environment_names, *data.environment_aliases]
    assert len(data.environment_names) >= 2
    assert len(set(spellings)) == len(spellings)
    assert not any(spelling.lstrip("-").isdigit() for spelling in spellings)
    assert set(data.environment_aliases.values()) <= set(data.environment_names)
    typed = {alias: of for alias, of in data.environment_aliases.items() if alias[0] != "-"}
    for environment in data.environment_names:
        assert environment[0] != "-" or environment in typed.values()
    for index, environment in enumerate(data.environment_names):
        assert make(name, test_envs=[environment]).test_environments == (index,)


@pytest.mark.parametrize("name", DATA_SETS)
def test_tensors_are_what_the_data_set_says(name):
    data = loaded(name)
    assert len(set(data.class_names)) == len(data.class_names) >= 2
    for index in range(len(data.environment_names)):
        environment = data.environment(index)
        assert environment.inputs.shape == (len(environment.targets), *data.input_shape)
        inputs = all_inputs(environment)
        assert inputs.dtype == torch.float32
        assert inputs.shape == environment.inputs.shape
        assert inputs.isfinite().all()
        assert environment.targets.dtype == torch.int64
        assert sorted(set(environment.targets.tolist())) == list(range(len(data.class_names)))


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize(("mode", "size"), [("RGB", (40, 31)), ("L", (28, 28)), ("RGBA", (7, 90))])
def test_an_image_of_ones_own_becomes_an_input(name, mode, size):
    data = loaded(name)
    pixels = np.random.default_rng(0).integers(256, size=(*size[::-1], 4), dtype=np.uint8)
    found = data.preprocessing(Image.fromarray(pixels, "RGBA").convert(mode))
    assert found.shape == data.input_shape
    assert found.dtype == torch.float32
    assert found.isfinite().all()


# Leaks


def tensors_of(value: object) -> Iterator[Tensor]:
    """All tensors that an object holds, however deep."""
    if isinstance(value, Tensor):
        yield value
    for part in parts_of(value):
        yield from tensors_of(part)


def parts_of(value: object) -> list[object]:
    if isinstance(value, Images):
        return [value.index_select(0, torch.arange(len(value)))]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    return list(getattr(value, "__dict__", {}).values())


def images(inputs: Tensor) -> set[bytes]:
    return {row.tobytes() for row in inputs.numpy()}


def held_out(data: EnvironmentDataModule) -> set[bytes]:
    """Images of all splits that no training may see."""
    found = set()
    for index, split in every_split(data):
        if split == "holdout" or index not in data.train_environments:
            environment = data.environment(index)
            found |= images(environment.inputs[environment.indices(split)])
    return found


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_training_stream_holds_no_image_that_is_held_out(name):
    last = len(loaded(name).environment_names) - 1
    data = make(name, test_envs=[last], steps=5)
    stream = data.train_dataloader()
    next(iter(stream))
    held = [
        each
        for each in tensors_of(stream)
        if each.shape[1:] == data.input_shape and each.is_floating_point()
    ]
    main = [data.environment(index).main for index in data.train_environments]
    assert sum(map(len, held)) == sum(map(len, main))
    forbidden = held_out(data)
    assert forbidden
    assert not any(images(each) & forbidden for each in held)


@pytest.mark.parametrize("name", DATA_SETS)
@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
def test_no_held_out_index_comes_in_200_batches(name, sampling):
    data = make(name, test_envs=[1], steps=200, batch_size=16, sampling=sampling)
    data.augmentation = None
    batches = list(data.train_dataloader())
    assert len(batches) == 200
    for position, index in enumerate(data.train_environments):
        environment = data.environment(index)
        chosen = [batch.environment == position for batch in batches]
        drawn = torch.cat([b.indices[c] for b, c in zip(batches, chosen, strict=True)])
        inputs = torch.cat([b.inputs[c] for b, c in zip(batches, chosen, strict=True)])
        targets = torch.cat([b.targets[c] for b, c in zip(batches, chosen, strict=True)])
        assert len(drawn) == 200 * 16
        assert torch.isin(drawn, environment.main).all()
        assert not torch.isin(drawn, environment.holdout).any()
        # An index tells the truth about its row.
        assert torch.equal(inputs, environment.inputs[drawn])
        assert torch.equal(targets, environment.targets[drawn])


@pytest.mark.parametrize("name", DATA_SETS)
def test_no_source_image_stands_in_two_splits(name):
    data = loaded(name)
    owners: dict[int, tuple[int, str]] = {}
    for index, split in every_split(data):
        environment = data.environment(index)
        for source in set(environment.sources[environment.indices(split)].tolist()):
            owner = (0 if data.shares_sources else index, split)
            assert owners.setdefault(source, owner) == owner


# What the data depend on


def stir() -> None:
    """Puts every global random state elsewhere."""
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)


def random_states() -> tuple[Any, Any, list[int]]:
    return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", DATA_SETS)
def test_data_depend_on_the_data_seed_alone(name):
    data = loaded(name)
    count = len(data.environment_names)
    stir()
    other = make(
        name,
        test_envs=[count - 1],
        train_envs=[0],
        trial_seed=7,
        steps=3,
        batch_size="full",
        sampling="replacement",
    )
    # In another order, too.
    for index in reversed(range(count)):
        expected, found = data.environment(index), other.load_environment(index)
        assert torch.equal(all_inputs(found), all_inputs(expected))
        for each in ("targets", "sources", "main", "holdout"):
            assert torch.equal(getattr(found, each), getattr(expected, each)), each
    assert other.fingerprints() == data.fingerprints()
    assert other.fingerprint == data.fingerprint


@pytest.mark.parametrize("name", DATA_SETS)
def test_options_that_locate_files_are_options_and_decide_nothing(name):
    data = loaded(name)
    options = {option.name for option in hyperparameters(type(data))}
    assert set(data.location_options) <= options
    assert not set(data.location_options) & set(data.parameters())


@pytest.mark.parametrize("name", DATA_SETS)
def test_loading_leaves_global_random_states_alone(name):
    stir()
    before = random_states()
    data = make(name)
    data.setup()
    data.train_dataloader().batch(3)
    assert random_states() == before


@pytest.mark.parametrize("name", DATA_SETS)
def test_another_data_seed_gives_other_splits_and_fingerprints(name):
    data, other = loaded(name), make(name, data_seed=1)
    ours, theirs = data.fingerprints(), other.fingerprints()
    assert list(ours) == [
        f"{environment}/{split}" for environment in data.environment_names for split in SPLITS
    ]
    assert all(ours[split] != theirs[split] for split in ours)
    assert len(set(ours.values())) == len(ours)
    for index, split in every_split(data):
        first, second = data.environment(index), other.environment(index)
        assert not torch.equal(
            first.sources[first.indices(split)], second.sources[second.indices(split)]
        )


@pytest.mark.parametrize("name", DATA_SETS)
def test_the_trial_seed_decides_the_order_of_batches(name):
    first, again, other = (
        make(name, trial_seed=seed).train_dataloader().batch(2).indices for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# Evaluation


@pytest.mark.parametrize("name", DATA_SETS)
def test_evaluation_batches_are_complete_and_the_same_each_time(name):
    data = loaded(name)
    for index, split in every_split(data):
        environment = data.environment(index)
        chosen = environment.indices(split)
        expected = environment.inputs[chosen], environment.targets[chosen], chosen
        for batch_size in (8192, 37):
            batches = list(data.evaluation_batches(index, split, batch_size=batch_size))
            assert all(len(batch[2]) <= batch_size for batch in batches)
            for part, whole in zip(zip(*batches, strict=True), expected, strict=True):
                assert torch.equal(torch.cat(part), whole)


@pytest.mark.parametrize("name", DATA_SETS)
def test_ranks_share_an_evaluation_without_repetition(name):
    data = loaded(name)
    indices = [
        torch.cat(
            [batch[2] for batch in data.evaluation_batches(0, "main", rank=rank, world_size=3)]
        )
        for rank in range(3)
    ]
    together = torch.cat(indices)
    assert torch.equal(together.sort().values, data.split_indices(0, "main"))


# Protocols


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_has_a_protocol(name):
    assert protocols(name)


@pytest.mark.parametrize(("data_set", "protocol"), PROTOCOLS)
def test_a_protocols_files_are_named_after_algorithms(data_set, protocol):
    stems = {file.stem for file in (configs() / data_set / protocol).iterdir()}
    assert stems - {"protocol"} <= set(ALGORITHMS)


@pytest.mark.parametrize("algo", ALGORITHMS)
@pytest.mark.parametrize(("data_set", "protocol"), PROTOCOLS)
def test_a_protocol_resolves_for_every_algorithm(data_set, protocol, algo):
    located = ("root", "cache", "manifest")
    options = {key: value for key, value in small_options(data_set).items() if key in located}
    config = {"dataset": data_set, "protocol": protocol, "algo": algo, "test_env": 0}
    config["data"] = options
    settings = resolve(config)
    files = [configs().parent / file for file in settings.files]
    assert configs() / data_set / protocol / "protocol.yaml" in files
    said: dict[str, Any] = {}
    for file in files:
        for key, value in yaml.safe_load(file.read_text()).items():
            said[key] = {**said.get(key, {}), **value} if isinstance(value, dict) else value

    assert (settings.protocol, settings.algo["name"], settings.data["name"]) == (
        protocol,
        algo,
        data_set,
    )
    assert said["protocol"] == protocol
    for section in ("algo", "data", "network"):
        resolved = getattr(settings, section)
        assert {key: resolved[key] for key in said.get(section, {})} == said.get(section, {})
    for key in ("steps", "check_every", "first_check", "selection", "matmul_precision"):
        if key in said:
            assert getattr(settings, key) == said[key]

    data = build_data(settings)
    assert data.test_environments == (0,)
    if is_published(settings.network["backbone"]):
        return  # too large to be built for every pair; its weights are not here
    algorithm = build_algorithm(settings, data)
    logits = algorithm(torch.zeros(2, *data.input_shape))
    assert logits.shape == (2, len(data.class_names))
