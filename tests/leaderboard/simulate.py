"""How often verdicts and intervals err, and what they find: by simulation.

    python -m tests.leaderboard.simulate [DRAWS]

prints, beside what `leaderboard.comparing` does, what the tables had before: t-tests of every row
with the row of the highest mean, their p-values adjusted by Holm's method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from leaderboard.comparing import compare
from leaderboard.statistics import LEVEL

Rows = Mapping[int, Mapping[int, float]]
Verdict = Callable[[Rows, bool], Mapping[int, bool]]


@dataclass(frozen=True)
class Case:
    """Rows of normal numbers.

    Attributes:
        trials: Numbers of a row.
        means: Of the rows.
        deviations: Standard deviations of the rows.
        blocks: Standard deviation of what rows have in common in a trial.
        paired: Whether it is known that they have.
    """

    trials: int
    means: Sequence[float]
    deviations: Sequence[float]
    blocks: float = 3.0
    paired: bool = True

    def draws(self, count: int, seed: int) -> Iterator[Rows]:
        """Tables of these rows."""
        generator = np.random.Generator(np.random.PCG64(seed))
        for _ in range(count):
            noise = generator.normal(size=(len(self.means), self.trials))
            common = self.blocks * generator.normal(size=self.trials)
            values = np.array(self.means)[:, None] + noise * np.array(self.deviations)[:, None]
            yield {row: dict(enumerate(own)) for row, own in enumerate((values + common).tolist())}


def equal(rows: int, trials: int, **others: float | bool) -> Case:
    """Rows of equal means and variances."""
    return Case(trials, [0.0] * rows, [1.0] * rows, **others)  # type: ignore[arg-type]


class Shares(NamedTuple):
    """Of all draws.

    Attributes:
        erred: Those in which any row was called worse that equals the best.
        found: Rows that are worse, of them those that were called so.
    """

    erred: float
    found: float


def shares(case: Case, verdict: Verdict, draws: int, seed: int = 0) -> Shares:
    """How often a verdict errs, and how much it finds."""
    best = {row for row, mean in enumerate(case.means) if mean == max(case.means)}
    worse = set(range(len(case.means))) - best
    erred = found = 0
    for rows in case.draws(draws, seed):
        tied = verdict(rows, case.paired)
        erred += not all(tied[row] for row in best)
        found += sum(not tied[row] for row in worse)
    return Shares(erred / draws, found / draws / max(1, len(worse)))


def coverage(case: Case, draws: int, seed: int = 0) -> float:
    """How often the intervals of all differences to the first row hold together."""
    held = 0
    for rows in case.draws(draws, seed):
        found = compare(rows, paired=case.paired).differences_to(0)
        intervals = {row: difference.interval for row, difference in found.items()}
        held += all(
            each is not None and each[0] <= case.means[row] - case.means[0] <= each[1]
            for row, each in intervals.items()
        )
    return held / draws


def ours(rows: Rows, paired: bool) -> Mapping[int, bool]:
    """What tables show."""
    verdict = compare(rows, paired=paired).not_shown_worse()
    assert verdict is not None
    return verdict


def holms(rows: Rows, paired: bool) -> Mapping[int, bool]:
    """What tables showed: t-tests with the best, which is chosen by the same trials."""
    assert paired
    values = np.array([[*own.values()] for own in rows.values()])
    best, n = int(values.mean(axis=1).argmax()), values.shape[1]
    differences = values - values[best]
    errors = differences.std(axis=1, ddof=1) / np.sqrt(n)
    errors[best] = 1.0
    p_values = 2 * stdtr(n - 1, -np.abs(differences.mean(axis=1)) / errors)
    tied = dict.fromkeys(rows, True)
    others = sorted((row for row in rows if row != best), key=p_values.__getitem__)
    for place, row in enumerate(others):
        if (len(others) - place) * p_values[row] > LEVEL:
            break
        tied[row] = False
    return tied


def unlike(rows: int, factor: float, wide: int) -> list[float]:
    """Standard deviations of rows, of which the last ones vary more."""
    return [1.0] * (rows - wide) + [factor] * wide


TRIALS = (3, 5, 10)
ROWS = (5, 14, 40)


def print_errors(draws: int) -> None:
    """Equal rows that are called worse, and intervals that hold together."""
    for trials, rows in product(TRIALS, ROWS):
        case = equal(rows, trials)
        apart = equal(rows, trials, blocks=0.0, paired=False)
        _say(
            f"{trials:2} trials {rows:2} rows: Holm {shares(case, holms, draws).erred:.3f}, "
            f"ours {shares(case, ours, draws).erred:.4f}, intervals {coverage(case, draws):.4f}; "
            f"not paired {shares(apart, ours, draws).erred:.4f} {coverage(apart, draws):.4f}"
        )


def print_errors_of_unlike_rows(draws: int) -> None:
    """The same, where some rows vary ten times as much."""
    for trials, rows in product(TRIALS, ROWS):
        for wide in (1, 2, rows // 2):
            case = Case(trials, [0.0] * rows, unlike(rows, 10.0, wide))
            _say(
                f"{trials:2} trials {rows:2} rows, {wide:2} of them vary more: "
                f"Holm {shares(case, holms, draws).erred:.3f}, "
                f"ours {shares(case, ours, draws).erred:.3f}, intervals {coverage(case, draws):.3f}"
            )


def print_power(draws: int) -> None:
    """Of rows that are worse by 1, 2, 4 and 8 standard deviations those that are called so."""
    for trials, rows, factor in product(TRIALS, ROWS, (1.0, 10.0)):
        found = []
        for distance in (1.0, 2.0, 4.0, 8.0):
            means = [0.0, 0.0, *[-distance] * (rows - 2)]
            case = Case(trials, means, unlike(rows, factor, 1))
            before, now = (shares(case, verdict, draws).found for verdict in (holms, ours))
            found.append(f"{distance:g}: {before:.2f} {now:.2f}")
        _say(f"{trials:2} trials {rows:2} rows, last one x{factor:g}: {', '.join(found)}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    full = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print_errors(full)
    print_errors_of_unlike_rows(full // 5)
    print_power(full // 50)
