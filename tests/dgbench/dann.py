"""An algorithm that builds modules of its own, as a user would write it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.streams import EnvironmentBatch
from dgbench.algorithms.base import Algorithm


class DANN(Algorithm):
    """Domain-adversarial training (Ganin et al., 2016, https://arxiv.org/abs/1505.07818).

    Deviations: the discriminator sees a random projection, which no checkpoint holds.

    Args:
        adversary_weight: weight of the discriminator's loss, at least 0.
        **base: options of every algorithm.
    """

    projection: Tensor

    def __init__(self, *, adversary_weight: float = 1.0, **base: Any) -> None:
        super().__init__(**base)
        self.adversary_weight = adversary_weight
        assert isinstance(self.network.classifier, nn.Linear)
        self.features = self.network.classifier.in_features
        self.discriminator = nn.Linear(self.features, self.n_environments)
        projection = torch.randn(self.features, self.features)
        self.register_buffer("projection", projection, persistent=False)

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        """The mean risk, and the discriminator's loss behind a reversed gradient."""
        features = self.network.featurizer(batch.inputs)
        risks = self.risks(batch, self.network.classifier(features))
        reversed_gradient = 2 * features.detach() - features
        guesses = self.discriminator(reversed_gradient @ self.projection)
        losses = F.cross_entropy(guesses, batch.environment.clamp(min=0), reduction="none")
        adversary = self.environment_means(losses, batch).mean()
        return {
            "loss": risks.mean() + self.adversary_weight * adversary,
            "risks": risks,
            "adversary": adversary,
        }


class LateDANN(DANN):
    """The same with a discriminator that Lightning's hook builds.

    Args:
        **base: options of DANN.
    """

    def setup(self, stage: str) -> None:
        """Builds the discriminator."""
        self.discriminator = nn.Linear(self.features, self.n_environments)
