"""DomainBed's own tables, to the letter: what its `collect_results` prints of a sweep.

For comparing with published tables, not for reading: unfinished jobs count, the error has ddof 0
(with three trials the printed +- covers half of the truth), missing runs shrink n in silence, and
the average has no error. `leaderboard build` without `--parity` has none of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from leaderboard.domainbed import ENVIRONMENTS
from leaderboard.frame import Record

ALGORITHMS = (
    "ERM",
    "ERMPlusPlus",
    "Fish",
    "IRM",
    "GroupDRO",
    "Mixup",
    "MLDG",
    "CORAL",
    "MMD",
    "DANN",
    "CDANN",
    "MTL",
    "SagNet",
    "ARM",
    "VREx",
    "RSC",
    "SD",
    "ANDMask",
    "SANDMask",
    "IGA",
    "SelfReg",
    "Fishr",
    "TRM",
    "IB_ERM",
    "IB_IRM",
    "CAD",
    "CondCAD",
    "Transfer",
    "CausIRL_CORAL",
    "CausIRL_MMD",
    "EQRM",
    "RDM",
    "ADRMX",
    "URM",
)
"""The order of its rows."""

_NO_NUMBER = "X"
_Accuracies = tuple[float, float]  # for selecting, for reporting


def domainbed_tables(records: Iterable[Record]) -> str:
    """Write what `collect_results` prints of these jobs.

    Where two choices are equally good and it lets the order of the file system decide, folders
    count in the order of their names.

    Args:
        records: DomainBed's, finished or not.
    """
    records = sorted(records, key=lambda record: record.place)
    total = sum(len(record.checks) for record in records)
    parts = [f"Total records: {total}\n"]
    for title, rule in _RULES.items():
        parts += _tables(records, title, rule)
    return "".join(parts)


def _tables(
    records: Sequence[Record], title: str, rule: Callable[[list[Record]], _Accuracies | None]
) -> list[str]:
    present = list(dict.fromkeys(record.algorithm for record in records))
    algorithms = [name for name in ALGORITHMS if name in present]
    algorithms += [name for name in present if name not in ALGORITHMS]
    datasets = [name for name in ENVIRONMENTS if any(r.dataset == name for r in records)]
    found = _sweep_accuracies(records, rule)
    parts = []
    for dataset in datasets:
        names = ENVIRONMENTS[dataset]
        rows = [
            [_trials(found, dataset, algorithm, name) for name in names] for algorithm in algorithms
        ]
        header = f"Dataset: {dataset}, model selection method: {title}"
        parts.append(_table(header, ["Algorithm", *names, "Avg"], algorithms, rows, 20))
    rows = [
        [_trial_averages(found, dataset, algorithm) for dataset in datasets]
        for algorithm in algorithms
    ]
    header = f"Averages, model selection method: {title}"
    parts.append(_table(header, ["Algorithm", *datasets, "Avg"], algorithms, rows, 25))
    return parts


_Found = dict[tuple[int, str, str, str], float]  # by trial, data set, algorithm, test environment


def _sweep_accuracies(
    records: Sequence[Record], rule: Callable[[list[Record]], _Accuracies | None]
) -> _Found:
    groups: dict[tuple[int, str, str, str], dict[int, list[Record]]] = {}
    for each in records:
        for name in each.test:
            key = (each.trial.trial_seed, each.dataset, each.algorithm, name)
            groups.setdefault(key, {}).setdefault(each.draw, []).append(each)
    found = {}
    for key, draws in groups.items():
        name = key[-1]
        # Pairs are told from single runs by their number of test environments.
        scored = [rule(_with_target(draws[draw], name)) for draw in sorted(draws)]
        candidates = [each for each in scored if each is not None]
        if candidates:
            # Sorted ascending and then reversed: of equal ones the last, and NaN below all.
            found[key] = sorted(candidates, key=_sortable)[::-1][0][1]
    return found


def _sortable(accuracies: _Accuracies) -> float:
    return -np.inf if np.isnan(accuracies[0]) else accuracies[0]


def _with_target(records: list[Record], name: str) -> list[Record]:
    """Single runs first; both kinds hold `name` out."""
    assert all(name in record.test for record in records)
    return sorted(records, key=lambda record: len(record.test))


def _train_val(records: list[Record]) -> _Accuracies | None:
    steps: list[_Accuracies] = []
    for each in _single(records):
        validation = each.checks.accuracies([f"{name}/holdout" for name in each.train])
        reported = each.checks.accuracies([f"{each.test[0]}/main"])[:, 0]
        means = [float(np.mean(row)) for row in validation]
        steps += list(zip(means, reported.tolist(), strict=True))
    return max(steps, key=lambda accuracies: accuracies[0]) if steps else None


def _leave_one_out(records: list[Record]) -> _Accuracies | None:
    single = _single(records)
    if not single:
        return None
    (target,), train = single[0].test, single[0].train
    steps: dict[int, list[tuple[Record, int]]] = {}
    for each in records:
        for position, step in enumerate(each.checks.steps.tolist()):
            steps.setdefault(step, []).append((each, position))
    scored = [_left_out_step(steps[step], target, train) for step in sorted(steps)]
    whole = [each for each in scored if each is not None]
    return max(whole, key=lambda accuracies: accuracies[0]) if whole else None


def _left_out_step(
    checks: list[tuple[Record, int]], target: str, train: Sequence[str]
) -> _Accuracies | None:
    reported = [(r, p) for r, p in checks if len(r.test) == 1]
    if len(reported) != 1:
        return None
    validation = dict.fromkeys(train, -1.0)
    for each, position in checks:
        if len(each.test) == 2:
            (name,) = set(each.test) - {target}
            validation[name] = _accuracy(each, position, name)
    if -1.0 in validation.values():
        return None
    mean = float(np.sum(list(validation.values())) / len(train))
    return mean, _accuracy(*reported[0], target)


def _oracle(records: list[Record]) -> _Accuracies | None:
    lasts = [(int(r.checks.steps[-1]), index, r) for index, r in enumerate(_single(records))]
    if not lasts:
        return None
    _, _, last = max(lasts)
    name = last.test[0]
    columns = last.checks.accuracies([f"{name}/holdout", f"{name}/main"])
    return float(columns[-1, 0]), float(columns[-1, 1])


_RULES: dict[str, Callable[[list[Record]], _Accuracies | None]] = {
    "training-domain validation set": _train_val,
    "leave-one-domain-out cross-validation": _leave_one_out,
    "test-domain validation set (oracle)": _oracle,
}


def _single(records: list[Record]) -> list[Record]:
    return [record for record in records if len(record.test) == 1]


def _accuracy(record: Record, position: int, name: str) -> float:
    return float(record.checks.accuracies([f"{name}/main"])[position, 0])


def _trials(found: _Found, dataset: str, algorithm: str, name: str) -> list[float]:
    return [v for (_, *rest), v in found.items() if rest == [dataset, algorithm, name]]


def _trial_averages(found: _Found, dataset: str, algorithm: str) -> list[float]:
    trials: dict[int, list[float]] = {}
    for (trial, *rest), value in found.items():
        if rest[:2] == [dataset, algorithm]:
            trials.setdefault(trial, []).append(value)
    return [float(np.mean(trials[trial])) for trial in sorted(trials)]


def _table(
    header: str,
    titles: Sequence[str],
    algorithms: Sequence[str],
    rows: Sequence[Sequence[list[float]]],
    width: int,
) -> str:
    lines: list[Sequence[str]] = [titles]
    for algorithm, row in zip(algorithms, rows, strict=True):
        means = [100 * np.mean(values) for values in row if values]
        whole = len(means) == len(row)
        average = f"{sum(means) / len(means):.1f}" if whole and means else _NO_NUMBER
        lines.append([algorithm, *map(_format, row), average])
    table = "".join("  ".join(t.ljust(width)[:width] for t in line) + " \n" for line in lines)
    return f"\n-------- {header}\n{table}"


def _format(values: Any) -> str:
    if not values:
        return _NO_NUMBER
    # The same operations in the same order, for the same last bit before rounding.
    mean, error = 100 * np.mean(values), 100 * np.std(values / np.sqrt(len(values)))
    return f"{mean:.1f} +/- {error:.1f}"
