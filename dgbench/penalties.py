"""The mathematics of the algorithms: pure functions, tensors in, tensors out.

Nothing here knows environments' names, devices or schedules. A function whose value is a mean
over samples returns the samples' terms: the caller averages them exactly over several devices.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgbench.losses import output_errors


def scale_gradients(logits: Tensor, targets: Tensor) -> Tensor:
    """Derivative of each sample's loss by a scale w of the outputs, at w = 1.

    IRMv1 (Arjovsky et al., 2019, https://arxiv.org/abs/1907.02893, eq. 4) squares the mean of these
    over an environment. In closed form, with ``p = softmax(z)``, the derivative of
    ``-log softmax(w z)_y`` at ``w = 1`` is ``sum_k p_k z_k - z_y``: the same gradients as a double
    backward pass, without one. The derivative of ``(w z - y)^2`` is ``2 (z - y) z``.

    Args:
        logits: ``(n, classes)``, or log odds or predictions ``(n, 1)``; float.
        targets: ``(n,)``, int64, in ``0..classes - 1``, or float for numbers.

    Returns:
        ``(n,)``, float.
    """
    if logits.shape[-1] == 1:
        return (output_errors(logits, targets) * logits).squeeze(-1)
    expected = (logits.softmax(dim=-1) * logits).sum(dim=-1)
    return expected - logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def gramian_weighted_norm(gradient: Tensor, gramian: Tensor, ridge: float | Tensor) -> Tensor:
    r"""Squared norm of a linear head's gradient in the metric of the inverse Gramian.

    The invariance penalty of IRMv2 (Khezeli et al., 2021, https://arxiv.org/abs/2106.09777): with
    the representation's Gramian :math:`G = E[\phi\phi^T]` and the risk's gradient
    :math:`g = \nabla_w R(w)`, it is :math:`\frac14 g^T G^{-1} g`. For the squared loss
    :math:`R(w) = E[(w^T\phi - y)^2]` the Hessian is :math:`2G`, so this is exactly
    :math:`R(w) - \min_v R(v)`: the excess risk over the best head of this environment alone.
    For the cross-entropy, whose Hessian is at most that of Boehning's bound
    :math:`\frac12 (I - 11^T/K) \otimes G`, four times this is a lower bound of the excess risk.

    Args:
        gradient: ``(..., outputs, features)``, float: gradient by the head's weight matrix.
        gramian: ``(..., features, features)``, float, symmetric and positive semi-definite.
        ridge: added to the Gramian's diagonal, in units of its mean diagonal entry; at least 0.
            Features that are never active make the Gramian singular without it.

    Returns:
        ``(...)``, float, at least 0.
    """
    features = gramian.shape[-1]
    scale = gramian.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    identity = torch.eye(features, dtype=gramian.dtype, device=gramian.device)
    regular = gramian + ridge * scale[..., None, None] * identity
    solved = torch.linalg.solve(regular, gradient.transpose(-2, -1))
    norm: Tensor = 0.25 * (gradient.transpose(-2, -1) * solved).sum(dim=(-2, -1))
    return norm


def risk_variance(risks: Tensor) -> Tensor:
    """Population variance of the environments' risks (Krueger et al., 2021, eq. 8).

    Args:
        risks: ``(environments,)``, float.

    Returns:
        Scalar, at least 0: the mean squared distance to the mean risk.
    """
    return (risks - risks.mean()).square().mean()


def risk_excess(risks: Tensor) -> Tensor:
    """How far the worst environment's risk lies above the mean risk (Krueger et al., 2021, eq. 7).

    Args:
        risks: ``(environments,)``, float.

    Returns:
        Scalar, at least 0.
    """
    return risks.max() - risks.mean()
