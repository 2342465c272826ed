"""Process-wide settings and generators, held for a while and given back as they were."""

from __future__ import annotations

import contextlib
import logging
import random
import warnings
from collections.abc import Iterator

import numpy as np
import torch

_EXPECTED_WARNINGS = (
    # The recorder measures, at checks of its own.
    "You passed in a `val_dataloader` but have no `validation_step`",
    # The training stream makes its batches on the device; there is nothing for workers to do.
    "The 'train_dataloader' does not have many workers",
    # Frozen batch normalisation is meant to be.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # Inside Lightning and torch, about each other.
    ".*LeafSpec.*is deprecated",
)


@contextlib.contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """Sets the precision of float32 matrix products.

    Args:
        precision: ``highest``, ``high`` or ``medium``, as torch names it. Only the first is float32
            everywhere.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Makes what draws from the global generators a function of a seed, and gives them back.

    These are Python's, NumPy's and, of torch's, the processor's; other devices' are seeded, too.

    Args:
        seed: at least 0.
    """
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Leaves out what Lightning says of hardware that is absent and hooks that we do not use."""
    logger = logging.getLogger("pytorch_lightning")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for expected in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message=expected)
            yield
    finally:
        logger.setLevel(before)
