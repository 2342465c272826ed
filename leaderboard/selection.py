"""Which check of which run counts.

Every rule chooses through a view: a reduced copy that holds only what the rule may see. The view of
`train_val` has the holdout accuracy of the training environments and nothing else, so no rule can
peek at the held-out environments by mistake.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from leaderboard.errors import RecordError
from leaderboard.frame import Checks, Record, columns
from leaderboard.records import CheckLine, SelectionRule

WITHIN_RUN: tuple[SelectionRule, ...] = ("train_val", "oracle", "last")
RULES: tuple[SelectionRule, ...] = ("train_val", "leave_one_out", "oracle", "last")


_MOST_NAMES = 10  # in a message


class Needed(NamedTuple):
    """A run that a trial lacks.

    Attributes:
        test: Names of its test environments.
        draw: Its draw of hyper-parameters.
    """

    test: tuple[str, ...]
    draw: int


class UnavailableError(RecordError):
    """A selection rule cannot choose among these checks; the message says why.

    Attributes:
        needed: The runs that it lacks.
    """

    def __init__(self, message: str, needed: Sequence[Needed] = ()) -> None:
        super().__init__(message)
        self.needed = tuple(needed)


class View(NamedTuple):
    """What a rule sees of R runs that were checked alike.

    Attributes:
        steps: `(C,)` int64, ascending: the checks to choose from.
        accuracies: `(R, C, k)` float64, the columns that the rule may see; NaN if not finite.
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
    if rule != "train_val":
        return int(run.steps[-1])
    ((score, step),) = _best(training_view([run], train_names))
    _refuse_not_finite(score)
    return step


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


def diverged(check: CheckLine, train_names: Sequence[str]) -> bool:
    """Whether a run ends at a check because its training has broken down.

    That is so when a training value, or a metric on the training environments, is not finite. Those
    of held-out environments have no say: they must not decide how long a run is trained.

    Args:
        check: As measured, or as read, where null stands for what is not finite.
        train_names: Names of the training environments.
    """
    numbers = [*check["train"].values()]
    for split, metrics in check["splits"].items():
        if split.rpartition("/")[0] in train_names:
            numbers += [metrics["accuracy"], metrics["nll"], metrics["brier"], metrics["ece"]]
    return any(number is None or not np.isfinite(number) for number in numbers)


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
    if rule == "leave_one_out":
        _refuse_without_pairs(draws, pairs)
    scored: dict[int, tuple[float, int]] = {}
    for places in _alike(rule, draws):
        alike = [draws[place] for place in places]
        view = _view(rule, alike, pairs.get(alike[0].draw, {}))
        scored |= zip(places, _best(view), strict=True)
    place = max(range(len(draws)), key=lambda place: scored[place][0])
    score, step = scored[place]
    _refuse_not_finite(score)
    return Choice(draws[place], int(np.searchsorted(draws[place].checks.steps, step)))


def training_view(runs: Sequence[Checks], train_names: Sequence[str]) -> View:
    """Show the holdout accuracy of the training environments, and nothing else.

    Args:
        runs: The checks of runs that were checked alike.
        train_names: Names of the environments that all of them trained on.

    Raises:
        UnavailableError: a check has not measured one of them.
    """
    splits = [f"{name}/holdout" for name in train_names]
    if not _measured(runs, splits):
        missing = next(split for split in splits if not _measured(runs, [split]))
        raise UnavailableError(
            "train_val needs the holdout accuracy of every training environment, but a check has "
            f"no '{missing}': choose the rule 'last', or a protocol with a holdout"
        )
    return View(runs[0].steps, _accuracies(runs, splits))


def left_out_view(record: Record, pairs: Mapping[frozenset[str], Record]) -> View:
    """Show the accuracy on each training environment of the run that holds it out as well."""
    held_out = {name: pairs[frozenset({*record.test, name})].checks for name in record.train}
    steps = record.checks.steps
    for checks in held_out.values():
        steps = np.intersect1d(steps, checks.steps)
    columns = [
        checks.accuracies([f"{name}/main"])[np.searchsorted(checks.steps, steps), 0]
        for name, checks in held_out.items()
    ]
    return View(steps, np.stack(columns, axis=1)[None])


