"""Watches over a run's claim while it trains."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from dgbench.claims import Claim


class ClaimGuard(pl.Callback):
    """Stops a training whose runs belong to another process now, before it writes anything."""

    def __init__(self, *claims: Claim) -> None:
        """Guards claims.

        Args:
            *claims: on what is trained.
        """
        self.claims = claims

    def on_train_batch_end(self, *_: Any) -> None:
        """Looks at the clock."""
        for claim in self.claims:
            claim.require()
