"""Process-wide settings of torch and Lightning, held for the length of a run and given back."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

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
        precision: ``highest``, ``high`` or ``medium``, as torch names it.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
