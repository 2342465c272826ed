"""Minimax risk extrapolation."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm
from dgbench.errors import require
from dgbench.penalties import risk_excess
from dgbench.search_space import LogInt, Uniform


class MMREx(Algorithm):
    """Minimax risk extrapolation, MM-REx (Krueger et al., 2021, eq. 7).

    https://arxiv.org/abs/2003.00688

    Minimises ``(1 - m lambda_min) max_e R_e + lambda_min sum_e R_e`` over m environments: the worst
    affine combination of the risks whose coefficients are at least ``lambda_min``. That is
    ``mean_e R_e + (1 - m lambda_min) (max_e R_e - mean_e R_e)`` for any m, the form computed here.
    ``lambda_min = 0`` is robust optimisation over the environments (the paper's RI), negative
    values extrapolate beyond them, ``1 / m`` is ERM.

    Deviations: none from eq. 7. The paper's own code, for two environments, minimises
    ``R1 + R2 + w |R1 - R2|``: twice this with ``lambda_min = (1 - w) / 2``. The factor
    ``1 - m lambda_min`` takes the penalty weight's part in annealing and rescaling.

    Args:
        lambda_min: least coefficient of an environment's risk, at most ``1 / m``.
        anneal_steps: steps before which ``lambda_min`` is 0.
        **base: options of every algorithm.
    """

    minimum_environments: ClassVar[int] = 2

    def __init__(
        self,
        *,
        lambda_min: Annotated[float, Uniform(-100.0, 0.0)] = -1.0,
        anneal_steps: Annotated[int, LogInt(1, 10_000)] = 500,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        most = 1 / self.n_environments
        require(lambda_min <= most, "lambda_min", lambda_min, f"at most 1 / m = {most:g}")
        self.lambda_min = lambda_min
        self.anneal_steps = anneal_steps

    def objective(self, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """The mean risk and the weighted distance of the worst risk from it."""
        risks = self.risks(batch)
        penalty = risk_excess(risks)
        weight = self.annealed(1 - self.n_environments * self.lambda_min, self.anneal_steps)
        loss = risks.mean() + weight * penalty
        return {"loss": loss, "risks": risks, "penalty": penalty, "penalty_weight": weight}

    @classmethod
    def erm_settings(cls, n_environments: int) -> dict[str, Any]:
        """Every environment's coefficient is 1 / m, from the first step on."""
        return {"lambda_min": 1 / n_environments, "anneal_steps": 0}
