"""DomainNet: 345 things in six styles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from datamodules.image_folder import ImageFolder


class DomainNet(ImageFolder):
    """DomainNet (Peng et al., 2019, https://arxiv.org/abs/1812.01754), without duplicates.

    345 classes. The counts are those that the authors' page gives of the cleaned release, 586,575
    in all as in DomainBed, whose list takes the same duplicates out of the first release.
    """

    environment_names = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    environment_aliases: Mapping[str, str] = {"clip": "clipart", "info": "infograph"}
    environment_spellings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "clipart": ("clipart", "clip"),
        "infograph": ("infograph", "info"),
        "painting": ("painting", "paint"),
        "quickdraw": ("quickdraw", "quick"),
        "real": ("real",),
        "sketch": ("sketch",),
    }
    tree_names = ("domain_net", "DomainNet")
    expected_counts: ClassVar[Mapping[str, int]] = {
        "clipart": 48129,
        "infograph": 51605,
        "painting": 72266,
        "quickdraw": 172500,
        "real": 172947,
        "sketch": 69128,
    }
    class_count = 345
    contents = "586,575 images"
    licence = (
        "none; the authors' page has a fair-use notice, for non-commercial research and education"
    )
    obtained_from = (
        "Get the cleaned version from http://ai.bu.edu/M3SDA/; DomainBed's repository lists the "
        "duplicates to delete (domainbed/misc/domain_net_duplicates.txt)."
    )
