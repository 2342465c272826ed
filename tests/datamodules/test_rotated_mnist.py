from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.environments import Split
from datamodules.errors import DataError
from datamodules.mnist import digits
from datamodules.rotated_mnist import RotatedMNIST, rotate

SPLITS: tuple[Split, ...] = ("main", "holdout")
GOLDEN = "6eaf93cc193019265545d387efb0d4495b7fff7de5e5e71f35fb997e6e47f1a4"
GOLDEN_SHARED = "cf23248ca723ad18387c94f53699d3b0ef74aa23a3e740210cea64ded787817b"
GOLDEN_PRINTS = {
    "0deg/main": "7b459865c85878550cec0c675a15fb56d397a1a352aa02925e306fceb74bd103",
    "0deg/holdout": "11964e20bed0da00952dc70a4a6dfc6fcc3b6e6bf6bd40743b50d733e39217bf",
    "15deg/main": "98eae90d1afad54c25308e5eece9d59202620f9629a70caa2c697b76ef84e599",
    "15deg/holdout": "28230d7018e8cdda1f2920389a10de9990fec778c3b0edfb3e02027b1ee582f5",
    "30deg/main": "0a29975322e8b86c849e3b6612c850f76aa65ef1d917c3f2b9d6f48f7f53ef7d",
    "30deg/holdout": "c7f58736d8ded5a22a45e02171763d2849927d4b6a53555242897adf4a048217",
    "45deg/main": "e6a65b9e338720c70f3f9614aa5c33b91bff8404ba4f40ec4c17a569849d5ed3",
    "45deg/holdout": "7e5d63f9a3a6d3e53168d22bca087ba17af8f4404e59c42d3b397061a7016103",
    "60deg/main": "f8574d60305e4df67ba02aa276f2d81cd8e89154c19d751a4fd8654d96b67916",
    "60deg/holdout": "ef93673fb69a646968fd3cbeb113c9c05db031e1b706367bb25775b73a249b23",
    "75deg/main": "ad6a6cbeee7f26e8c71989dd0fd75a414c077138cd188765b517097eae06ca38",
    "75deg/holdout": "68b28a835ddd6b665dcc7159e97cbf2d55c9869ae4b7a8db3c57a35de63f0541",
}


def make(**options: Any) -> RotatedMNIST:
    return RotatedMNIST(**{"test_envs": ["75deg"], **options})


@pytest.fixture(scope="module")
def data() -> RotatedMNIST:
    return make()


@pytest.fixture(scope="module")
def shared() -> RotatedMNIST:
    return make(shared_images=True)


def pools(data: RotatedMNIST, split: Split) -> list[set[int]]:
    return [
        set(data.environment(index).sources[data.split_indices(index, split)].tolist())
        for index in range(6)
    ]


def test_fingerprints_keep_their_golden_values(data: RotatedMNIST, shared: RotatedMNIST) -> None:
    assert data.fingerprint == GOLDEN
    assert shared.fingerprint == GOLDEN_SHARED
    assert data.fingerprints() == GOLDEN_PRINTS


@pytest.mark.parametrize(
    ("index", "sources", "labels", "holdout"),
    [
        (0, [1857, 1113, 993, 4636], "321999542720", [1, 5, 11, 13]),
        (1, [4032, 3679, 4181, 3166], "878640646070", [18, 21, 24, 28]),
        (5, [3100, 2921, 2938, 2966], "655596488431", [2, 3, 4, 12]),
    ],
)
def test_first_samples_keep_their_golden_values(
    data: RotatedMNIST, index: int, sources: list[int], labels: str, holdout: list[int]
) -> None:
    environment = data.environment(index)

    assert environment.sources[:4].tolist() == sources
    assert "".join(map(str, environment.targets[:12].tolist())) == labels
    assert environment.holdout[:4].tolist() == holdout


def test_sizes_types_and_targets(data: RotatedMNIST) -> None:
    for index in range(6):
        environment = data.environment(index)
        count = 834 if index < 2 else 833
        assert environment.inputs.shape == (count, 1, 28, 28)
        assert environment.inputs.dtype == torch.float32
        assert environment.inputs.min() >= 0
        assert environment.inputs.max() <= 1 + 1e-6
        assert len(environment.holdout) == 166
        assert len(environment.main) == count - 166
        assert environment.targets.tolist() == digits().labels[environment.sources].tolist()
    assert data.environment_names == tuple(f"{angle}deg" for angle in data.angles_degrees)


