"""What a rule chooses in each trial of a cell, or what the trial lacks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from leaderboard import draws
from leaderboard.frame import Record, Trial
from leaderboard.records import SelectionRule
from leaderboard.selection import Choice, Needed, UnavailableError, choose

DIVERGED = "diverged"
"""Why a trial lacks a number that no run would give it."""

_ENDED = ("finished", DIVERGED)


class Lack(NamedTuple):
    """Why a trial has no number, and the runs that would give it one."""

    reason: str
    runs: Sequence[Needed]


class Pairs:
    """The runs that hold out one more environment than others do, for `leave_one_out` to read."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._found: dict[tuple[Any, ...], dict[frozenset[str], Record]] = {}
        kept = list(records)
        for record in kept if any(len(record.test) > 1 for record in kept) else ():
            self._found.setdefault(self._key(record), {})[frozenset(record.test)] = record

    @staticmethod
    def _key(record: Record) -> tuple[Any, ...]:
        return record.dataset, record.fixed, record.trial, record.origin

    def beside(self, record: Record) -> dict[frozenset[str], Record]:
        """The ended ones beside a run, by names of all that they hold out."""
        of_run = self._found.get(self._key(record), {})
        found = [of_run.get(frozenset({*record.test, name})) for name in record.train]
        return {frozenset(r.test): r for r in found if r is not None and r.state in _ENDED}

    def serve(self, record: Record) -> bool:
        """Whether a run is one of them, and no number of its own."""
        of_run, test = self._found.get(self._key(record), {}), frozenset(record.test)
        return record.rule == "leave_one_out" and any(test - {name} in of_run for name in test)


@dataclass(frozen=True)
class Search:
    """The draws that the trials of a row are to have.

    Attributes:
        positions: Inside a trial, ascending: what one has, all are to have.
        own: Whether later trials have draws of their own, and not those of other trials.
        tuned_once: Whether only the first trial is to have them, and the others the draw that is
            preferred there.
        first: The first trial.
    """

    positions: tuple[int, ...]
    own: bool
    tuned_once: bool
    first: Trial

    def draws(self, trial: Trial) -> dict[int, int]:
        """The draws that a trial is to be searched among, by position."""
        seed = trial.trial_seed
        return {p: draws.hparams_seed(seed, p) if self.own else p for p in self.positions}


def search_of(records: Sequence[Record], *, tuned_once: bool) -> Search:
    """The draws that the trials of a row are to have.

    Args:
        records: The runs of the row.
        tuned_once: Whether only its first trial was searched.
    """
    first = min(record.trial for record in records)
    searched = [r for r in records if r.trial == first or not tuned_once]
    in_common = any(r.draw and r.trial.trial_seed and r.draw == _position(r) for r in searched)
    return Search(
        positions=tuple(sorted({_position(record) for record in searched})),
        own=not in_common and records[0].origin == "dgbench",
        tuned_once=tuned_once,
        first=first,
    )


def _position(record: Record) -> int:
    if record.origin != "dgbench":
        return record.draw
    return draws.position(record.trial.trial_seed, record.draw)


def choices(
    rule: SelectionRule,
    test: tuple[str, ...],
    trials: Mapping[Trial, Sequence[Record]],
    search: Search,
    pairs: Pairs,
) -> dict[Trial, Choice | Lack]:
    """What a rule chooses in each trial.

    Args:
        rule: The selection rule.
        test: Names of the test environments.
        trials: The runs of each trial with these test environments; none where there is none.
        search: The draws that they are to have.
        pairs: What `leave_one_out` reads.
    """
    if not search.tuned_once:
        return {t: _searched(rule, test, t, found, search, pairs) for t, found in trials.items()}
    first = _searched(rule, test, search.first, trials[search.first], search, pairs)
    return {
        trial: first if trial == search.first else _repeated(rule, test, found, first, pairs)
        for trial, found in trials.items()
    }


def preferred(rule: SelectionRule, records: Sequence[Record], pairs: Pairs | None = None) -> Choice:
    """What a rule chooses of the draws of one trial; a diverged one, or of a diverged pair, loses.

    Args:
        rule: The selection rule.
        records: The ended runs of the trial, equal in all but the draw; one at least.
        pairs: What `leave_one_out` reads; the other rules read none.

    Raises:
        UnavailableError: all diverged, or the rule needs what these runs do not have.
    """
    used: dict[int, dict[frozenset[str], Record]] = {}
    if pairs is not None and rule == "leave_one_out":
        used = {record.draw: pairs.beside(record) for record in records}
    sound = [
        record
        for record in sorted(records, key=lambda record: record.draw)
        if record.state != DIVERGED
        and all(pair.state != DIVERGED for pair in used.get(record.draw, {}).values())
    ]
    if not sound:
        raise UnavailableError(DIVERGED)
    return choose(rule, sound, used)


def chosen(
    rule: SelectionRule, records: Sequence[Record], pairs: Pairs | None = None
) -> Choice | Lack:
    """What `preferred` is, or what these runs lack for it.

    Args:
        rule: The selection rule.
        records: The runs of one trial, equal in all but the draw; one at least.
        pairs: What `leave_one_out` reads; the other rules read none.
    """
    try:
        return _unended(records) or preferred(rule, records, pairs)
    except UnavailableError as error:
        return Lack(str(error), error.needed)


def _searched(
    rule: SelectionRule,
    test: tuple[str, ...],
    trial: Trial,
    records: Sequence[Record],
    search: Search,
    pairs: Pairs,
) -> Choice | Lack:
    """What a rule chooses of the draws of one trial."""
    due = search.draws(trial)
    if not records:
        return Lack("not run", [Needed(test, draw) for draw in due.values()])
    unended = _unended(records)
    if unended is not None:
        return unended
    there = {_position(record) for record in records}
    missing = [draw for position, draw in due.items() if position not in there]
    if missing:
        return Lack(f"draws {missing} not run", [Needed(test, draw) for draw in missing])
    return chosen(rule, records, pairs)


def _repeated(
    rule: SelectionRule,
    test: tuple[str, ...],
    records: Sequence[Record],
    first: Choice | Lack,
    pairs: Pairs,
) -> Choice | Lack:
    """What a rule chooses of the run that repeats the draw which the first trial prefers."""
    if isinstance(first, Lack):
        return Lack("the first trial prefers no draw yet that could be repeated", ())
    draw = first.record.draw
    found = [record for record in records if record.draw == draw]
    if not found:
        reason = f"draw {draw}, which the first trial prefers, not run"
        return Lack(reason, [Needed(test, draw)])
    return chosen(rule, found, pairs)


def _unended(records: Sequence[Record]) -> Lack | None:
    unended = [r for r in records if r.state not in _ENDED]
    if not unended:
        return None
    states = ", ".join(sorted({record.state for record in unended}))
    return Lack(states, [Needed(record.test, record.draw) for record in unended])
