"""Small folders of images that tests make themselves."""

from __future__ import annotations

import csv
import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datamodules.image_folder import ImageFolder

CLASSES = ("cat", "dog", "owl")
_KEPT: list[tempfile.TemporaryDirectory[str]] = []


def image(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """A noisy image of a width and a height, another one for each seed."""
    width, height = size
    pixels = np.random.default_rng(seed).integers(256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_tree(
    root: Path,
    environments: Sequence[str] = ("desert", "forest", "sea"),
    classes: Sequence[str] = CLASSES,
    *,
    images: int = 5,
    size: tuple[int, int] = (12, 10),
) -> Path:
    """Writes ``root/<environment>/<class>/<number>.png``, no two images alike."""
    seed = 0
    for environment in environments:
        for label in classes:
            (root / environment / label).mkdir(parents=True, exist_ok=True)
            for number in range(images):
                image(seed := seed + 1, size).save(root / environment / label / f"{number}.png")
    return root


def write_manifest(file: Path, rows: Sequence[dict[str, str]]) -> Path:
    """Writes a table of images."""
    with file.open("w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


@functools.cache
def folder_options(name: str, data_set: type[ImageFolder]) -> dict[str, Any]:
    """Options under which a data set of folders has a few images, made for it once a process."""
    _KEPT.append(tempfile.TemporaryDirectory())
    folder = Path(_KEPT[-1].name)
    spellings = data_set.environment_spellings
    names = [known[0] for known in spellings.values()] or ["desert", "forest", "sea"]
    tree = make_tree(folder / "images", names)
    options: dict[str, Any] = {"image_size": 16, "cache": str(folder / "cache")}
    if "manifest" not in data_set.location_options:
        return {**options, "root": str(tree)}
    rows = [
        {"path": p.relative_to(tree).as_posix(), "label": p.parts[-2], "environment": p.parts[-3]}
        for p in tree.glob("*/*/*.png")
    ]
    return {**options, "manifest": str(write_manifest(tree / "images.csv", rows))}
