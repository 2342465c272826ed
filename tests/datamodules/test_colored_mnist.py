from __future__ import annotations

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.colored_mnist import ColoredMNIST
from datamodules.environments import EnvironmentData, Split
from datamodules.errors import DataError
from datamodules.mnist import digits

SPLITS: tuple[Split, ...] = ("main", "holdout")
GOLDEN = "d2dd5c795412b0e2046a3fc23fb029adc7d1e6f510ccef8cd7101426cdd95dca"
GOLDEN_PRINTS = {
    "+90%/main": "8f3795a79c333d83cfb0aedfc7190e59181316c4405c711adcab92a9ea689e52",
    "+90%/holdout": "390c8174fce26db3652719d044a4e620d029f375f4b1a02a0b9bed50646e3009",
    "+80%/main": "3ad377bfe9fd80d450be6d9ab4d01c086b3e87a042e649b51974a37e10557742",
    "+80%/holdout": "dab8dcb4f0ddb79f3b9df0f0ddb88e3e9ec2fe7305d75627fb87fc990abe1c15",
    "-90%/main": "f6aff07c094fdb745f1e5b4752d6a0a3532ed54f6fd4f9b80447d32a675b2dd2",
    "-90%/holdout": "ec1ebde1209a35980220b272385366b136ff272bc241b35618dcf4028e8c847f",
}


def make(**options: Any) -> ColoredMNIST:
    return ColoredMNIST(**{"test_envs": ["-90%"], **options})


@pytest.fixture(scope="module")
def data() -> ColoredMNIST:
    return make()


def colour_shown(environment: EnvironmentData) -> torch.Tensor:
    """The channel that is not black, which is the colour; every image has ink."""
    ink = environment.inputs.flatten(2).sum(2)
    assert ((ink == 0).sum(1) == 1).all()
    return ink.argmax(1)


def close_to(values: torch.Tensor, probability: float) -> bool:
    """Whether a share of trues is within five standard deviations of the binomial."""
    deviation = (probability * (1 - probability) / len(values)) ** 0.5
    return bool(abs(values.double().mean() - probability) < 5 * deviation)


def test_fingerprints_keep_their_golden_values(data: ColoredMNIST) -> None:
    assert data.fingerprint == GOLDEN
    assert data.fingerprints() == GOLDEN_PRINTS


@pytest.mark.parametrize(
    ("index", "sources", "labels", "colours"),
    [
        (0, [906, 3186, 3659, 3335], "1101000011111011", "1101000001111011"),
        (1, [1980, 669, 3958, 1030], "1101111100100010", "1101110000110110"),
        (2, [3493, 167, 2943, 4231], "0001010001111001", "1110101110000110"),
    ],
)
def test_first_samples_keep_their_golden_values(
    data: ColoredMNIST, index: int, sources: list[int], labels: str, colours: str
) -> None:
    environment = data.environment(index)

    assert environment.sources[:4].tolist() == sources
    assert "".join(map(str, environment.targets[:16].tolist())) == labels
    assert "".join(map(str, environment.factors["colour"][:16].tolist())) == colours
    assert colour_shown(environment)[:16].tolist() == [int(colour) for colour in colours]


def test_sizes_types_and_ranges(data: ColoredMNIST) -> None:
    for index in range(3):
        environment = data.environment(index)
        assert environment.inputs.shape == (12_500, 2, 14, 14)
        assert environment.inputs.dtype == torch.float32
        assert environment.inputs.min() == 0
        assert environment.inputs.max() == 1
        assert data.split_indices(index, "main").tolist() == list(range(10_000))
        assert data.split_indices(index, "holdout").tolist() == list(range(10_000, 12_500))
        assert set(environment.targets.tolist()) == {0, 1}
    assert data.input_shape == (2, 14, 14)
    assert len(data.class_names) == 2


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("index", "agreement"), [(0, 0.9), (1, 0.8), (2, 0.1)])
def test_noise_and_colours_have_their_rates(
    data: ColoredMNIST, split: Split, index: int, agreement: float
) -> None:
    environment = data.environment(index)
    chosen = environment.indices(split)
    targets = environment.targets[chosen]
    clean = torch.from_numpy(digits().labels < 5)[environment.sources[chosen]]
    colours = colour_shown(environment)[chosen]

    assert close_to(targets != clean, 0.25)
    assert close_to(colours == targets, agreement)
    flipped = targets != clean
    assert close_to((colours == targets)[flipped], agreement)
    assert close_to((colours == targets)[~flipped], agreement)
    assert abs(targets.double().mean() - 0.5) < 0.05


def test_colour_one_keeps_channel_one(data: ColoredMNIST) -> None:
    for index in range(3):
        environment = data.environment(index)
        colours = environment.factors["colour"]
        images = digits().images[environment.sources.numpy()][:, ::2, ::2]
        samples = torch.arange(len(colours))

        assert torch.equal(colours, colour_shown(environment))
        assert not environment.inputs[samples, 1 - colours].any()
        kept = environment.inputs[samples, colours]
        assert np.array_equal(kept.numpy(), images / np.float32(255))


def test_label_one_is_a_digit_below_five() -> None:
    data = make(label_noise=0.0)

    for index in range(3):
        environment = data.environment(index)
        labels = digits().labels[environment.sources.numpy()]
        assert environment.targets.tolist() == [int(label < 5) for label in labels]
    assert data.class_names[1] == "0-4"
    assert make(label_noise=1.0).environment(0).targets.tolist() == [
        int(label >= 5) for label in digits().labels[make().environment(0).sources.numpy()]
    ]


