"""Lightning's loggers, each imported only when it is asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench.errors import UsageError

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


def build_loggers(names: Sequence[str], folder: Path) -> list[Logger]:
    """Makes the loggers of a run; from their first entry on they write below ``<run>/logs``.

    Args:
        names: any of ``csv``, ``tensorboard`` and ``wandb``.
        folder: the run's folder.

    Raises:
        UsageError: when a logger's package is not installed.
    """
    loggers = []
    for name in names:
        try:
            loggers.append(_BUILDERS[name](folder / "logs"))
        except ModuleNotFoundError as error:
            raise UsageError(
                f"--logger {name} needs a package that is not installed: {error}. "
                f"Install it with pip install {name}, or leave the logger out."
            ) from error
    return loggers


def _csv(folder: Path) -> Logger:
    from pytorch_lightning.loggers import CSVLogger

    return CSVLogger(folder, name="csv")


def _tensorboard(folder: Path) -> Logger:
    from pytorch_lightning.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version="")


def _wandb(folder: Path) -> Logger:
    import wandb
    from pytorch_lightning.loggers import WandbLogger

    # Online and logged out, wandb would ask for a key and fail a run that nobody watches.
    decided = "WANDB_MODE" in os.environ or wandb.login(prompt=False)
    mode: dict[str, Any] = {} if decided else {"mode": "offline"}
    return WandbLogger(project="dgbench", save_dir=folder, **mode)


_BUILDERS = {"csv": _csv, "tensorboard": _tensorboard, "wandb": _wandb}
