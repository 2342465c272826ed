"""TerraIncognita: wild animals before camera traps in four places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from datamodules.image_folder import ImageFolder


class TerraIncognita(ImageFolder):
    """TerraIncognita (Beery et al., 2018, https://arxiv.org/abs/1807.04975), DomainBed's choice.

    Ten classes of camera-trap photos (bird, bobcat, cat, coyote, dog, empty, opossum, rabbit,
    raccoon, squirrel) at the locations 100, 38, 43 and 46.

    Deviations: DomainBed's published numbers are of 24,788 images (4,879, 9,767, 4,020 and 6,122),
    a release that cannot be had any more. The counts here are of the 24,330 that its script makes
    today; no published source was found for how these fall to the four locations.
    """

    environment_names = ("location_100", "location_38", "location_43", "location_46")
    environment_aliases: Mapping[str, str] = {
        "L100": "location_100",
        "L38": "location_38",
        "L43": "location_43",
        "L46": "location_46",
    }
    environment_spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "location_100": ("location_100", "L100", "100"),
        "location_38": ("location_38", "L38", "38"),
        "location_43": ("location_43", "L43", "43"),
        "location_46": ("location_46", "L46", "46"),
    }
    tree_names = ("terra_incognita", "TerraIncognita")
    expected_counts: ClassVar[Mapping[str, int]] = {
        "location_100": 4741,
        "location_38": 9736,
        "location_43": 3970,
        "location_46": 5883,
    }
    class_count = 10
    contents = "24,330 images"
    licence = "Community Data License Agreement, permissive, 1.0"
    obtained_from = (
        "The photos are at https://lila.science/datasets/caltech-camera-traps; DomainBed's "
        "domainbed/scripts/download.py sorts them into these folders."
    )