def test_no_digit_stands_in_two_splits(data: ColoredMNIST) -> None:
    pools = [
        set(data.environment(index).sources[data.split_indices(index, split)].tolist())
        for index in range(3)
        for split in SPLITS
    ]

    assert all(not one & other for one, other in itertools.combinations(pools, 2))
    assert [len(pool) for pool in pools] == [1334, 333, 1334, 333, 1333, 333]
    assert set().union(*pools) == set(range(5000))


def test_digits_are_drawn_as_evenly_as_possible(data: ColoredMNIST) -> None:
    for index in range(3):
        for split in SPLITS:
            sources = data.environment(index).sources[data.split_indices(index, split)]
            counts = Counter(sources.tolist()).values()
            assert max(counts) - min(counts) <= 1


def test_data_depend_on_the_data_seed_alone(data: ColoredMNIST) -> None:
    random.seed(11)
    np.random.seed(12)
    torch.manual_seed(13)
    state = (
        torch.get_rng_state(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        random.getstate(),
    )
    other = make(test_envs=[0], trial_seed=9, steps=70, batch_size="full", sampling="replacement")

    assert other.fingerprints() == data.fingerprints()
    for index in range(3):
        assert torch.equal(other.environment(index).inputs, data.environment(index).inputs)
        assert torch.equal(other.environment(index).targets, data.environment(index).targets)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == state[1]
    assert random.getstate() == state[2]


def test_another_data_seed_changes_every_split(data: ColoredMNIST) -> None:
    other = make(data_seed=1)

    assert not set(other.fingerprints().values()) & set(data.fingerprints().values())
    for index in range(3):
        for part in ("sources", "targets"):
            assert not torch.equal(
                getattr(other.environment(index), part), getattr(data.environment(index), part)
            )


def test_fewer_draws_are_the_beginning_of_more(data: ColoredMNIST) -> None:
    small = make(draws=2_000, holdout_draws=500)

    for index in range(3):
        few, many = small.environment(index), data.environment(index)
        for split in SPLITS:
            own = few.indices(split)
            chosen = many.indices(split)[: len(own)]
            assert len(own) == small.draws[split]
            assert torch.equal(few.inputs[own], many.inputs[chosen])
            assert torch.equal(few.targets[own], many.targets[chosen])


def test_grayscale_is_the_digit_without_its_colour(data: ColoredMNIST) -> None:
    """The paper's grayscale model sums the two channels before its first layer."""
    oracle = make(grayscale=True)

    assert oracle.input_shape == (1, 14, 14)
    for index in range(3):
        grey, coloured = oracle.environment(index), data.environment(index)
        assert torch.equal(grey.inputs, coloured.inputs.sum(1, keepdim=True))
        assert torch.equal(grey.targets, coloured.targets)
        assert torch.equal(grey.sources, coloured.sources)
    assert not set(oracle.fingerprints().values()) & set(data.fingerprints().values())


def test_large_images_are_the_whole_digits(data: ColoredMNIST) -> None:
    large = make(image_size=28, draws=100, holdout_draws=0)
    inputs = large.environment(0).inputs

    assert inputs.shape == (100, 2, 28, 28)
    assert large.input_shape == (2, 28, 28)
    assert torch.equal(inputs[:, :, ::2, ::2], data.environment(0).inputs[:100])


def test_an_image_file_is_preprocessed_as_the_data_are(data: ColoredMNIST) -> None:
    for grayscale in (False, True):
        module = make(grayscale=grayscale, draws=50, holdout_draws=0)
        environment = module.environment(1)
        for sample in range(50):
            digit = digits().images[environment.sources[sample]]
            image = np.zeros((28, 28, 3), dtype=np.uint8)
            colour = int(environment.factors["colour"][sample])
            image[:, :, slice(3) if grayscale else colour] = (
                digit[:, :, None] if grayscale else digit
            )
            assert torch.equal(
                module.preprocessing(Image.fromarray(image)), environment.inputs[sample]
            )


def test_names_aliases_and_indices_are_environments() -> None:
    for spelling in ("-90%", "minus90", 2, "2"):
        assert make(test_envs=[spelling]).test_environments == (2,)
    assert make(test_envs=["plus90", "plus80"]).train_environments == (2,)


def test_training_never_sees_a_held_out_digit() -> None:
    data = make(draws=300, holdout_draws=90, steps=40, batch_size=100)
    allowed = [
        set(data.environment(index).sources[data.split_indices(index, "main")].tolist())
        for index in (0, 1)
    ]

    for batch in data.train_dataloader():
        for position in (0, 1):
            indices = batch.indices[batch.environment == position]
            assert set(data.environment(position).sources[indices].tolist()) <= allowed[position]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, "image_size is 32; give 28, or 14"),
        ({"source": "emnist"}, "source is 'emnist'; choose one of"),
        ({"draws": 0}, "draws is 0 and holdout_draws is 2500; give at least 1 and 0"),
        ({"holdout_draws": -1}, "holdout_draws is -1; give at least 1 and 0"),
        ({"holdout_fraction": 1.0}, "holdout_fraction is 1.0; give a share"),
        ({"holdout_fraction": 0.0}, "raise the fraction or set holdout_draws to 0"),
        ({"label_noise": 1.5}, "label_noise is 1.5; give a probability from 0 to 1"),
        ({"test_envs": ["+8%"]}, r"no environment is called '\+8%'; did you mean '\+80%'\?"),
        ({"test_envs": [3]}, r"index 3 is out of range; choose from 0 = \+90% = plus90, 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**options)


def test_no_holdout_is_possible() -> None:
    data = make(draws=100, holdout_draws=0, holdout_fraction=0.0)
    data.setup()

    assert [len(data.split_indices(index, "holdout")) for index in range(3)] == [0, 0, 0]
