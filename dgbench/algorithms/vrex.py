"""Variance risk extrapolation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.errors import require
from dgbench.penalties import risk_variance
from dgbench.search_space import LogInt, LogUniform


class VREx(Algorithm):
    """Variance risk extrapolation, V-REx (Krueger et al., 2021, eq. 8).

    https://arxiv.org/abs/2003.00688

    Minimises ``mean_e R_e + w * Var_e R_e`` with the population variance over environments.

    Deviations: the mean of the risks in place of their sum (DomainBed's scale). The literature has
    four objectives under one name; :func:`penalty_weight_of` converts their weights into ours.

    Args:
        penalty_weight: weight w of the variance, at least 0.
        anneal_steps: steps before which the weight is ``initial_weight``.
        initial_weight: weight before the switch, at least 0; 1 in everybody's own units.
        **base: options of every algorithm.
    """

    minimum_environments: ClassVar[int] = 2

    def __init__(
        self,
        *,
        penalty_weight: Annotated[float, LogUniform(1e-1, 1e5)] = 10.0,
        anneal_steps: Annotated[int, LogInt(1, 10_000)] = 500,
        initial_weight: float = 1.0,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        require(penalty_weight >= 0, "penalty_weight", penalty_weight, "at least 0")
        require(initial_weight >= 0, "initial_weight", initial_weight, "at least 0")
        self.penalty_weight = penalty_weight
        self.anneal_steps = anneal_steps
        self.initial_weight = initial_weight

    def objective(self, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """The mean risk and the weighted variance of the risks."""
        risks = self.risks(batch)
        penalty = risk_variance(risks)
        weight = self.annealed(self.penalty_weight, self.anneal_steps, self.initial_weight)
        loss = risks.mean() + weight * penalty
        return {"loss": loss, "risks": risks, "penalty": penalty, "penalty_weight": weight}

    @classmethod
    def erm_settings(cls, n_environments: int) -> dict[str, Any]:
        """No penalty, from the first step on."""
        return {"penalty_weight": 0.0, "anneal_steps": 0}


def penalty_weight_of(
    source: Literal["paper", "rex-code", "fishr-code", "domainbed"],
    weight: float,
    n_environments: int,
) -> float:
    """Our ``penalty_weight`` for a weight stated elsewhere, up to a factor of the whole loss.

    ========== =================================== ========================= ==============
    source     its loss                            ours, at weight w'        times
    ========== =================================== ========================= ==============
    paper      ``sum R + w Var``                   ``w' = w / m``            m environments
    rex-code   ``(R1 + R2) + w (R1 - R2)^2``       ``w' = 2 w``              2
    fishr-code ``mean R + w (R1 - R2)^2``          ``w' = 4 w``              1
    domainbed  ``mean R + w Var``                  ``w' = w``                1
    ========== =================================== ========================= ==============

    Args:
        source: whose weight it is; the two in the middle are stated for two environments.
        weight: the weight there.
        n_environments: number of training environments m.

    Returns:
        The weight w' for which their loss is ours times the last column.

    Raises:
        ValueError: for another number of environments than the source's loss is defined for.
    """
    if source in ("rex-code", "fishr-code") and n_environments != 2:
        raise ValueError(f"{source} defines its loss for 2 environments, not {n_environments}.")
    factors = {"paper": 1 / n_environments, "rex-code": 2.0, "fishr-code": 4.0, "domainbed": 1.0}
    return weight * factors[source]
