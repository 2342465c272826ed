"""Which check of which run counts.

Every rule chooses through a view: a reduced copy that holds only what the rule may see. The view of
`train_val` has the holdout accuracy of the training environments and nothing else, so no rule can
peek at the held-out environments by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leaderboard.errors import RecordError
from leaderboard.frame import Checks, Record, columns
from leaderboard.records import CheckLine, SelectionRule

WITHIN_RUN: tuple[SelectionRule, ...] = ("train_val", "oracle", "last")
RULES: tuple[SelectionRule, ...] = ("train_val", "leave_one_out", "oracle", "last")


_MOST_NAMES = 10  # in a message


class UnavailableError(RecordError):
    """A selection rule cannot choose among these checks; the message says why.

    Attributes:
        needed: Names of the test environments of each run that it lacks.
    """

    def __init__(self, message: str, needed: Sequence[tuple[str, ...]] = ()) -> None:
        super().__init__(message)
        self.needed = tuple(needed)


class View(NamedTuple):
    """What a rule sees of one run.

    Attributes:
        steps: `(C,)` int64, ascending: the checks to choose from.
        accuracies: `(C, k)` float64, the columns that the rule may see; NaN if not finite.
    """

    steps: npt.NDArray[np.int64]
    accuracies: npt.NDArray[np.float64]


class Choice(NamedTuple):
    """One check of one run.

    Attributes:
        record: The run.
        position: Of the check among the run's checks.
    """

    record: Record
    position: int


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
    if rule == "leave_one_out":
        raise UnavailableError(
            "leave_one_out compares runs that hold out one more training environment each, so one "
            f"run cannot answer it: choose one of {', '.join(WITHIN_RUN)}"
        )
    run = columns(checks)
    _refuse_empty(run)
    if rule == "train_val":
        return int(run.steps[_best(training_view(run, train_names))[1]])
    return int(run.steps[-1])


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


def choose(
    rule: SelectionRule,
    draws: Sequence[Record],
    pairs: Mapping[int, Mapping[frozenset[str], Record]],
) -> Choice:
    """Choose among the draws of hyper-parameters of one trial, and among the checks of each.

    `train_val` takes the highest mean holdout accuracy of the training environments over all draws
    and checks. `leave_one_out` takes the highest mean accuracy on a training environment of the
    runs that hold it out too, over all draws and those checks that all of these runs have. `oracle`
    takes the draw with the highest holdout accuracy of the test environments at the last check, and
    `last` the last check of the one draw there is. Of equal ones the first counts.

    Args:
        rule: The selection rule.
        draws: The finished runs of one trial, equal in all but the draw, ascending by draw; one at
            least.
        pairs: By draw, then by names of the held-out environments, the runs of the same trial that
            hold out one more environment; only `leave_one_out` reads them.

    Raises:
        UnavailableError: the rule needs what these runs do not have.
    """
    for record in draws:
        _refuse_empty(record.checks)
    if rule == "last":
        if len(draws) > 1:
            raise UnavailableError(
                f"last compares fixed settings, and there are {len(draws)} draws: choose train_val"
            )
        return Choice(draws[0], len(draws[0].checks) - 1)
    if rule == "oracle" and len(draws) == 1:
        return Choice(draws[0], len(draws[0].checks) - 1)
    views = [_view(rule, record, pairs.get(record.draw, {})) for record in draws]
    scored = [_best_or_nothing(view) for view in views]
    best = max(range(len(draws)), key=lambda draw: (scored[draw][0], -draw))
    score, position = scored[best]
    if score == -np.inf:
        _best(views[best])
    step = views[best].steps[position]
    return Choice(draws[best], int(np.searchsorted(draws[best].checks.steps, step)))


def training_view(checks: Checks, train_names: Sequence[str]) -> View:
    """Show the holdout accuracy of the training environments, and nothing else.

    Raises:
        UnavailableError: a check has not measured one of them.
    """
    splits = [f"{name}/holdout" for name in train_names]
    if not checks.measured(splits):
        split = next(split for split in splits if not checks.measured([split]))
        raise UnavailableError(
            "train_val needs the holdout accuracy of every training environment, but a check "
            f"has no '{split}': choose the rule 'last', or a protocol with a holdout"
        )
    return View(checks.steps, checks.accuracies(splits))


def left_out_view(record: Record, pairs: Mapping[frozenset[str], Record]) -> View:
    """Show the accuracy on each training environment of the run that holds it out as well.

    Raises:
        UnavailableError: such a run is missing.
    """
    found = {name: pairs.get(frozenset({*record.test, name})) for name in record.train}
    missing = [name for name, pair in found.items() if pair is None]
    if missing:
        raise UnavailableError(
            f"leave_one_out needs runs that hold out one of {_some(missing)} beside "
            f"{_some(record.test)}",
            [(*record.test, name) for name in missing],
        )
    held_out = {name: pair.checks for name, pair in found.items() if pair is not None}
    steps = record.checks.steps
    for checks in held_out.values():
        steps = np.intersect1d(steps, checks.steps)
    columns = [
        checks.accuracies([f"{name}/main"])[np.searchsorted(checks.steps, steps), 0]
        for name, checks in held_out.items()
    ]
    return View(steps, np.stack(columns, axis=1))


def _view(rule: SelectionRule, record: Record, pairs: Mapping[frozenset[str], Record]) -> View:
    if rule == "train_val":
        return training_view(record.checks, record.train)
    if rule == "leave_one_out":
        return left_out_view(record, pairs)
    splits = [f"{name}/holdout" for name in record.test]
    if any(split not in record.checks.splits for split in splits):
        raise UnavailableError(
            f"oracle chooses between draws by {', '.join(splits)}, which was not measured"
        )
    return View(record.checks.steps[-1:], record.checks.accuracies(splits)[-1:])


def _some(names: Sequence[str]) -> str:
    left = len(names) - _MOST_NAMES
    return f"{list(names[:_MOST_NAMES])}" + f" and {left} more" * (left > 0)


def _refuse_empty(checks: Checks) -> None:
    if not len(checks):
        raise UnavailableError("the run has no checks, so there is none to select: resume it")


def _best(view: View) -> tuple[float, int]:
    score, position = _best_or_nothing(view)
    if score == -np.inf:
        raise UnavailableError(
            "found no check whose accuracies are all finite: the run diverged before its first "
            "check"
        )
    return score, position


def _best_or_nothing(view: View) -> tuple[float, int]:
    """The highest mean and the first position that has it; minus infinity if none is finite."""
    if not len(view.steps):
        return -np.inf, 0
    # The mean to the last bit, and minus infinity for what is not finite.
    means = np.fmax(np.add.reduce(view.accuracies, axis=1) / view.accuracies.shape[1], -np.inf)
    position = int(means.argmax())
    return float(means[position]), position
