"""Invariant causal prediction on images: one head for each set of named views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from datamodules.streams import EnvironmentBatch
from datamodules.views import as_numbers
from dgbench.algorithms.base import Algorithm
from dgbench.collectives import global_sum
from dgbench.contents import is_recorded
from dgbench.decision import Decision, Labels, PredictWith, decide
from dgbench.errors import UsageError, require
from dgbench.losses import sample_losses
from dgbench.subset_network import FEATURES, SubsetNetwork

_BATCH = 128


class ICP(Algorithm):
    """Invariant causal prediction on views of an image (Peters, Buehlmann and Meinshausen, 2016).

    https://arxiv.org/abs/1501.01332

    A variable is a *view*, fixed by construction: colour statistics, colour-blind shape and others
    (:mod:`datamodules.views`); the numbers of a vector are variables themselves. Each set of
    variables has a head of its own, trained to predict the label from them alone; all in one loop,
    none sharing anything with another. At each check every set is tested on samples of the training
    environments that no head was trained on: is its head calibrated alike in all of them
    (:func:`dgbench.icp.calibration_p_value`)? The accepted sets decide what predicts.

    Which views there are is prior knowledge that other algorithms do not have.

    Where no set is accepted, or the accepted ones have nothing in common, the prediction is the
    label prior of the training environments, never a head that was not chosen. On Colored MNIST
    that is the right answer: no environment moves what causes the label, so strict invariant
    causal prediction learns nothing.

    **A rejection may be misfit.** The test of held-out scores keeps its level where the law of the
    variables is the same in all environments, or where the head is P(Y | X) itself. A head that
    fits less well where an environment has moved its inputs is rejected though its variables are
    invariant. So each variable is asked, without looking at labels, whether its mean moves between
    the environments (Wilks' test), and the conclusion tells sets that are rejected although nothing
    of them moves, which are not invariant, from those of which that cannot be said.

    Deviations: the paper tests linear models of tables. Heads, the held-out calibration test and
    the rule ``best_accepted`` (by validation error among invariant sets, after Rojas-Carulla et
    al., 2018, https://jmlr.org/papers/v19/16-432.html) are what images need. The empty set has
    nothing to train and is tested on all samples of the training environments. Samples of one
    source image count as dependent. A test at each check is a look: where ``train_val`` chooses
    among checks the level is that of one of them.

    Args:
        views: the variables of an image: ``colour``, ``ink``, ``layout``, ``orientation``,
            ``shape``; null for those that the data set declares. ``features``: what the network
            of ``representation`` makes of an input, its weights frozen: is it invariant?
        alpha: a set is accepted when its p-value is above this, in (0, 1).
        predict_with: ``intersection``: what all accepted sets have in common, as published.
            ``best_accepted``: the accepted set whose head has the lowest held-out loss.
        withheld_fraction: share of each class of a training environment's main split on which no
            head is trained and sets are tested, in [0, 1); 0 tests on the holdout split.
        representation: checkpoint of a run with the same data set and network, for ``features``.
        **base: options of every algorithm.
    """

    minimum_environments: ClassVar[int] = 2
    file_options: ClassVar[tuple[str, ...]] = ("representation",)
    withheld: Tensor

    def __init__(
        self,
        *,
        views: list[str] | None = None,
        alpha: float = 0.05,
        predict_with: PredictWith = "intersection",
        withheld_fraction: float = 0.0,
        representation: str | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        require(0 < alpha < 1, "alpha", alpha, "between 0 and 1")
        fraction = withheld_fraction
        require(0 <= fraction < 1, "withheld_fraction", fraction, "at least 0 and below 1")
        if (FEATURES in (views or ())) != (representation is not None):
            raise UsageError(
                f"views is {views} and representation is {representation}; the view {FEATURES!r} "
                "is what a trained network makes of an input. Name both, as in --algo.views "
                f"'[{FEATURES}]' --algo.representation runs/.../last.ckpt, or neither."
            )
        self.alpha = alpha
        self.predict_with = predict_with
        self.withheld_fraction = fraction
        self.checkpoint = representation
        self.network: SubsetNetwork = SubsetNetwork(self.network, views or ())
        # Known with the data: which rows of each training environment no head is trained on.
        self.register_buffer("withheld", torch.zeros(0, 0, dtype=torch.bool), persistent=False)

    def objective(self, batch: EnvironmentBatch) -> dict[str, Tensor]:
        """The sum of the heads' mean risks: each head takes ERM's steps on its variables."""
        logits = self.network.subset_logits(batch.inputs)[1:]
        heads, count, classes = logits.shape
        losses = sample_losses(logits.reshape(-1, classes), batch.targets.repeat(heads))
        members, sizes = self.membership(batch, losses.dtype), batch.counts
        if self.withheld_fraction and self.withheld.numel():
            members = members * ~self.withheld[batch.environment, batch.indices]
            # A minibatch may have no other rows of an environment.
            sizes = global_sum(members.sum(dim=1)).clamp(min=1)
        risks = global_sum(losses.reshape(heads, count) @ members.T) / sizes
        return {"loss": risks.mean(dim=1).sum(), "risks": risks.mean(dim=0)}

    # What needs whole environments

    def on_fit_start(self) -> None:
        """Withholds rows, finds the label prior and the numbers' scale, loads a representation.

        Raises:
            UsageError: where a training environment has no sample to test on, or the checkpoint
                does not fit.
        """
        super().on_fit_start()
        if self.checkpoint is not None and not int(self.steps_taken):
            self._load_representation(self.checkpoint)
        environments, held_out = self._environments(), self._held_out()
        if not all(map(len, held_out)):
            raise UsageError(
                f"Training environments have {[len(rows) for rows in held_out]} held-out samples; "
                "sets are tested on samples that no head is trained on. Withhold a part of the "
                "main split by --algo.withheld_fraction 0.2, or take data with a holdout split."
            )
        if self.withheld_fraction:
            rows = max(len(environment.targets) for environment in environments)
            self.withheld = torch.zeros(len(environments), rows, dtype=torch.bool)
            for position, indices in enumerate(held_out):
                self.withheld[position, indices] = True
            self.withheld = self.withheld.to(self.device)
        main = [environment.main for environment in environments]
        targets = [e.targets[rows] for e, rows in zip(environments, main, strict=True)]
        # One more of each class, so that none is impossible.
        counts = [torch.bincount(t, minlength=len(self.network.log_prior)) + 1 for t in targets]
        shares = torch.stack([count / count.sum() for count in counts])
        self.network.log_prior.copy_(shares.mean(dim=0).log())
        self.network.standardise(torch.cat([self.network.numbers(x) for x in self._inputs(main)]))

    @torch.no_grad()
    def on_validation_start(self) -> None:
        """Tests every set of variables on held-out samples, and chooses what predicts."""
        training = self.network.training
        self.network.eval()
        # Every process tests all samples; where their rounding differs the first one decides.
        decision: Decision = self.trainer.strategy.broadcast(self._decide())
        self.network.train(training)
        self.network.chosen.fill_(self.network.subsets.index(decision.chosen))
        self.conclusion = decision.to_dict()

    def _decide(self) -> Decision:
        logits, found = [], []
        for inputs in self._inputs(self._held_out()):
            logits.append(self.network.subset_logits(inputs).double().cpu())
            values = self.network.variables(inputs)
            found.append({name: as_numbers(value).double().cpu() for name, value in values.items()})
        together = torch.cat(logits, dim=1).numpy()
        return decide(
            dict(zip(self.network.subsets, together, strict=True)),
            self._labels(self._held_out()),
            self._labels([torch.cat([e.main, e.holdout]) for e in self._environments()]),
            {name: torch.cat([part[name] for part in found]).numpy() for name in found[0]},
            alpha=self.alpha,
            rule=self.predict_with,
        )

    def _environments(self) -> list[Any]:
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # Lightning attaches it
        return [data.environment(index) for index in data.train_environments]

    def _held_out(self) -> list[Tensor]:
        """Indices of the samples that sets are tested on, of each training environment."""
        if not self.withheld_fraction:
            return [environment.holdout for environment in self._environments()]
        return [
            e.main[_every(e.targets[e.main], self.withheld_fraction)] for e in self._environments()
        ]

    def _inputs(self, chosen: Sequence[Tensor]) -> Iterator[Tensor]:
        """Inputs of samples of each training environment, in batches, as heads are given them."""
        for environment, indices in zip(self._environments(), chosen, strict=True):
            for part in torch.split(indices, _BATCH):
                inputs = environment.inputs.index_select(0, part)
                yield inputs.to(self.device, self.network.log_prior.dtype)

    def _labels(self, chosen: Sequence[Tensor]) -> Labels:
        pairs = list(zip(self._environments(), chosen, strict=True))
        return Labels(
            torch.cat([e.targets[rows] for e, rows in pairs]).numpy(),
            torch.repeat_interleave(torch.tensor([len(rows) for rows in chosen])).numpy(),
            torch.cat([e.sources[rows] for e, rows in pairs]).numpy(),
        )

    def _load_representation(self, file: str) -> None:
        """Takes a trained featurizer over, which must be of this run's architecture."""
        assert self.network.representation is not None
        if is_recorded(file):
            raise UsageError(
                f"The record names its representation by its hash, {file}; give the checkpoint it "
                "was read from with --algo.representation."
            )
        try:
            content = torch.load(Path(file).expanduser(), map_location="cpu", weights_only=True)
            weights = {
                name.removeprefix("network.featurizer."): value
                for name, value in content["state_dict"].items()
                if name.startswith("network.featurizer.")
            }
            self.network.representation.load_state_dict(weights)
        except Exception as error:
            # torch.load raises whatever the damage leads to: there is no narrower class.
            assert self.network.recipe is not None
            raise UsageError(
                f"--algo.representation {file} cannot be taken over ({type(error).__name__}): it "
                "must be the checkpoint of a run with this data set's inputs and this run's "
                f"network, {self.network.recipe.options}. Give its own by --network.width etc."
            ) from error


def _every(targets: Tensor, fraction: float) -> Tensor:
    """Marks a share of each class, evenly spread over its rows, ``(n,)`` bool."""
    chosen = torch.zeros(len(targets), dtype=torch.bool)
    for label in torch.unique(targets):
        (rows,) = torch.where(targets == label)
        steps = (torch.arange(len(rows) + 1, dtype=torch.float64) * fraction).floor()
        chosen[rows[steps.diff() > 0]] = True
    return chosen
