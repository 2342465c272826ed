"""Invariant risk minimisation, second version."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.collectives import global_sum
from dgbench.errors import require
from dgbench.losses import output_errors
from dgbench.penalties import gramian_weighted_norm
from dgbench.search_space import LogInt, LogUniform


class IRMv2(Algorithm):
    r"""Invariant risk minimisation, IRMv2 (Khezeli et al., 2021).

    https://arxiv.org/abs/2106.09777

    Minimises ``mean_e R_e + w * mean_e penalty_e``. The penalty of an environment is the squared
    norm of its risk's gradient by a linear head (weights and constant), measured with the inverse
    Gramian of what the head reads, :math:`\frac14 \sum_k g_k^T G^{-1} g_k` over the logits k: what
    the environment's own best head would gain if the loss were squared, or how much of the errors
    is linear in what the head reads.

    **What the heads read decides what can be learnt.** Heads of features see their span alone: no
    invertible map of the features changes the penalty. A feature that is not invariant counts in
    full, however small it is, until it is gone, and to use it less while it is there leaves more of
    the errors to it. Where Colored MNIST is two bits, the head that ERM finds has the penalty .0014
    and one that ignores the colour .041, so descent ends where ERM does: at 12 to 15 % in the
    flipped environment with weights from 1e2 to 1e8 (one trial each), at 17 and 30 % (two trials)
    with the protocol's settings. Heads of logits recalibrate what is predicted: their penalty is 0
    as soon as the prediction ignores the colour. The first linear unit test shows the same: error
    10.9 with heads of logits, 13.2 of features, 13.3 of ERM, 10.5 of the oracle.

    **It does not vanish with the logits**, as IRMv1's does: for one output, heads without constant
    and no ridge it is IRMv1's over four times the output's mean square. So nothing draws the
    prediction to a constant, but one that starts there may stay: growing logits show the heads more
    of the errors (of 64 rows much that is chance) before the risk falls. The ridge hides logits
    whose variance is below it. With 1e-3 in place of 0.1 networks on Rotated MNIST never leave
    chance, with either kind of head, even at weight 1.

    **It can be met by learning labels by heart.** Weight and learning rate of the protocol
    ``digits`` have the smallest penalty on the training rows of Colored MNIST, 4e-7, at risks below
    those of any invariant prediction; on held-back rows it is 3e-4, as that of ERM's on two bits.
    The flipped environment gets 53.0 +- 1.1 % (five trials), between ERM and IRMv1. Rotated MNIST
    cannot be told from ERM.

    Deviations: derived from the paper's abstract and the squared loss, since the paper's full text
    was not at hand; so the factor 1/4 (which makes it the squared loss's excess risk) is ours, and
    so is the head of logits. For classes the gradient of the cross-entropy takes the squared loss's
    place. A ridge keeps the Gramian regular.

    Args:
        penalty_weight: weight w of the mean penalty, at least 0.
        anneal_steps: steps before which the weight is 1.
        ridge: added to the Gramian's diagonal, in units of its mean entry; above 0.
        head_input: what the heads that are compared read. ``logits``: they recalibrate the
            network's prediction. ``features``: they take its last layer's place.
        **base: options of every algorithm.
    """

    def __init__(
        self,
        *,
        penalty_weight: Annotated[float, LogUniform(1e-1, 1e5)] = 1e2,
        anneal_steps: Annotated[int, LogInt(1, 10_000)] = 500,
        ridge: Annotated[float, LogUniform(1e-2, 1e1)] = 0.1,
        head_input: Literal["logits", "features"] = "logits",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        require(penalty_weight >= 0, "penalty_weight", penalty_weight, "at least 0")
        require(ridge > 0, "ridge", ridge, "above 0: inactive features make the Gramian singular")
        self.penalty_weight = penalty_weight
        self.anneal_steps = anneal_steps
        self.ridge = ridge
        self.head_input = head_input

    def objective(self, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """The mean risk and the weighted mean penalty."""
        head_inputs, logits = self.head_inputs_and_logits(batch.inputs)
        risks = self.risks(batch, logits)
        with_constant = F.pad(head_inputs, (0, 1), value=1.0)
        errors = output_errors(logits, batch.targets)
        gradients = self.environment_products(errors, with_constant, batch)
        gramians = self.environment_products(with_constant, with_constant, batch)
        penalty = gramian_weighted_norm(gradients, gramians, self.ridge).mean()
        weight = self.annealed(self.penalty_weight, self.anneal_steps)
        loss = risks.mean() + weight * penalty
        return {"loss": loss, "risks": risks, "penalty": penalty, "penalty_weight": weight}

    def head_inputs_and_logits(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the heads that are compared read, and the network's logits.

        Args:
            inputs: ``(n, ...)``.

        Returns:
            ``(n, features)`` or ``(n, classes)``, and ``(n, classes)``; float.
        """
        if self.head_input == "features":
            features = self.network.featurizer(inputs)
            return features, self.network.classifier(features)
        logits = self(inputs)
        if logits.shape[-1] == 1:
            return logits, logits
        # A number added to all logits of a sample changes no prediction: no head may read it.
        return logits - logits.mean(dim=-1, keepdim=True), logits

    def environment_products(self, left: Tensor, right: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Mean over each environment's global batch of the samples' outer products.

        Args:
            left: ``(n, a)``, float.
            right: ``(n, b)``, float.
            batch: the batch they belong to.

        Returns:
            ``(environments, a, b)``, float.
        """
        members = self.membership(batch, left.dtype)
        sums = torch.stack([(left * member[:, None]).T @ right for member in members])
        return global_sum(sums) / batch.counts[:, None, None]

    @classmethod
    def erm_settings(cls, n_environments: int) -> dict[str, Any]:
        """No penalty, from the first step on."""
        return {"penalty_weight": 0.0, "anneal_steps": 0}
