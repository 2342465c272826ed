from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.errors import DataError
from datamodules.preprocessing import Preprocessing
from datamodules.seeds import integers

PIXELS = integers(28 * 28 * 3, 256, "pixels").reshape(28, 28, 3).astype(np.uint8)
COLOUR = Image.fromarray(PIXELS)


def make(**changes: Any) -> Preprocessing:
    options: dict[str, Any] = {"mode": "RGB", "size": (28, 28), "interpolation": "nearest"}
    options |= {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return Preprocessing(**{**options, **changes})


def test_channels_are_scaled_and_normalised_one_by_one() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    result = make(mean=mean, std=std)(COLOUR)

    for channel in range(3):
        expected = (PIXELS[:, :, channel] / 255.0 - mean[channel]) / std[channel]
        assert np.abs(result[channel].numpy() - expected).max() < 1e-6
    assert result.dtype == torch.float32


def test_red_and_green_are_the_planes_of_the_image() -> None:
    result = make(mode="RG", mean=(0.0, 0.0), std=(1.0, 1.0))(COLOUR)

    assert result.shape == (2, 28, 28)
    assert torch.equal(
        (result * 255).round().to(torch.uint8), torch.from_numpy(PIXELS).permute(2, 0, 1)[:2]
    )


def test_grey_keeps_grey_levels() -> None:
    grey = Image.fromarray(np.ascontiguousarray(PIXELS[:, :, 0]))
    result = make(mode="L", mean=(0.0,), std=(1.0,))(grey)

    assert result.shape == (1, 28, 28)
    assert np.array_equal((result[0] * 255).round().numpy(), PIXELS[:, :, 0])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA", "CMYK"])
def test_any_image_mode_is_accepted(mode: str) -> None:
    assert make()(COLOUR.convert(mode)).shape == (3, 28, 28)


def test_nearest_halving_picks_every_other_pixel() -> None:
    result = make(size=(14, 14))(COLOUR)

    assert torch.equal(result, make()(COLOUR)[:, ::2, ::2])


def test_bilinear_halving_averages_like_pillow() -> None:
    result = make(size=(14, 10), interpolation="bilinear")(COLOUR)
    expected = np.asarray(COLOUR.resize((10, 14), Image.Resampling.BILINEAR), dtype=np.float64)

    assert result.shape == (3, 14, 10)
    assert np.abs(result.permute(1, 2, 0).numpy() * 255 - expected).max() < 1.5


def test_it_survives_json() -> None:
    preprocessing = make(mode="RG", size=(14, 7), mean=(0.1, 0.2), std=(1.0, 2.0))
    values = json.loads(json.dumps(preprocessing.to_dict()))

    assert values == {
        "mode": "RG",
        "size": [14, 7],
        "interpolation": "nearest",
        "mean": [0.1, 0.2],
        "std": [1.0, 2.0],
    }
    assert Preprocessing.from_dict(values) == preprocessing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "BGR"}, r"mode is 'BGR'; choose one of \('RG', 'L', 'RGB'\)"),
        ({"interpolation": "cubic"}, r"interpolation is 'cubic'; choose one of \('nearest', "),
        ({"mean": (0.0,)}, "mode 'RGB' has 3 channels, mean is .*; give one number a channel"),
        ({"std": (1.0, 1.0)}, "give one number a channel"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**changes)


def test_missing_and_unknown_keys_are_refused() -> None:
    values = make().to_dict()

    with pytest.raises(DataError, match="it needs"):
        Preprocessing.from_dict({**values, "crop": 3})
    del values["mode"]
    with pytest.raises(DataError, match="it needs"):
        Preprocessing.from_dict(values)
