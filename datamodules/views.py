"""Views of an image: what there is to see of it, named and fixed by construction.

A question about causes needs variables, and pixels are none. A view is a function of the image
alone, with nothing to learn: a predictor that is given one can use what it shows and nothing else.
Which views say something about a data set is prior knowledge, and its class declares them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from datamodules.errors import DataError

LAYOUT_CELLS = 4
# Height and width at which an image's pixels are taken as numbers: 256 of them.
_NUMBERS_SIDE = 16


def colour(images: Tensor) -> Tensor:
    """Mean and standard deviation of each channel over the pixels: which colours, not where.

    Args:
        images: (n, channels, height, width) float.

    Returns:
        (n, 2 channels) float.
    """
    pixels = images.flatten(2)
    return torch.cat([pixels.mean(dim=2), pixels.std(dim=2, correction=0)], dim=1)


def shape(images: Tensor) -> Tensor:
    """Each pixel's largest channel: blind to hue, and to which channel an image stands in.

    Args:
        images: (n, channels, height, width) float.

    Returns:
        (n, 1, height, width) float.
    """
    return images.amax(dim=1, keepdim=True)


def ink(images: Tensor) -> Tensor:
    """Mean of the shape: how much there is of it.

    Args:
        images: (n, channels, height, width) float.

    Returns:
        (n, 1) float.
    """
    return shape(images).mean(dim=(2, 3))


def layout(images: Tensor) -> Tensor:
    """The shape's means over 4 x 4 cells: roughly where something is, not what.

    Args:
        images: (n, channels, height, width) float.

    Returns:
        (n, 1, 4, 4) float.
    """
    return torch.nn.functional.adaptive_avg_pool2d(shape(images), LAYOUT_CELLS)


def orientation(images: Tensor) -> Tensor:
    """The direction in which the shape is long, and how much so.

    With the second central moments of the shape's brightness above its darkest pixel, m_xx, m_xy
    and m_yy, it is ((m_xx - m_yy), 2 m_xy) / (m_xx + m_yy): the elongation times cosine and sine of
    twice the angle. Turning an image by an angle turns this vector by twice the angle; moving,
    scaling or brightening the image changes nothing.

    Args:
        images: (n, channels, height, width) float.

    Returns:
        (n, 2) float, in the unit disc; 0 for an image without contrast.
    """
    brightness = shape(images).squeeze(1)
    mass = brightness - brightness.amin(dim=(1, 2), keepdim=True)
    mass = mass / mass.sum(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(mass.dtype).tiny)
    height, width = mass.shape[1:]
    # y points up, as angles are counted.
    y = -torch.arange(height, dtype=mass.dtype, device=mass.device)[:, None]
    x = torch.arange(width, dtype=mass.dtype, device=mass.device)[None, :]
    x = x - (mass * x).sum(dim=(1, 2), keepdim=True)
    y = y - (mass * y).sum(dim=(1, 2), keepdim=True)
    xx, xy, yy = ((mass * product).sum(dim=(1, 2)) for product in (x * x, x * y, y * y))
    moments = torch.stack([xx - yy, 2 * xy], dim=1)
    return moments / (xx + yy).clamp(min=torch.finfo(mass.dtype).tiny)[:, None]


VIEWS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "colour": colour,
    "ink": ink,
    "layout": layout,
    "orientation": orientation,
    "shape": shape,
}


def variable_names(input_shape: Sequence[int], views: Sequence[str]) -> tuple[str, ...]:
    """Name what an input consists of: the views of an image, the numbers of a vector.

    Args:
        input_shape: Shape of one input: (channels, height, width) of an image, (p,) of a vector.
        views: Views of an image; a vector has none.

    Returns:
        The views, or x1 to xp.

    Raises:
        DataError: If a view is unknown or named twice, or an input is neither image nor vector.
    """
    if len(input_shape) == 1:
        return tuple(f"x{number + 1}" for number in range(input_shape[0]))
    if len(input_shape) != 3:
        raise DataError(
            f"an input has shape {tuple(input_shape)}; views are defined for images (channels, "
            "height, width), and vectors have their numbers"
        )
    if not views or not set(views) <= set(VIEWS) or len(set(views)) < len(views):
        raise DataError(f"views are {list(views)}; name some of {', '.join(VIEWS)}, each once")
    return tuple(views)


def variables(inputs: Tensor, views: Sequence[str]) -> dict[str, Tensor]:
    """Take inputs apart into their variables.

    Args:
        inputs: (n, *shape) float, images or vectors.
        views: Views of an image; without effect on vectors.

    Returns:
        By name, as `variable_names` has them: (n, ...) float each, (n, 1) for a number of a vector.

    Raises:
        DataError: As `variable_names`.
    """
    names = variable_names(inputs.shape[1:], views)
    if inputs.dim() == 2:
        return dict(zip(names, torch.split(inputs, 1, dim=1), strict=True))
    return {name: VIEWS[name](inputs) for name in names}


def as_numbers(variable: Tensor) -> Tensor:
    """Write a variable as numbers, for statistics that have no network to read an image.

    Args:
        variable: (n, ...) float, as `variables` has them.

    Returns:
        (n, p) float; an image larger than 16 x 16 is averaged over cells down to that.
    """
    if variable.dim() == 4 and max(variable.shape[2:]) > _NUMBERS_SIDE:
        height, width = (min(side, _NUMBERS_SIDE) for side in variable.shape[2:])
        variable = torch.nn.functional.adaptive_avg_pool2d(variable, (height, width))
    return variable.flatten(1)
