"""Empirical risk minimisation."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm


class ERM(Algorithm):
    """Empirical risk minimisation (Vapnik, 1998): the mean of the environments' risks.

    Deviations: none from DomainBed, whose environments count equally because their minibatches are
    of one size.
    """

    def objective(self, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """The mean risk."""
        risks = self.risks(batch)
        return {"loss": risks.mean(), "risks": risks}

    @classmethod
    def erm_settings(cls, n_environments: int) -> dict[str, Any]:
        """Any."""
        return {}
