"""Pictures of a data set: images of every environment and class, histograms, duplicates."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.base import EnvironmentDataModule
from datamodules.environments import SPLITS
from datamodules.preprocessing import Preprocessing
from dgbench.inspect.survey import Copies, Survey, name_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Batches of the training stream that are searched for a sample of each class.
TRAINING_BATCHES = 50

_TILE = 88
_GAP = 4
_SHOWN = 12
_SHOWN_GROUPS = 12
_SHOWN_COPIES = 4
_DOTS_PER_INCH = 110

# A row of tiles: its label, and an image of (channels, height, width) or nothing in each column.
Row = tuple[str, Sequence[Tensor | None]]


def draw(data: EnvironmentDataModule, found: Survey, folder: Path) -> list[Path]:
    """Writes the pictures, where matplotlib is installed.

    Args:
        data: the data set.
        found: what it holds.
        folder: where to.

    Returns:
        The files that were written: ``classes.png``; of images also ``images.png``, and
        ``duplicates.png`` where there are some.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        return []
    figures = {"classes.png": _histograms(found)}
    if len(data.input_shape) == 3:
        figures["images.png"] = _grid(data)
        if found.exact or found.near:
            figures["duplicates.png"] = _duplicates(data, (*found.exact, *found.near))
    with warnings.catch_warnings():
        # What matplotlib's font lacks of a name shows as a box.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        for name, figure in figures.items():
            figure.savefig(folder / name, dpi=_DOTS_PER_INCH)
    return [folder / name for name in figures]


def _grid(data: EnvironmentDataModule) -> Figure:
    """A column a class; of each environment what evaluation sees and, below, what training does."""
    classes, names = data.class_names[:_SHOWN], data.environment_names[:_SHOWN]
    training = training_images(data, len(names), len(classes))
    rows: list[Row] = []
    for index, name in enumerate(names):
        targets = data.environment(index).targets
        samples = [
            training[index, y][0] if (index, y) in training else _first(targets, y)
            for y in range(len(classes))
        ]
        seen = [None if s is None else _image(data, index, s) for s in samples]
        rows.append((f"{name}\nevaluation", seen))
        if index in data.train_environments:
            augmented = [training.get((index, y), (0, None))[1] for y in range(len(classes))]
            rows.append((f"{name}\ntraining", augmented))
    shown = [
        f"{len(part)} of {len(whole)} {what}"
        for part, whole, what in (
            (names, data.environment_names, "environments"),
            (classes, data.class_names, "classes"),
        )
        if len(part) < len(whole)
    ]
    return _mosaic(rows, classes, data.preprocessing, ", ".join(shown))


def training_images(
    data: EnvironmentDataModule, environments: int, classes: int
) -> dict[tuple[int, int], tuple[int, Tensor]]:
    """Draws batches until every training environment has shown every class.

    Args:
        data: the data set, with `TRAINING_BATCHES` steps.
        environments: how many of the environments matter, from the first.
        classes: how many of the classes matter, from the first.

    Returns:
        Sample index and image as training sees it, by environment and class.
    """
    found: dict[tuple[int, int], tuple[int, Tensor]] = {}
    trained = [index for index in data.train_environments if index < environments]
    wanted = len(trained) * classes
    for batch in islice(data.train_dataloader(), TRAINING_BATCHES):
        for row, (position, y) in enumerate(
            zip(batch.environment.tolist(), batch.targets.tolist(), strict=True)
        ):
            key = data.train_environments[position], y
            if key[0] < environments and y < classes and key not in found:
                found[key] = int(batch.indices[row]), batch.inputs[row]
        if len(found) == wanted:
            break
    return found


def _first(targets: Tensor, y: int) -> int | None:
    """The first sample of a class."""
    rows = (targets == y).nonzero()
    return int(rows[0]) if len(rows) else None


