"""Whether the trials of a search were searched one by one, or the first of them for all.

No run says which: the defaults belong to either, and to fixed settings, too. It shows in the draws
of later trials. Draws of their own are those of a search; one draw of the first trial is repeated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from leaderboard import draws
from leaderboard.choices import chosen
from leaderboard.frame import Record, Trial
from leaderboard.records import SelectionRule
from leaderboard.selection import Choice

TUNING_RULES: tuple[SelectionRule, ...] = ("train_val", "oracle")
"""The rules by which the first trial may be tuned for all: they need no run but its draws."""


class Estimands(NamedTuple):
    """The runs of a search space, by what the spread over trials stands for.

    Attributes:
        searched_again: Of rows whose trials were searched one by one.
        tuned_once: Of rows whose first trial was searched and whose others repeat a draw of it.
    """

    searched_again: list[Record]
    tuned_once: list[Record]


def by_estimand(records: Iterable[Record]) -> Estimands:
    """Tell the rows of the two kinds apart; where both were run, a row is of both.

    Later trials that have nothing but the defaults may be the start of a search, or repeat what the
    first trial prefers. They are taken for what the other rows are, and else for repeated. Beside
    draws of a search they are repeated as well, if the first trial prefers them and other rows were
    tuned once.

    Args:
        records: The runs of one search space.
    """
    rows: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        rows.setdefault((record.algorithm, record.searched), []).append(record)
    found = Estimands([], [])
    either: list[Record] = []
    never_tuned: list[Record] = []
    perhaps_both: list[Record] = []
    for row in rows.values():
        again, once = _of_row(row)
        found.searched_again.extend(again)
        found.tuned_once.extend(once)
        if not again and not once:
            (either if row[0].rule in TUNING_RULES else never_tuned).extend(row)
        elif not once and _prefers_the_defaults(row):
            perhaps_both += [record for record in row if not _is_own(record)]
    if found.tuned_once:
        found.tuned_once.extend(perhaps_both)
    repeats = len({record.trial for record in either}) > 1 or bool(found.tuned_once)
    alike = found.tuned_once if repeats and not found.searched_again else found.searched_again
    alike.extend(either)
    found.searched_again.extend(never_tuned)
    return found


def fixed_settings(records: Sequence[Record], tuned_once: Iterable[Record]) -> list[Record]:
    """The runs of fixed settings, without defaults that are there by chance.

    Where settings were tuned once, later trials have the defaults if they are preferred, and only
    with these test environments. So they count in the trials in which all such rows have them.

    Args:
        records: The runs of no search space.
        tuned_once: Those of rows that were tuned once.
    """
    rows = {(record.algorithm, record.searched) for record in tuned_once}
    there: dict[Trial, set[tuple[str, str, tuple[str, ...]]]] = {}
    for r in records:
        if (r.algorithm, r.searched) in rows:
            there.setdefault(r.trial, set()).add((r.algorithm, r.fixed, r.test))
    everything = set().union(*there.values())
    whole = {trial for trial, found in there.items() if found == everything or trial == min(there)}
    return [r for r in records if (r.algorithm, r.searched) not in rows or r.trial in whole]


def _of_row(row: Sequence[Record]) -> Estimands:
    """The runs of each kind; none at all where later trials have the defaults alone."""
    first = min(record.trial for record in row)
    own = any(map(_is_own, row))
    common = _have_draws_in_common(row, first)
    repeated = row[0].rule in TUNING_RULES and not common
    repeated &= any(r.trial > first and r.draw and not _is_own(r) for r in row)
    again = [r for r in row if r.trial == first or not r.draw or _is_own(r)] if own else row
    once = [r for r in row if not _is_own(r)]
    return Estimands(list(again) if own or common else [], once if repeated else [])


def _prefers_the_defaults(row: Sequence[Record]) -> bool:
    """Whether the first trial does, with all test environments, by a rule that may tune."""
    first = min(record.trial for record in row)
    searched: dict[tuple[str, ...], list[Record]] = {}
    for record in row:
        if record.trial == first:
            searched.setdefault(record.test, []).append(record)
    rule = row[0].rule
    return rule in TUNING_RULES and all(
        isinstance(choice := chosen(rule, runs), Choice) and choice.record.draw == 0
        for runs in searched.values()
    )


def _is_own(record: Record) -> bool:
    return draws.is_own(record.trial.trial_seed, record.draw)


def _have_draws_in_common(row: Iterable[Record], first: Trial) -> bool:
    """Whether a later trial has all the draws of the first: no trial has draws of its own."""
    found: dict[tuple[str, ...], dict[Trial, set[int]]] = {}
    for record in row:
        found.setdefault(record.test, {}).setdefault(record.trial, set()).add(record.draw)
    return any(
        len(trials.get(first, ())) > 1 and trials[first] <= later
        for trials in found.values()
        for trial, later in trials.items()
        if trial > first
    )
