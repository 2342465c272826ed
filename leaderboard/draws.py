"""Which draw of hyper-parameters is which: its position inside a trial.

`hparams_seed` decides the values of a draw, and 0 has the defaults. A trial that is searched by
itself has draws of its own: 0 and then `LIMIT * trial + 1`, `+ 2`, ... A trial that has the draws
of other trials has 0, 1, 2, ..., as all of DomainBed's have. Either way they are the draws in
positions 0, 1, 2, ... of their trial, which is what a table counts to see whether one is missing.
"""

from __future__ import annotations

LIMIT = 1000
"""Draws of a trial at the most, so that more of them move none of another trial."""


def hparams_seed(trial: int, position: int) -> int:
    """The draw in a position of a trial that is searched by itself.

    Args:
        trial: From 0.
        position: From 0, the defaults; below `LIMIT`.
    """
    return LIMIT * trial + position if position else 0


def position(trial: int, hparams_seed: int) -> int:
    """The position of a draw inside its trial.

    Args:
        trial: From 0.
        hparams_seed: Of the draw.
    """
    return hparams_seed - LIMIT * trial if is_own(trial, hparams_seed) else hparams_seed


def is_own(trial: int, hparams_seed: int) -> bool:
    """Whether no other trial has a draw, so that its trial was searched by itself.

    Args:
        trial: From 0.
        hparams_seed: Of the draw.
    """
    return trial > 0 and LIMIT * trial < hparams_seed < LIMIT * (trial + 1)