def _duplicates(data: EnvironmentDataModule, groups: Sequence[Copies]) -> Figure:
    """A row a group of images that are the same or look alike."""
    rows: list[Row] = []
    columns = min(_SHOWN_COPIES, max(len(copies.samples) for copies in groups))
    for copies in groups[:_SHOWN_GROUPS]:
        samples = copies.samples[:columns]
        images: list[Tensor | None] = [_image(data, s.environment, s.index) for s in samples]
        label = "\n".join(name_of(data, sample) for sample in samples)
        rows.append((label, [*images, *[None] * (columns - len(images))]))
    shown = f"{len(rows)} of {len(groups)} groups, as evaluation sees them"
    return _mosaic(rows, [""] * columns, data.preprocessing, shown)


def _image(data: EnvironmentDataModule, environment: int, sample: int) -> Tensor:
    """A sample as evaluation sees it, ``(channels, height, width)``."""
    inputs: Tensor = data.environment(environment).inputs.index_select(0, torch.tensor([sample]))
    return inputs[0]


def _mosaic(
    rows: Sequence[Row], columns: Sequence[str], preprocessing: Preprocessing, title: str
) -> Figure:
    """Tiles in rows and columns, with labels."""
    from matplotlib.figure import Figure

    step = _TILE + _GAP
    canvas = np.ones((len(rows) * step - _GAP, len(columns) * step - _GAP, 3), dtype=np.float32)
    for top, (_, images) in enumerate(rows):
        for left, image in enumerate(images):
            if image is not None:
                tile = _tile(image, preprocessing)
                height, width, _ = tile.shape
                y, x = top * step + (_TILE - height) // 2, left * step + (_TILE - width) // 2
                canvas[y : y + height, x : x + width] = tile
    longest = max(len(line) for label, _ in rows for line in label.split("\n"))
    size = (
        canvas.shape[1] / _DOTS_PER_INCH + 0.4 + 0.085 * longest,
        canvas.shape[0] / _DOTS_PER_INCH + 0.6,
    )
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.imshow(canvas, interpolation="none")
    axes.set_xticks([at * step + _TILE / 2 for at in range(len(columns))], columns)
    axes.set_yticks([at * step + _TILE / 2 for at in range(len(rows))], [row[0] for row in rows])
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9)
    return figure


def _tile(image: Tensor, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """An input as an RGB picture of at most a tile's size; small ones by whole pixels."""
    mean, std = (
        torch.tensor(row).reshape(-1, 1, 1) for row in (preprocessing.mean, preprocessing.std)
    )
    values = (image.float() * std + mean).clamp(0, 1)
    channels = {1: [0, 0, 0], 2: [0, 1, 0], 3: [0, 1, 2]}[len(values)]
    coloured = values[channels]
    if len(values) == 2:
        coloured[2] = 0  # red and green
    side = max(coloured.shape[1:])
    if side <= _TILE:
        scaled = coloured.repeat_interleave(_TILE // side, 1).repeat_interleave(_TILE // side, 2)
    else:
        height, width = (max(1, n * _TILE // side) for n in coloured.shape[1:])
        scaled = interpolate(coloured[None], (height, width), mode="bilinear", antialias=True)[0]
    return scaled.permute(1, 2, 0).numpy()


def _histograms(found: Survey) -> Figure:
    """The share of each class in each environment, main and holdout apart."""
    from matplotlib.figure import Figure

    names, classes = found.environments[:_SHOWN], found.classes
    columns = 2 if len(names) > 1 and len(classes) <= 2 * _SHOWN else 1
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(9, 1.8 * lines + 0.6), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, name, counts in zip(grid.flat, names, found.counts, strict=False):
        bottom, total = np.zeros(len(classes)), max(counts.sum(), 1)
        for split, of_split, colour in zip(SPLITS, counts, ("C0", "C1"), strict=True):
            share = 100 * of_split / total
            axes.bar(range(len(classes)), share, bottom=bottom, color=colour, label=split)
            bottom += share
        axes.set_title(f"{name}: {counts.sum():,} samples", fontsize=9)
        axes.set_ylabel("%")
    for axes in grid[-1]:
        if len(classes) <= 2 * _SHOWN:
            turned = 45 if max(map(len, classes)) > 4 else 0
            axes.set_xticks(range(len(classes)), classes, rotation=turned, fontsize=8)
        else:
            axes.set_xlabel(f"{len(classes)} classes")
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside upper right", ncols=2)
    return figure
