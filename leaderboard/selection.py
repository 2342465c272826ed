"""Which check of a run counts.

Every rule chooses through a view: a reduced copy that holds only what the rule may see. The view of
`train_val` has the holdout accuracy of the training environments and nothing else, so no rule can
peek at the held-out environments by mistake.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from leaderboard.errors import RecordError
from leaderboard.records import CheckLine, SelectionRule

WITHIN_RUN: tuple[SelectionRule, ...] = ("train_val", "oracle", "last")


class UnavailableError(RecordError):
    """A selection rule cannot choose among these checks; the message says why."""


class _View(NamedTuple):
    step: int
    accuracies: tuple[float | None, ...]  # holdout of the training environments; () if not allowed


def select(
    rule: SelectionRule,
    checks: Sequence[CheckLine],
    train_names: Sequence[str],
    test_names: Sequence[str],
) -> int:
    """Return the step of the check that `rule` picks within one run.

    `train_val` takes the highest mean holdout accuracy of the training environments, and of equal
    ones the first, as DomainBed's argmax does. `last` takes the last check. So does `oracle`: it
    looks at the test environments only to choose between runs, never between the checks of one.

    Args:
        rule: The selection rule.
        checks: The checks of a run, in ascending order of steps.
        train_names: Names of the training environments.
        test_names: Names of the test environments.

    Raises:
        UnavailableError: the rule needs what these checks do not have.
        RecordError: an environment is both trained on and held out, or none is trained on.
    """
    both = sorted(set(train_names) & set(test_names))
    if both:
        raise RecordError(f"{both} are trained on and held out: an environment has one role")
    if not train_names:
        raise RecordError("no training environments: name at least one")
    if not checks:
        raise UnavailableError("the run has no checks, so there is none to select: resume it")
    if rule == "leave_one_out":
        raise UnavailableError(
            "leave_one_out compares runs that hold out one more training environment each, so one "
            f"run cannot answer it: choose one of {', '.join(WITHIN_RUN)}"
        )
    if rule == "train_val":
        return _best(_training_view(checks, train_names))
    return _step_view(checks)[-1].step


def selected_steps(
    checks: Sequence[CheckLine], train_names: Sequence[str], test_names: Sequence[str]
) -> dict[SelectionRule, int | None]:
    """Return the step that each rule within a run picks; None where a rule is unavailable.

    Raises:
        RecordError: an environment is both trained on and held out, or none is trained on.
    """
    steps: dict[SelectionRule, int | None] = {}
    for rule in WITHIN_RUN:
        try:
            steps[rule] = select(rule, checks, train_names, test_names)
        except UnavailableError:
            steps[rule] = None
    return steps


def _step_view(checks: Sequence[CheckLine]) -> list[_View]:
    return [_View(check["step"], ()) for check in checks]


def _training_view(checks: Sequence[CheckLine], train_names: Sequence[str]) -> list[_View]:
    return [
        _View(check["step"], tuple(_holdout_accuracy(check, name) for name in train_names))
        for check in checks
    ]


def _holdout_accuracy(check: CheckLine, name: str) -> float | None:
    metrics = check["splits"].get(f"{name}/holdout")
    if metrics is None:
        raise UnavailableError(
            f"train_val needs the holdout accuracy of every training environment, but the check at "
            f"step {check['step']} has no '{name}/holdout': choose the rule 'last', or a protocol "
            "with a holdout"
        )
    return metrics["accuracy"]


def _best(view: Sequence[_View]) -> int:
    finite = {
        check.step: sum(values) / len(values)
        for check in view
        if len(values := [a for a in check.accuracies if a is not None]) == len(check.accuracies)
    }
    if not finite:
        raise UnavailableError(
            "train_val found no check whose accuracies are all finite: the run diverged before its "
            "first check"
        )
    return max(finite, key=finite.__getitem__)
