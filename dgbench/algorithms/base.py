"""What every algorithm shares: one forward pass, exact risks, annealing, the optimiser's step."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench.collectives import global_sum
from dgbench.devices import require_exact
from dgbench.errors import UsageError, require
from dgbench.losses import sample_losses
from dgbench.networks import Network
from dgbench.search_space import LogUniform


class Algorithm(pl.LightningModule):
    """An algorithm for domain generalization: one objective over per-environment minibatches.

    A subclass writes :meth:`objective` and, where it has hyper-parameters, an ``__init__`` with
    keyword-only options that ends in ``**base: Any`` and passes them on. Default, type and search
    range of an option stand on its line of the signature.

    The objective is a pure function of the parameters, the batch, the options and the registered
    buffers, without Python branches on the options' *values*; new values of buffers are returned
    under ``"state"`` and assigned here. That is what exact resuming and stacked training rest on.

    Args:
        network: what is trained; ``network(inputs)`` returns logits ``(n, classes)``, or
            predictions ``(n, 1)`` of numbers.
        n_environments: number of training environments.
        learning_rate: Adam's step size, above 0.
        weight_decay: Adam's weight decay, at least 0 (added to the gradient).
        l2: coefficient of the sum of all squared parameters, biases included, in the loss
            itself, as in the IRM paper's code; at least 0.
        loss_scale: factor of the objective, before l2 is added; above 0. Adam's steps do not
            feel it, but its eps and l2 do: the REx paper's code sums risks where ours averages.
        rescale_loss: divide the whole loss by the penalty's weight where that is above 1, as
            the IRM and REx papers' code does and DomainBed does not.
        restart_optimizer: forget Adam's moments at the step at which the penalty switches on,
            as DomainBed does and the papers' code does not.

    Attributes:
        minimum_environments: training environments without which the method means nothing.
        file_options: options that name files; a record has their contents' hashes.
        anneal_steps: the step at which a penalty switches on, for ``restart_optimizer``.
        outputs: what the last objective returned, detached, before l2 and rescaling.
        conclusion: what a method that tests as well as trains has found, for the record, as
            ``leaderboard.records.Conclusion``; None for others. Each check calls Lightning's hook
            ``on_validation_start`` before it measures: the place to renew it.

    Raises:
        UsageError: when there are fewer training environments than the method needs.
    """

    minimum_environments: ClassVar[int] = 1
    file_options: ClassVar[tuple[str, ...]] = ()
    steps_taken: Tensor

    def __init__(
        self,
        *,
        network: Network,
        n_environments: int,
        learning_rate: Annotated[float, LogUniform(10**-4.5, 10**-2.5)] = 1e-3,
        weight_decay: float = 0.0,
        l2: float = 0.0,
        loss_scale: float = 1.0,
        rescale_loss: bool = False,
        restart_optimizer: bool = False,
    ) -> None:
        super().__init__()
        if n_environments < self.minimum_environments:
            raise UsageError(
                f"{type(self).__name__} compares environments and needs at least "
                f"{self.minimum_environments} to train on; this run has {n_environments}. "
                "Hold out or leave out fewer of them, or use --algo erm."
            )
        require(learning_rate > 0, "learning_rate", learning_rate, "above 0")
        require(weight_decay >= 0, "weight_decay", weight_decay, "at least 0")
        require(l2 >= 0, "l2", l2, "at least 0")
        require(loss_scale > 0, "loss_scale", loss_scale, "above 0")
        self.network = network
        self.n_environments = n_environments
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.l2 = l2
        self.loss_scale = loss_scale
        self.rescale_loss = rescale_loss
        self.restart_optimizer = restart_optimizer
        self.anneal_steps = 0
        self.outputs: dict[str, Tensor] = {}
        self.conclusion: dict[str, Any] | None = None
        self.register_buffer("steps_taken", torch.zeros((), dtype=torch.int64))

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        """What is minimised, and what is worth watching.

        Args:
            batch: samples of all training environments; on several devices, this device's share.

        Returns:
            ``loss``: scalar, minimised. ``risks``: ``(environments,)``, shown and recorded by
            name. ``penalty_weight``: scalar, by which ``rescale_loss`` divides. ``state``: new
            values of buffers, by name. Other scalars are recorded under their names.
        """
        raise NotImplementedError

    @classmethod
    def erm_settings(cls, n_environments: int) -> dict[str, Any] | None:
        """Options under which the algorithm takes ERM's steps, or None where there are none.

        Args:
            n_environments: number of training environments.
        """
        return None

    # What objectives are made of

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(n, classes)`` of inputs ``(n, ...)``, never in half precision.

        A penalty's weight multiplies what rounding does to a difference of risks.
        """
        logits: Tensor = self.network(inputs)
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits

    def risks(self, batch: EnvironmentBatch, logits: Tensor | None = None) -> Tensor:
        """Mean loss of each training environment, exact over all devices.

        That is the cross-entropy of classes and the squared error of numbers.

        Args:
            batch: the batch.
            logits: the network's logits of it, ``(n, classes)``, where they are there already.

        Returns:
            ``(environments,)``, float.
        """
        logits = self(batch.inputs) if logits is None else logits
        return self.environment_means(sample_losses(logits, batch.targets), batch)

    def environment_means(self, values: Tensor, batch: EnvironmentBatch) -> Tensor:
        """Mean of a per-sample value over each environment's global batch.

        Args:
            values: ``(n,)``, float.
            batch: the batch they belong to.

        Returns:
            ``(environments,)``, float.
        """
        # A sum of masked products, not an index_add: the latter sums one sample after the other
        # and loses three digits on 25,000 of them.
        sums = (self.membership(batch, values.dtype) * values).sum(dim=1)
        return global_sum(sums) / batch.counts

    def membership(self, batch: EnvironmentBatch, dtype: torch.dtype) -> Tensor:
        """``(environments, n)`` of zeros and ones: which sample stands in which environment."""
        positions = torch.arange(self.n_environments, device=batch.environment.device)
        return (batch.environment == positions[:, None]).to(dtype)

    def annealed(
        self, weight: float | Tensor, anneal_steps: int | Tensor, before: float | Tensor = 1.0
    ) -> Tensor:
        """A penalty's weight at this step: 1, not 0, before ``anneal_steps``, as published.

        Args:
            weight: the weight from the switch on.
            anneal_steps: the first step, counted from 0, at which it holds.
            before: the weight until then.

        Returns:
            Scalar, float.
        """
        annealed: Tensor = torch.where(self.steps_taken >= anneal_steps, weight, before)
        return annealed

    def differentiated(self, batch: EnvironmentBatch) -> tuple[Tensor, dict[str, Any]]:
        """What a step differentiates, as pure as the objective: its loss, scaled, and l2.

        Args:
            batch: the batch.

        Returns:
            A scalar, and what the objective returned.
        """
        outputs = self.objective(batch)
        loss: Tensor = self.loss_scale * outputs["loss"]
        # Of stacked runs that differ in it, l2 is a tensor, which cannot be asked.
        if isinstance(self.l2, Tensor) or self.l2:
            squares = torch.stack([p.square().sum() for p in self.network.parameters()])
            loss = loss + self.l2 * squares.sum()
        if self.rescale_loss and "penalty_weight" in outputs:
            loss = loss / outputs["penalty_weight"].clamp(min=1.0)
        return loss, outputs

    # Lightning's hooks

    def training_step(self, batch: EnvironmentBatch, batch_idx: int) -> Tensor:
        """One objective; Lightning does backward and step."""
        loss, outputs = self.differentiated(batch)
        for name, value in outputs.pop("state", {}).items():
            self.get_buffer(name).copy_(value.detach())
        self.steps_taken += 1
        self.outputs = {name: value.detach() for name, value in outputs.items()}
        return loss

    def on_fit_start(self) -> None:
        """Refuses what would silently change the steps on several devices."""
        require_exact(self.trainer, self)

    def on_train_batch_start(self, batch: EnvironmentBatch, batch_idx: int) -> None:
        """Forgets Adam's moments where the penalty switches on, if that is asked for."""
        if self.restart_optimizer and self.global_step == self.anneal_steps > 0:
            optimizer = self.optimizers(use_pl_optimizer=False)
            assert isinstance(optimizer, torch.optim.Optimizer)
            optimizer.state.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over all parameters, fused: a loop over them costs as much as a small network."""
        return torch.optim.Adam(
            self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
