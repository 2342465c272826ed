"""VLCS: five things in photos of four older data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from datamodules.image_folder import ImageFolder


class VLCS(ImageFolder):
    """VLCS (Fang, Xu and Rockmore, 2013, https://doi.org/10.1109/ICCV.2013.208).

    Photos from Caltech101, LabelMe, SUN09 and PASCAL VOC 2007, of five classes: bird, car, chair,
    dog, person.
    """

    environment_names = ("caltech101", "labelme", "sun09", "voc2007")
    environment_aliases: Mapping[str, str] = {
        "C": "caltech101",
        "L": "labelme",
        "S": "sun09",
        "V": "voc2007",
    }
    environment_spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "caltech101": ("Caltech101", "Caltech", "C"),
        "labelme": ("LabelMe", "L"),
        "sun09": ("SUN09", "SUN", "S"),
        "voc2007": ("VOC2007", "VOC", "PASCAL", "V"),
    }
    tree_names = ("VLCS",)
    expected_counts: ClassVar[Mapping[str, int]] = {
        "caltech101": 1415,
        "labelme": 2656,
        "sun09": 3282,
        "voc2007": 3376,
    }
    class_count = 5
    contents = "10,729 images"
    licence = "none found; photos of four data sets with terms of their own"
    obtained_from = (
        "DomainBed's domainbed/scripts/download.py has its address "
        "(https://github.com/facebookresearch/DomainBed)."
    )
