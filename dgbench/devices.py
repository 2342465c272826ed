"""What several devices may and may not do, if they are to take one device's steps."""

from __future__ import annotations

import warnings

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from torch import nn

from dgbench.errors import UsageError


def require_exact(trainer: pl.Trainer, algorithm: pl.LightningModule) -> None:
    """Refuses what would silently take other steps than one device, and warns of what differs.

    Sums over devices come out right (:func:`dgbench.collectives.global_sum`) because one backward
    pass a step is followed by DistributedDataParallel's average over the devices, and only then.

    Args:
        trainer: with its strategy.
        algorithm: what is trained; its modules are looked through for BatchNorm and dropout.

    Raises:
        UsageError: for accumulated gradients, for manual optimisation on several devices, and for
            strategies other than ``ddp`` on several devices.
    """
    if trainer.accumulate_grad_batches != 1:
        raise UsageError(
            f"accumulate_grad_batches is {trainer.accumulate_grad_batches}; it must be 1, since a "
            "penalty is not the sum of its parts' penalties. Use a larger batch_size."
        )
    if trainer.world_size == 1:
        return
    if not isinstance(trainer.strategy, DDPStrategy):
        raise UsageError(
            f"{trainer.world_size} devices with {type(trainer.strategy).__name__} would not take "
            "one device's steps; only --trainer.strategy ddp averages gradients as the exact sums "
            "over devices need it. Use ddp, or one device."
        )
    if not algorithm.automatic_optimization:
        raise UsageError(
            f"{type(algorithm).__name__} optimises by hand, so several devices cannot be known to "
            "average one backward pass a step; use --trainer.devices 1."
        )
    _warn_of_differences(algorithm)


def _warn_of_differences(algorithm: pl.LightningModule) -> None:
    # Frozen batch normalisation is in evaluation mode and sees no batch.
    kinds = {type(module) for module in algorithm.modules() if module.training}
    batch_norms = (nn.modules.batchnorm._BatchNorm,)
    if any(issubclass(kind, batch_norms) and kind is not nn.SyncBatchNorm for kind in kinds):
        warnings.warn(
            "BatchNorm sees each device's share of a batch: the steps differ from one device's. "
            "--trainer.sync_batchnorm true makes it see the whole.",
            stacklevel=2,
        )
    if any(issubclass(kind, nn.modules.dropout._DropoutNd) for kind in kinds):
        warnings.warn(
            "Dropout draws its masks on each device: the steps differ from one device's, though "
            "their distribution does not.",
            stacklevel=2,
        )
