"""OfficeHome: 65 things found in offices and homes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from datamodules.image_folder import ImageFolder


class OfficeHome(ImageFolder):
    """OfficeHome (Venkateswara et al., 2017, https://arxiv.org/abs/1706.07522).

    Art, clip art, product pictures and photos of 65 things found in offices and homes.
    """

    environment_names = ("art", "clipart", "product", "real_world")
    environment_aliases: Mapping[str, str] = {
        "A": "art",
        "C": "clipart",
        "P": "product",
        "R": "real_world",
    }
    environment_spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "art": ("Art", "A"),
        "clipart": ("Clipart", "C"),
        "product": ("Product", "P"),
        "real_world": ("Real World", "RealWorld", "Real", "R"),
    }
    tree_names = ("OfficeHome", "office_home", "OfficeHomeDataset_10072016")
    expected_counts: ClassVar[Mapping[str, int]] = {
        "art": 2427,
        "clipart": 4365,
        "product": 4439,
        "real_world": 4357,
    }
    class_count = 65
    contents = "15,588 images"
    licence = (
        "none; the authors' page has a fair-use notice, for non-commercial research and education"
    )
    obtained_from = "Get it from https://www.hemanthdv.org/officeHomeDataset.html."
