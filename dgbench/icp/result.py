"""What invariant causal prediction answers: one of four outcomes, and its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dgbench.icp import subsets
from dgbench.icp.subsets import Outcome

Variables = tuple[str, ...]
Interval = tuple[float, float]


@dataclass(frozen=True)
class ICPResult:
    """The answer for one table.

    Attributes:
        outcome: ``identified``: the accepted sets have variables in common, the ``estimate``;
            ``empty_set_accepted``: the target's own law does not change between environments, so
            nothing can be learnt from them; ``empty_intersection``: it does change, but accepted
            sets have nothing in common (see ``defining_sets``); ``rejected``: no set is accepted,
            so an assumption fails and there is no estimate.
        estimate: the variables in every accepted set; None where the outcome is ``rejected``.
        alpha: level of the test of one set.
        test: name of that test.
        variables: the variables of which all subsets were tested.
        set_p_values: p-value of each set that was tested, smaller sets first.
        p_values: of each variable, for "it is no parent of the target"; 1 for all where the
            outcome is ``rejected``; None where only the estimate was asked for.
        intervals: lower and upper bound of each variable's coefficient: the hull of its
            confidence intervals in all accepted sets, with 0 where a set leaves it out. None where
            the outcome is ``rejected``, only the estimate was asked for, or the test has no
            coefficients.
        interval_level: probability with which intervals cover, at least, as ``icp`` says.
        defining_sets: the smallest sets that meet every accepted set: each holds a parent with
            probability at least ``1 - alpha``.
        screened_out: variables that pre-screening left out.
        notes: treatments and limits that a reader of the numbers must know.
    """

    outcome: Outcome
    estimate: Variables | None
    alpha: float
    test: str
    variables: Variables
    set_p_values: Mapping[Variables, float]
    p_values: Mapping[str, float] | None
    intervals: Mapping[str, Interval] | None
    interval_level: float | None
    defining_sets: tuple[Variables, ...]
    screened_out: Variables = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_p_values(
        cls,
        set_p_values: Mapping[Variables, float],
        variables: Sequence[str],
        *,
        alpha: float,
        test: str,
        complete: bool = True,
        intervals: Mapping[str, Interval] | None = None,
        interval_level: float | None = None,
        screened_out: Variables = (),
        notes: Sequence[str] = (),
    ) -> ICPResult:
        """Concludes from p-values of sets, however they were tested.

        Args:
            set_p_values: p-value of each tested set.
            variables: names of all variables, which the sets' names are among.
            alpha: a set is accepted when its p-value exceeds this.
            test: name of the test.
            complete: whether all subsets were tested, which p-values of variables need.
            intervals: of each variable, from all accepted sets.
            interval_level: what they cover with, at least.
            screened_out: variables that were left out before.
            notes: what a reader must know.

        Example:
            >>> p = {(): 0.001, ("colour",): 1e-9, ("shape",): 0.4, ("colour", "shape"): 1e-4}
            >>> result = ICPResult.from_p_values(p, ["colour", "shape"], alpha=0.05, test="mine")
            >>> result.outcome, result.estimate, result.p_values["shape"]
            ('identified', ('shape',), 0.001)
        """
        number = {name: column for column, name in enumerate(variables)}
        coded = {
            tuple(sorted(number[name] for name in names)): p_value
            for names, p_value in set_p_values.items()
        }
        ordered = dict(sorted(coded.items(), key=lambda item: (len(item[0]), item[0])))

        def named(subset: subsets.Subset) -> Variables:
            return tuple(variables[column] for column in subset)

        outcome, estimate = subsets.conclude(ordered, alpha)
        rejected = outcome == "rejected"
        accepted = [subset for subset, p_value in ordered.items() if p_value > alpha]
        p_values = subsets.variable_p_values(ordered, len(variables))
        return cls(
            outcome=outcome,
            estimate=None if estimate is None else named(estimate),
            alpha=alpha,
            test=test,
            variables=tuple(variables),
            set_p_values={named(subset): p_value for subset, p_value in ordered.items()},
            p_values={
                name: 1.0 if rejected else p_value
                for name, p_value in zip(variables, p_values, strict=True)
            }
            if complete
            else None,
            intervals=None if rejected else intervals,
            interval_level=None if rejected or intervals is None else interval_level,
            defining_sets=tuple(map(named, subsets.defining_sets(accepted))),
            screened_out=screened_out,
            notes=tuple(notes),
        )

    @property
    def accepted_sets(self) -> tuple[Variables, ...]:
        """The sets that are not rejected at ``alpha``, smaller ones first."""
        return tuple(s for s, p_value in self.set_p_values.items() if p_value > self.alpha)

    def describe(self) -> str:
        """The outcome in words, with what it does and does not say."""
        level = f"{100 * (1 - self.alpha):g} %"
        kept = " that the screen kept" if self.screened_out else ""
        condition = (
            f"if its parents are among the variables{kept} and its mechanism is the same in every "
            "environment"
        )
        return {
            "identified": (
                f"Identified: {write_set(self.estimate or ())}. With probability at least {level} "
                f"all of these are direct causes of the target, {condition}. Other variables "
                "may be causes too: these environments cannot tell."
            ),
            "empty_set_accepted": (
                "Nothing identified: the target's own law does not differ between the "
                "environments (the empty set is accepted). That is a valid answer, not a failure: "
                "no environment moved a cause far enough to show."
            ),
            "empty_intersection": (
                "Nothing identified: the target's law differs between the environments, but the "
                "sets that explain it have no variable in common. "
                f"With probability at least {level} there is a direct cause in each of "
                f"{self._describe_defining_sets()}, {condition}."
            ),
            "rejected": (
                "Rejected: no set of variables makes the target invariant, the empty set "
                "included, so there is no estimate. Some assumption fails: a hidden cause, a "
                "relation of another form than the test's, an intervention on the target itself, "
                "or noise that changes between environments."
            ),
        }[self.outcome]

    def _describe_defining_sets(self) -> str:
        shown = " and ".join(write_set(s) for s in self.defining_sets[:4])
        return shown + (" (and more)" if len(self.defining_sets) > 4 else "")

    def to_dict(self) -> dict[str, Any]:
        """All of it in lists, numbers and strings, as the command writes it to JSON.

        Bounds that are infinite, where a coefficient is not determined, become None.
        """
        intervals = self.intervals
        return {
            "outcome": self.outcome,
            "description": self.describe(),
            "estimate": None if self.estimate is None else list(self.estimate),
            "alpha": self.alpha,
            "test": self.test,
            "variables": list(self.variables),
            "screened_out": list(self.screened_out),
            "p_values": None if self.p_values is None else dict(self.p_values),
            "intervals": None
            if intervals is None
            else {name: [_finite(b) for b in bounds] for name, bounds in intervals.items()},
            "interval_level": self.interval_level,
            "accepted_sets": [list(names) for names in self.accepted_sets],
            "defining_sets": [list(names) for names in self.defining_sets],
            "sets": [
                {"variables": list(names), "p_value": p_value, "accepted": p_value > self.alpha}
                for names, p_value in self.set_p_values.items()
            ],
            "notes": list(self.notes),
        }


def write_set(names: Variables) -> str:
    """A set of variables as text: ``{X1, X2}``."""
    return "{" + ", ".join(names) + "}"


def _finite(bound: float) -> float | None:
    return bound if abs(bound) < float("inf") else None
