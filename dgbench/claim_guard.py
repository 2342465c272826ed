"""Watches over a run's claim while it trains."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl

from dgbench.claims import Claim


class ClaimGuard(pl.Callback):
    """Stops a training whose run belongs to another process now, before it writes anything."""

    def __init__(self, claim: Claim) -> None:
        """Guards a claim.

        Args:
            claim: on the run that is trained.
        """
        self.claim = claim

    def on_train_batch_end(self, *_: Any) -> None:
        """Looks at the clock."""
        self.claim.require()
