from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from datamodules.colored_mnist import ColoredMNIST
from datamodules.errors import DataError
from datamodules.rotated_mnist import RotatedMNIST, rotate
from datamodules.views import VIEWS, variable_names, variables

IMAGES = torch.rand(5, 3, 14, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def shuffled(images: Tensor) -> Tensor:
    order = torch.randperm(images[0, 0].numel(), generator=torch.Generator().manual_seed(1))
    return images.flatten(2)[:, :, order].reshape(images.shape)


def bar(degrees: float, *, centre: tuple[float, float] = (0, 0), scale: float = 1.0) -> Tensor:
    """A long Gaussian blob, turned counter-clockwise from lying flat."""
    rows, columns = np.mgrid[:61, :61] - 30.0
    x, y = columns - centre[0], -rows - centre[1]
    angle = math.radians(degrees)
    along, across = (
        math.cos(angle) * x + math.sin(angle) * y,
        math.cos(angle) * y - math.sin(angle) * x,
    )
    values = np.exp(-0.5 * ((along / 6) ** 2 + (across / 2) ** 2) / scale**2)
    return torch.from_numpy(values)[None, None]


def test_colours_are_the_channels_moments_wherever_the_pixels_are() -> None:
    found = VIEWS["colour"](IMAGES).numpy()

    expected = np.concatenate(
        [IMAGES.numpy().mean(axis=(2, 3)), IMAGES.numpy().std(axis=(2, 3))], 1
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(VIEWS["colour"](shuffled(IMAGES)).numpy(), found, rtol=1e-12)


@pytest.mark.parametrize("name", ["ink", "layout", "orientation", "shape"])
def test_only_colours_see_which_channel_an_image_stands_in(name: str) -> None:
    permuted = IMAGES[:, [2, 0, 1]]

    assert torch.equal(variables(IMAGES, [name])[name], variables(permuted, [name])[name])
    assert not torch.equal(VIEWS["colour"](IMAGES), VIEWS["colour"](permuted))


def test_ink_is_what_is_left_of_a_shape_when_it_is_shuffled() -> None:
    views = ["ink", "layout", "orientation", "shape"]
    before, after = variables(IMAGES, views), variables(shuffled(IMAGES), views)

    np.testing.assert_allclose(before["ink"], IMAGES.numpy().max(axis=1).mean(axis=(1, 2))[:, None])
    assert torch.allclose(before["ink"], after["ink"], rtol=1e-12)
    for name in views[1:]:
        assert not torch.allclose(before[name], after[name], rtol=1e-3)


def test_layout_is_the_mean_of_cells() -> None:
    squares = torch.arange(16.0).reshape(1, 1, 4, 4)
    tiled = squares.repeat_interleave(7, dim=2).repeat_interleave(7, dim=3)

    assert torch.equal(VIEWS["layout"](tiled), squares)
    assert VIEWS["layout"](IMAGES).shape == (5, 1, 4, 4)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 135])
def test_orientation_is_the_angle_of_a_bar_and_its_elongation(degrees: float) -> None:
    found = VIEWS["orientation"](bar(degrees))[0]

    elongation = (6**2 - 2**2) / (6**2 + 2**2)
    doubled = 2 * math.radians(degrees)
    expected = torch.tensor([math.cos(doubled), math.sin(doubled)]) * elongation
    torch.testing.assert_close(found, expected.double(), atol=2e-3, rtol=0)


def test_orientation_sees_neither_place_nor_size_nor_brightness() -> None:
    plain = VIEWS["orientation"](bar(20))

    for other in (bar(20, centre=(4, -3)), bar(20, scale=0.7), 0.3 * bar(20) - 2):
        torch.testing.assert_close(VIEWS["orientation"](other), plain, atol=2e-3, rtol=0)


def test_turning_an_image_turns_its_orientation_by_twice_the_angle() -> None:
    turned = VIEWS["orientation"](rotate(bar(0), 25))[0]

    angle = math.degrees(math.atan2(turned[1].item(), turned[0].item())) / 2
    assert abs(angle - 25) < 0.5


def test_an_image_without_contrast_has_finite_views() -> None:
    for value in variables(torch.full((2, 3, 8, 8), 0.5), list(VIEWS)).values():
        assert value.isfinite().all()
    assert torch.equal(VIEWS["orientation"](torch.full((2, 3, 8, 8), 0.5)), torch.zeros(2, 2))


def test_a_coloured_digit_falls_into_its_colour_and_its_shape() -> None:
    options: dict[str, Any] = {"test_envs": [2], "draws": 40, "holdout_draws": 10}
    coloured, grey = ColoredMNIST(**options), ColoredMNIST(**options, grayscale=True)
    data = coloured.environment(0)
    found = variables(data.inputs, coloured.views)

    assert grey.views == ("shape",)
    assert torch.equal(found["shape"], grey.environment(0).inputs)
    brighter = found["colour"][:, :2].argmax(dim=1)
    assert torch.equal(brighter, data.factors["colour"])


def test_each_environment_of_turned_digits_turns_their_orientation() -> None:
    data = RotatedMNIST(test_envs=[0], shared_images=True, holdout_fraction=0.0)
    ones = data.environment(0).targets == 1
    directions = [
        variables(data.environment(index).inputs[ones], data.views)["orientation"].mean(dim=0)
        for index in (0, 2)
    ]
    angles = [math.atan2(vector[1].item(), vector[0].item()) / 2 for vector in directions]

    assert abs(math.degrees(angles[1] - angles[0]) % 180 - 30) < 3


def test_the_variables_of_a_vector_are_its_numbers() -> None:
    vectors = torch.arange(6.0).reshape(2, 3)
    found = variables(vectors, ["shape"])

    assert tuple(found) == variable_names((3,), []) == ("x1", "x2", "x3")
    assert torch.equal(torch.cat(list(found.values()), dim=1), vectors)


@pytest.mark.parametrize("views", [["hue"], [], ["shape", "shape"]])
def test_other_views_are_refused_with_those_there_are(views: list[str]) -> None:
    with pytest.raises(DataError, match="name some of colour, ink, layout, orientation, shape"):
        variables(IMAGES, views)


def test_what_is_neither_image_nor_vector_is_refused() -> None:
    with pytest.raises(DataError, match=r"shape \(2, 3\)"):
        variable_names((2, 3), ["shape"])
