"""Against torchvision's own operations on Pillow images, sample by sample, and by statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import RandomResizedCrop  # type: ignore[import-untyped]
from torchvision.transforms import functional as F

from datamodules.augmentation import NUMBERS, Augmentation, Draws, uniforms

SIDE = 48
DOMAINBED = Augmentation()


def photo(seed: int, side: int = SIDE) -> Image.Image:
    """A smooth colourful image with an edge in it."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(256, size=(6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC)).copy()
    pixels[side // 3 : side // 2, side // 4 :] = random.integers(256, size=3)
    return Image.fromarray(pixels)


def as_pixels(images: list[Image.Image]) -> Tensor:
    return torch.from_numpy(np.stack([np.asarray(i).transpose(2, 0, 1) for i in images]))


def draws(count: int, **changed: Tensor) -> Draws:
    """Draws that leave an image as it is, but for what is changed."""
    nothing = {
        "boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]], dtype=torch.float64).repeat(count, 1),
        "flips": torch.zeros(count, dtype=torch.bool),
        "order": torch.arange(4).repeat(count, 1),
        "factors": torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64).repeat(count, 1),
        "grayscale": torch.zeros(count, dtype=torch.bool),
    }
    return Draws(**{**nothing, **changed})


def grey_levels(found: Tensor, expected: Image.Image) -> Tensor:
    """Absolute differences of pixels, in grey levels."""
    return (255 * found - as_pixels([expected])[0].float()).abs()


def test_draws_that_change_nothing_change_nothing():
    pixels = as_pixels([photo(0), photo(1)])
    found = DOMAINBED(pixels, draws(2))
    torch.testing.assert_close(found, pixels / 255, rtol=0, atol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(0, 0, 48, 48), (3, 5, 40, 33), (10, 0, 38, 48), (7, 11, 41, 37)])
def test_a_crop_is_pillows_crop_and_resize(box, flip):
    top, left, height, width = box
    image = photo(2)
    expected = F.resized_crop(image, *box, [SIDE, SIDE])
    expected = F.hflip(expected) if flip else expected
    shares = torch.tensor([[top, left, height, width]], dtype=torch.float64) / SIDE
    found = DOMAINBED(as_pixels([image]), draws(1, boxes=shares, flips=torch.tensor([flip])))
    # Pillow rounds once along each axis.
    assert grey_levels(found[0], expected).max() < 1.05


OPERATIONS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)


@pytest.mark.parametrize("factor", [0.7, 0.93, 1.3])
@pytest.mark.parametrize("operation", range(3))
def test_brightness_contrast_and_saturation_are_pillows(operation, factor):
    image = photo(3)
    factors = torch.tensor([[1.0, 1.0, 1.0, 0.0]], dtype=torch.float64)
    factors[0, operation] = factor
    found = DOMAINBED(as_pixels([image]), draws(1, factors=factors))
    # Pillow cuts off what is behind the point; its means and greys are whole numbers.
    assert grey_levels(found[0], OPERATIONS[operation](image, factor)).max() < 2.1


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 1, 3), (1, 2, 0, 3), (3, 1, 0, 2)])
def test_they_follow_each_other_in_the_order_drawn(order):
    image = photo(4)
    factors = (1.28, 0.74, 1.22, 0.0)
    expected = image
    for operation in order:
        if operation < 3:
            expected = OPERATIONS[operation](expected, factors[operation])
    found = DOMAINBED(
        as_pixels([image]),
        draws(1, order=torch.tensor([order]), factors=torch.tensor([factors]).double()),
    )
    assert grey_levels(found[0], expected).max() < 5
    # Another order would not pass: there is something to tell apart.
    swapped = DOMAINBED(
        as_pixels([image]),
        draws(1, order=torch.tensor([order[::-1]]), factors=torch.tensor([factors]).double()),
    )
    assert (255 * (swapped - found)).abs().max() > 8


def test_grayscale_is_pillows():
    image = photo(5)
    found = DOMAINBED(as_pixels([image]), draws(1, grayscale=torch.tensor([True])))
    assert grey_levels(found[0], F.to_grayscale(image, 3)).max() < 1.05


