"""What one sample's output costs: cross-entropy of a class, squared error of a number.

The targets say which: integers are classes, floats are numbers. A single output for a class is the
log odds z of the second of two: the same as the logits ``(0, z)``, at a tenth of the time.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_losses(outputs: Tensor, targets: Tensor) -> Tensor:
    """Loss of each sample.

    Args:
        outputs: logits ``(n, classes)``, log odds ``(n, 1)`` of the second of two classes, or
            predictions ``(n, 1)`` of numbers; float.
        targets: ``(n,)``, int64 for classes or float for numbers.

    Returns:
        ``(n,)``, float.
    """
    if targets.is_floating_point():
        return (outputs.squeeze(-1) - targets).square()
    if outputs.shape[-1] == 1:
        odds = outputs.squeeze(-1)
        return F.softplus(odds) - targets * odds
    return F.cross_entropy(outputs, targets, reduction="none")


def output_errors(outputs: Tensor, targets: Tensor) -> Tensor:
    """Derivative of each sample's loss by its outputs.

    That is ``softmax(z) - onehot(y)`` for logits, ``sigmoid(z) - y`` for log odds and
    ``2 (z - y)`` for numbers.

    Args:
        outputs: ``(n, classes)`` or ``(n, 1)``, float.
        targets: ``(n,)``, int64 or float.

    Returns:
        Of the shape of `outputs`, float; each row of logits' sums to 0.
    """
    if targets.is_floating_point():
        return 2 * (outputs - targets.unsqueeze(-1))
    if outputs.shape[-1] == 1:
        return outputs.sigmoid() - targets.unsqueeze(-1)
    # F.one_hot looks at the values of its argument, which stacked runs cannot do.
    one_hot = targets.unsqueeze(-1) == torch.arange(outputs.shape[-1], device=targets.device)
    return outputs.softmax(dim=-1) - one_hot.to(outputs.dtype)