def _refuse_without_pairs(
    draws: Sequence[Record], pairs: Mapping[int, Mapping[frozenset[str], Record]]
) -> None:
    missing = {
        Needed(_in_order({*record.test, name}, record.environments), record.draw): name
        for record in draws
        for name in record.train
        if frozenset({*record.test, name}) not in pairs.get(record.draw, {})
    }
    if missing:
        names = list(dict.fromkeys(missing.values()))
        of_draws = sorted({needed.draw for needed in missing})
        raise UnavailableError(
            f"leave_one_out needs runs that hold out one of {_some(names)} beside "
            f"{_some(draws[0].test)}" + f", of draws {of_draws}" * (len(draws) > 1),
            list(missing),
        )


def _in_order(names: Collection[str], environments: Sequence[str]) -> tuple[str, ...]:
    return tuple(name for name in environments if name in names)


def _view(
    rule: SelectionRule, runs: Sequence[Record], pairs: Mapping[frozenset[str], Record]
) -> View:
    if rule == "leave_one_out":
        (record,) = runs
        return left_out_view(record, pairs)
    checks = [record.checks for record in runs]
    if rule == "train_val":
        return training_view(checks, runs[0].train)
    splits = [f"{name}/holdout" for name in runs[0].test]
    if any(split not in checks[0].splits for split in splits):
        raise UnavailableError(
            f"oracle chooses between draws by {', '.join(splits)}, which was not measured"
        )
    return View(checks[0].steps[-1:], _accuracies(checks, splits)[:, -1:])


def _alike(rule: SelectionRule, runs: Sequence[Record]) -> list[list[int]]:
    """The places of runs that one view can show: those checked at the same steps and splits.

    Under `leave_one_out` each run is seen through runs of its own.
    """
    if rule == "leave_one_out":
        return [[place] for place in range(len(runs))]
    groups: dict[tuple[bytes, int], list[int]] = {}
    for place, record in enumerate(runs):
        # Runs that measure the same splits share the mapping of them.
        layout = record.checks.steps.tobytes(), id(record.checks.splits)
        groups.setdefault(layout, []).append(place)
    return list(groups.values())


def _measured(runs: Sequence[Checks], splits: Sequence[str]) -> bool:
    """Whether every check of runs that were checked alike measured all these splits."""
    known = runs[0].splits
    if not all(split in known for split in splits):
        return False
    columns = [known[split] for split in splits]
    return bool(np.concatenate([run.counts for run in runs])[:, columns].all())


def _accuracies(runs: Sequence[Checks], splits: Sequence[str]) -> npt.NDArray[np.float64]:
    """`(R, C, len(splits))` of runs that were checked alike."""
    columns = [runs[0].splits[split] for split in splits]
    together = np.concatenate([run.metrics[:, :, 0] for run in runs])
    found: npt.NDArray[np.float64] = together[:, columns].reshape(len(runs), -1, len(columns))
    return found


def _some(names: Sequence[str]) -> str:
    left = len(names) - _MOST_NAMES
    return f"{list(names[:_MOST_NAMES])}" + f" and {left} more" * (left > 0)


def _refuse_empty(checks: Checks) -> None:
    if not len(checks):
        raise UnavailableError("the run has no checks, so there is none to select: resume it")


def _refuse_not_finite(score: float) -> None:
    if score == -np.inf:
        raise UnavailableError(
            "found no check whose accuracies are all finite: the run diverged before its first "
            "check"
        )


def _best(view: View) -> list[tuple[float, int]]:
    """Of each run the highest mean and the first step that has it.

    Minus infinity where no mean is finite.
    """
    if not len(view.steps):
        return [(-np.inf, 0)] * len(view.accuracies)
    # The mean to the last bit, and minus infinity for what is not finite.
    means = np.fmax(np.add.reduce(view.accuracies, axis=2) / view.accuracies.shape[2], -np.inf)
    steps = view.steps[means.argmax(axis=1)]
    return list(zip(means.max(axis=1).tolist(), steps.tolist(), strict=True))