@pytest.mark.parametrize("turn", [-0.3, -0.1, 0.2])
def test_a_hue_turns_by_the_angle_that_pillow_turns_it_by_and_keeps_greys_and_luma(turn):
    image = photo(6)
    factors = torch.tensor([[1.0, 1.0, 1.0, turn]], dtype=torch.float64)
    pixels = as_pixels([image])
    found = DOMAINBED(pixels, draws(1, factors=factors))[0]
    pillow = as_pixels([F.adjust_hue(image, turn)])[0] / 255
    # The deviation: in YIQ a hue's angle is not HSV's, but it turns the same way, about as far.
    before, ours, theirs = (_chromaticity(each) for each in (pixels[0] / 255, found, pillow))
    turned = [
        torch.angle((after * before.conj()).sum()) / (2 * torch.pi) for after in (ours, theirs)
    ]
    assert abs(turned[0] - turned[1]) < 0.06
    assert torch.sign(turned[0]) == torch.sign(turned[1])
    inside = ((found > 0) & (found < 1)).all(dim=0)
    luma = [
        (torch.tensor([0.299, 0.587, 0.114]) @ each.flatten(1)) for each in (pixels[0] / 255, found)
    ]
    torch.testing.assert_close(
        luma[0][inside.flatten()], luma[1][inside.flatten()], rtol=0, atol=2e-3
    )
    grey = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    torch.testing.assert_close(
        DOMAINBED(grey, draws(1, factors=factors)), grey / 255, rtol=0, atol=1e-3
    )


def _chromaticity(image: Tensor) -> Tensor:
    """The plane of colours without grey, in which a hue is an angle."""
    red, green, blue = image
    return torch.complex(red - (green + blue) / 2, 3**0.5 / 2 * (green - blue))


@pytest.mark.parametrize("size", [(227, 227), (300, 140), (1, 1), (40, 640)])
def test_crops_have_the_law_of_torchvisions(size):
    count = 1000
    height, width = size
    sizes = np.tile(np.array(size), (count, 1))
    boxes = DOMAINBED.draw(uniforms(count, 0, "crops", height), sizes).boxes
    ours = (boxes * torch.tensor([height, width, height, width])).numpy()
    np.testing.assert_allclose(ours, np.rint(ours), atol=1e-9)
    assert (ours >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= np.array(size) + 1e-9).all()
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    peer = RandomResizedCrop.get_params
    theirs = np.array([peer(image, (0.7, 1.0), (3 / 4, 4 / 3)) for _ in range(count)])
    for quantity in (
        lambda b: b[:, 0],
        lambda b: b[:, 1],
        lambda b: b[:, 2] * b[:, 3],
        lambda b: b[:, 3] / b[:, 2],
    ):
        mine, other = quantity(ours), quantity(theirs)
        error = np.sqrt((mine.var() + other.var()) / count)
        assert abs(mine.mean() - other.mean()) <= 4.5 * error + 1e-12
        quantiles = [0.1, 0.5, 0.9]
        assert np.allclose(
            np.quantile(mine, quantiles), np.quantile(other, quantiles), rtol=0.06, atol=2.1
        )


def test_the_other_draws_have_the_recipes_probabilities():
    count = 20_000
    drawn = DOMAINBED.draw(uniforms(count, 1, "rest"), np.full((count, 2), 50))
    assert abs(drawn.flips.double().mean() - 0.5) < 0.015
    assert abs(drawn.grayscale.double().mean() - 0.1) < 0.01
    assert drawn.factors[:, :3].min() > 0.7 - 1e-9
    assert drawn.factors[:, :3].max() < 1.3
    assert drawn.factors[:, 3].abs().max() < 0.3
    torch.testing.assert_close(
        drawn.factors.std(dim=0), torch.full((4,), 0.6 / 12**0.5).double(), rtol=0.02, atol=0
    )
    orders, seen = drawn.order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert (seen - count / 24).abs().max() < 5 * (count / 24) ** 0.5
    assert np.corrcoef(drawn.factors.T.numpy())[~np.eye(4, dtype=bool)].__abs__().max() < 0.03


def test_what_happens_to_a_row_depends_on_its_names_and_number_alone():
    many, few = uniforms(64, 5, "augmentation", 2, 17), uniforms(9, 5, "augmentation", 2, 17)
    assert many.shape == (64, NUMBERS)
    assert np.array_equal(many[:9], few)
    assert not np.array_equal(few, uniforms(9, 5, "augmentation", 2, 18))
    sizes = np.full((64, 2), 50)
    whole = DOMAINBED.draw(many, sizes)
    part = DOMAINBED.draw(many[3::2], sizes[3::2])
    assert torch.equal(whole.boxes[3::2], part.boxes)
    pixels = as_pixels([photo(number) for number in range(20)])
    every = DOMAINBED(pixels, whole.rows(slice(0, 20)))
    alone = DOMAINBED(pixels[13:14], whole.rows(slice(13, 14)))
    assert torch.equal(every[13:14], alone)
