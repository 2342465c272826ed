"""From held-out predictions of every set of variables to what may predict, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import special

from dgbench.icp import ICPResult, calibration_p_value
from dgbench.icp.covariates import principal_components, shift_p_value
from dgbench.icp.result import Variables, write_set
from dgbench.icp.sample import FloatArray, IntArray

PredictWith = Literal["intersection", "best_accepted"]

# Of a variable's numbers, for the question whether the environments move it.
_COMPONENTS = 20


class Labels(NamedTuple):
    """Labels of samples and where they come from, ``(n,)`` each.

    Attributes:
        targets: the class.
        environment: 0..K-1.
        sources: samples of one source image are dependent.
    """

    targets: IntArray
    environment: IntArray
    sources: IntArray


@dataclass(frozen=True)
class Decision:
    """What the tests of all sets say, and what predicts.

    Attributes:
        result: outcome, p-values, accepted sets.
        losses: mean held-out cross-entropy of each set's head; None where it is not finite.
        moved: of each variable, the p-value of "its mean is the same in all environments".
        rule: how the predictor was chosen.
    """

    result: ICPResult
    losses: Mapping[Variables, float | None]
    moved: Mapping[str, float]
    rule: PredictWith

    @property
    def chosen(self) -> Variables:
        """The set whose head predicts; the empty one stands for the label prior."""
        if self.rule == "intersection":
            return self.result.estimate or ()
        ranked = [(self.losses[s], s) for s in self.result.accepted_sets]
        losses = [(loss, subset) for loss, subset in ranked if loss is not None]
        return min(losses)[1] if losses else ()

    def describe(self) -> str:
        """The outcome, what predicts, and what a rejection is worth, in three sentences or more."""
        return " ".join([self.result.describe(), self._prediction(), *self._rejections()])

    def to_dict(self) -> dict[str, Any]:
        """All of it in lists, numbers and strings, as a record keeps it."""
        return {
            "outcome": self.result.outcome,
            "text": self.describe(),
            "alpha": self.result.alpha,
            "rule": self.rule,
            "predictor": list(self.chosen),
            "variables": list(self.result.variables),
            "sets": [
                {"variables": list(subset), "p_value": p_value, "loss": self.losses[subset]}
                for subset, p_value in self.result.set_p_values.items()
            ],
            "moved": dict(self.moved),
        }

    def _prediction(self) -> str:
        if self.chosen:
            why = {
                "intersection": "what all accepted sets have in common",
                "best_accepted": "the accepted set with the lowest held-out loss",
            }[self.rule]
            return f"Predicts from {write_set(self.chosen)}: {why}."
        why = {
            "rejected": "no set is accepted",
            "empty_intersection": "the accepted sets have nothing in common",
        }.get(self.result.outcome, "the empty set is accepted")
        if self.rule == "best_accepted" and self.result.outcome != "rejected":
            why = "no accepted set has a lower held-out loss"
        return f"Predicts the label prior of the training environments: {why}."

    def _rejections(self) -> list[str]:
        """Which rejections stand, and which may be misfit."""
        rejected = [s for s, p in self.result.set_p_values.items() if p <= self.result.alpha and s]
        level = self.result.alpha / max(1, len(self.moved))
        moving = {name for name, p_value in self.moved.items() if p_value <= level}
        firm = [subset for subset in rejected if not moving & set(subset)]
        doubtful = [subset for subset in rejected if moving & set(subset)]
        said = []
        if firm:
            said.append(
                f"Not invariant at level {self.result.alpha:g}: {_listed(firm)}. Misfit is no "
                "likely reason: no mean of these variables was found to move between the "
                "environments."
            )
        if doubtful:
            said.append(
                f"Rejected, but perhaps only misfit: {_listed(doubtful)}. The environments move "
                f"{_listed([(name,) for name in self.moved if name in moving])}, and a head that "
                "fits less well there is rejected though its variables may be invariant."
            )
        return said


def _listed(subsets: Sequence[Variables]) -> str:
    shown = ", ".join(write_set(subset) for subset in subsets[:6])
    return f"{shown} and {len(subsets) - 6} more sets" if len(subsets) > 6 else shown


def decide(
    logits: Mapping[Variables, FloatArray],
    held_out: Labels,
    everything: Labels,
    variables: Mapping[str, FloatArray],
    *,
    alpha: float,
    rule: PredictWith,
) -> Decision:
    """Tests every set of variables on held-out samples of the training environments.

    Args:
        logits: of each set's head, ``(n, classes)``; the empty set's are the label prior.
        held_out: of these samples.
        everything: of all samples of the training environments: the empty set has nothing to hold
            out from.
        variables: of the held-out samples, ``(n, p)`` each, by name.
        alpha: a set is accepted when its p-value is above this.
        rule: how to choose what predicts.
    """
    p_values = {
        subset: _p_value(values, held_out) if subset else _p_value(None, everything)
        for subset, values in logits.items()
    }
    _, independent = np.unique(
        np.stack([held_out.environment, held_out.sources]), axis=1, return_index=True
    )
    moved = {
        name: shift_p_value(
            principal_components(values[independent], _COMPONENTS),
            held_out.environment[independent],
        )
        for name, values in variables.items()
    }
    result = ICPResult.from_p_values(p_values, list(variables), alpha=alpha, test="calibration")
    losses = {subset: _loss(values, held_out) for subset, values in logits.items()}
    return Decision(result, losses, moved, rule)


def _p_value(logits: FloatArray | None, labels: Labels) -> float:
    """Of "equally calibrated everywhere"; 0 for a head that has diverged."""
    if logits is None:
        logits = np.zeros((len(labels.targets), int(labels.targets.max()) + 1))
    if not np.isfinite(logits).all():
        return 0.0
    repeated = len(np.unique(labels.sources)) < len(labels.sources)
    clusters = labels.sources if repeated else None
    return calibration_p_value(logits, labels.targets, labels.environment, clusters)


def _loss(logits: FloatArray, labels: Labels) -> float | None:
    """Mean over environments of the mean cross-entropy."""
    normalised = logits - special.logsumexp(logits, axis=1, keepdims=True)
    losses = -np.take_along_axis(normalised, labels.targets[:, None], axis=1)[:, 0]
    counts = np.bincount(labels.environment)
    mean = float((np.bincount(labels.environment, losses) / counts).mean())
    return mean if np.isfinite(mean) else None