def test_no_digit_stands_in_two_splits(data: RotatedMNIST) -> None:
    everything = [pool for split in SPLITS for pool in pools(data, split)]

    assert all(not one & other for one, other in itertools.combinations(everything, 2))
    assert set().union(*everything) == set(range(5000))


def test_shared_images_keep_their_split_in_every_environment(shared: RotatedMNIST) -> None:
    main, holdout = pools(shared, "main"), pools(shared, "holdout")
    shared.setup()

    assert all(pool == main[0] for pool in main)
    assert all(pool == holdout[0] for pool in holdout)
    assert (len(main[0]), len(holdout[0])) == (4000, 1000)
    assert not main[0] & holdout[0]


def test_upright_digits_are_unchanged(data: RotatedMNIST) -> None:
    environment = data.environment(0)
    images = digits().images[environment.sources.numpy()]

    assert np.array_equal(environment.inputs[:, 0].numpy(), images / np.float32(255))


@pytest.mark.parametrize("index", [1, 2, 3, 4, 5])
def test_rotation_is_pillows_within_a_grey_level(shared: RotatedMNIST, index: int) -> None:
    environment = shared.environment(index)
    chosen = range(0, 5000, 10)
    expected = np.stack(
        [
            np.asarray(
                Image.fromarray(digits().images[environment.sources[sample]]).rotate(
                    15 * index, Image.Resampling.BILINEAR
                ),
                dtype=np.float64,
            )
            for sample in chosen
        ]
    )
    difference = np.abs(environment.inputs[list(chosen), 0].numpy() * 255.0 - expected)

    assert (difference <= 1).mean() > 0.999
    assert difference.mean() < 0.5


def test_rotation_is_torchvisions() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    images = torch.rand(7, 2, 28, 28, generator=torch.Generator().manual_seed(0))

    for angle in (15, 75, 130.5, -20):
        expected = transforms.functional.rotate(
            images, angle, interpolation=transforms.InterpolationMode.BILINEAR
        )
        assert torch.allclose(rotate(images, angle), expected, atol=1e-5)


def test_a_quarter_turn_is_exact_and_counter_clockwise() -> None:
    images = torch.rand(3, 1, 28, 28, dtype=torch.float64)

    assert torch.allclose(rotate(images, 90), images.rot90(1, (2, 3)), atol=1e-12)


def test_data_depend_on_the_data_seed_alone(data: RotatedMNIST) -> None:
    random.seed(11)
    np.random.seed(12)
    torch.manual_seed(13)
    state = (
        torch.get_rng_state(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        random.getstate(),
    )
    other = make(test_envs=[0, 1], trial_seed=9, steps=70, batch_size="full")

    assert other.fingerprints() == data.fingerprints()
    for index in range(6):
        assert torch.equal(other.environment(index).inputs, data.environment(index).inputs)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == state[1]
    assert random.getstate() == state[2]


def test_another_data_seed_changes_every_split(data: RotatedMNIST) -> None:
    other = make(data_seed=1)

    assert not set(other.fingerprints().values()) & set(data.fingerprints().values())
    for split in SPLITS:
        assert all(
            one != two for one, two in zip(pools(other, split), pools(data, split), strict=True)
        )


def test_small_images_pick_every_other_pixel(data: RotatedMNIST) -> None:
    small = make(image_size=14)

    assert small.input_shape == (1, 14, 14)
    for index in range(6):
        assert torch.equal(
            small.environment(index).inputs, data.environment(index).inputs[:, :, ::2, ::2]
        )


@pytest.mark.parametrize("image_size", [14, 28])
def test_an_image_file_is_preprocessed_as_the_data_are(image_size: int) -> None:
    data = make(image_size=image_size)
    environment = data.environment(0)

    for sample in range(20):
        image = Image.fromarray(digits().images[environment.sources[sample]])
        assert torch.equal(data.preprocessing(image), environment.inputs[sample])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 32}, "image_size is 32; give 28, or 14"),
        ({"source": "emnist"}, "source is 'emnist'; choose one of"),
        ({"holdout_fraction": 1.0}, "holdout_fraction is 1.0; give a share"),
        (
            {"test_envs": ["15 degrees"]},
            r"no environment is called '15 degrees'; did you mean '15deg'\?",
        ),
        ({"test_envs": [15]}, "index 15 is out of range; choose from 0 = 0deg, 1 = 15deg"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**options)
