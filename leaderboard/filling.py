"""Fills a board from records."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any, TypeVar

from leaderboard.board import (
    Board,
    Cell,
    Column,
    Measure,
    Missing,
    Number,
    Row,
    Section,
    SectionKey,
)
from leaderboard.choices import DIVERGED, Lack, Pairs, Search, choices, search_of
from leaderboard.commands import fit_command
from leaderboard.comparing import compare
from leaderboard.departures import NONE, are_comparable, beyond, in_common
from leaderboard.dotted import dotted
from leaderboard.errors import RecordError
from leaderboard.estimands import Estimands, by_estimand, fixed_settings
from leaderboard.frame import LeftOut, Record, Trial, without_duplicates
from leaderboard.overall import overall_tables
from leaderboard.published import beside
from leaderboard.records import Conclusion, SelectionRule, canonical_json
from leaderboard.selection import RULES, Choice, Needed, choose
from leaderboard.shared_settings import short_hashes
from leaderboard.statistics import (
    Summary,
    average_ranks,
    mean_of,
    summarize,
    two_clusters,
)

BASELINE = "erm"
MOST_COMMANDS = 50
"""Commands that fill a trial: of thousands of environments leave_one_out needs a run for each."""

_MOST_NAMED = 6  # environments in the title of a table
# What runs share with others of their tables, whatever they search and select by.
_SHARED = ("dataset", "protocol", "backbone", "source", "task", "data", "origin")
_shared = attrgetter(*_SHARED)

_NO_MEASURE = Measure(None, None, None, None)
_T = TypeVar("_T")
_Key = TypeVar("_Key", bound=Any)
Values = dict[Trial, float]


@dataclass(frozen=True)
class _Group:
    """The runs of a row before a rule has chosen among them."""

    label: str
    algorithm: str
    settings: str
    departures: str
    records: Sequence[Record]
    search: Search


@dataclass(frozen=True)
class _Draft:
    """A row with the numbers of its trials, before rows are compared."""

    group: _Group
    trials: tuple[Trial, ...]
    cells: tuple[Cell, ...]
    values: tuple[Values, ...]  # accuracy by trial, for each column
    chosen: Sequence[Choice]
    compared: frozenset[str]  # ids of the runs among which the numbers were chosen


def make_board(
    records: Iterable[Record],
    left_out: Iterable[LeftOut] = (),
    rule: SelectionRule | None = None,
) -> Board:
    """Fill the board of all records.

    Args:
        records: In any order; repeated ones count once.
        left_out: What could not be read as a record.
        rule: The only rule to select by; None gives a table for each rule that the records can
            answer.

    Raises:
        RecordError: the records are of different benchmark versions.
    """
    kept, duplicates = without_duplicates(records)
    _refuse_mixed_versions(kept)
    sections: list[Section] = []
    compared: set[str] = set()
    pairs = Pairs(kept)
    for key, group in _tables(kept, RULES if rule is None else (rule,)):
        columns = _columns(group)
        drafts = [_draft(row, columns, key.rule, pairs) for row in _row_groups(group, key)]
        asked = rule is not None
        reported = any(r.rule == key.rule and not pairs.serve(r) for r in group)
        section = _section(key, group, columns, drafts, reported=reported, asked=asked)
        if section is not None:
            sections.append(section)
            compared.update(*(draft.compared for draft in drafts))
    unnumbered = [_unnumbered(record) for record in kept if record.run_id not in compared]
    everything = sorted([*left_out, *duplicates, *unnumbered])
    sha256 = hashlib.sha256("".join(sorted(r.sha256 for r in kept)).encode()).hexdigest()
    return Board(
        benchmark_version=", ".join(sorted({r.benchmark_version for r in kept})),
        sha256=sha256,
        sections=tuple(sorted(sections, key=lambda section: section.key)),
        overall=overall_tables(sections),
        left_out=tuple(everything),
        runs={record.run_id: record for record in kept},
    )


def _refuse_mixed_versions(records: Sequence[Record]) -> None:
    versions = sorted({r.benchmark_version for r in records if r.origin == "dgbench"})
    if len(versions) > 1:
        raise RecordError(
            f"runs of the benchmark versions {' and '.join(versions)} cannot stand in one table, "
            "because a version changes with the numbers: build one leaderboard for each"
        )


def _unnumbered(record: Record) -> LeftOut:
    if record.state == DIVERGED:
        counts = "is never preferred" if record.draw else "counts as a missing trial"
        return LeftOut(record.place, "diverged", f"diverged: {counts}")
    if record.state != "finished":
        return LeftOut(record.place, "partial", f"{record.state}: resume it")
    try:
        choose(record.rule, [record], {})
    except RecordError as error:
        return LeftOut(record.place, "unavailable", str(error))
    return LeftOut(record.place, "unavailable", "its trial has no number: Missing says why")


# Which runs stand together


def _tables(
    records: Iterable[Record], rules: Sequence[SelectionRule]
) -> Iterator[tuple[SectionKey, list[Record]]]:
    """The runs of each table.

    Each rule has a table of its own, and so has each search space: the draws from it, and draw 0,
    which belongs to all spaces and beside that to the fixed settings. What was searched in each
    trial and what was tuned once stand apart. Data sets of one name whose environments have other
    names are other data sets: folders of a user's, or one that has grown. What all runs of a table
    change of their protocol is part of its key.
    """
    for shared, group in _of_same_environments(records):
        for search, (again, once) in _searches(group).items():
            for rule in rules:
                key = {**shared, "search": search, "rule": rule}
                if again and not (search and rule == "last"):
                    yield SectionKey(**key, tuned_once=False, departures=_in_common(again)), again
                # What is repeated was preferred by the runs' own rule.
                if tuned := [record for record in once if record.rule == rule]:
                    yield SectionKey(**key, tuned_once=True, departures=_in_common(tuned)), tuned


def _in_common(records: Iterable[Record]) -> str:
    return in_common(record.departures for record in records)


def _searches(records: Sequence[Record]) -> dict[str, Estimands]:
    """The runs of each search space, and of the fixed settings, in ascending order of names."""
    spaces = _grouped(records, lambda record: record.space)
    fixed = spaces.pop("", [])
    found = {}
    for space, drawn in spaces.items():
        rows = {(record.algorithm, record.searched) for record in drawn}
        defaults = [r for r in fixed if r.draw == 0 and (r.algorithm, r.searched) in rows]
        found[space] = by_estimand([*drawn, *defaults])
    tuned_once = [record for _, once in found.values() for record in once]
    return {"": Estimands(fixed_settings(fixed, tuned_once), []), **found}


def _of_same_environments(
    records: Iterable[Record],
) -> Iterator[tuple[dict[str, Any], list[Record]]]:
    keys = _grouped(records, lambda record: (*_shared(record), len(record.test)))
    for (*values, held_out), group in keys.items():
        shared = dict(zip(_SHARED, values, strict=True)) | {"held_out": held_out}
        lists = _grouped(group, lambda record: record.environments)
        for environments, own in lists.items():
            several = len(lists) > 1
            data = shared["data"]
            yield shared | {"data": with_environments(data, environments) if several else data}, own


def with_environments(data: str, environments: Sequence[str]) -> str:
    """What a data set was, with what tells it from one of other environments.

    Args:
        data: Its options, canonical JSON.
        environments: Names of its environments, of which a title has room for a few.
    """
    names = list(environments)
    if len(names) > _MOST_NAMED:
        digest = hashlib.sha256(canonical_json(names).encode()).hexdigest()[:8]
        names = [*names[:_MOST_NAMED], f"and {len(names) - _MOST_NAMED} more, {digest}"]
    return canonical_json({**json.loads(data), "environments": names})


def _row_groups(records: Sequence[Record], key: SectionKey) -> list[_Group]:
    """The rows of a table.

    Runs of an algorithm that differ in more than the seeds of a trial and the test environments are
    rows of their own, labelled by what differs. Where hyper-parameters were drawn, all draws are
    one row, from which the rule chooses; `last` does not choose, so it shows draw 0 alone.
    """
    if key.rule == "last":
        records = [record for record in records if record.draw == 0]
        return _labelled(_grouped(records, lambda r: (r.algorithm, r.fixed)), {}, key)
    searched: dict[tuple[str, str], list[Record]] = {}
    fixed: dict[tuple[str, str], list[Record]] = {}
    if key.search:
        return _labelled({}, _search_rows(records), key)
    for row, group in _grouped(records, lambda r: (r.algorithm, r.searched)).items():
        draws = {record.draw for record in group}
        variants = {record.fixed for record in group if record.draw == 0}
        if draws == {0}:
            fixed |= _grouped(group, lambda r: (r.algorithm, r.fixed))
        elif len(variants) <= 1:
            searched[row] = group
        else:
            searched[row] = [record for record in group if record.draw]
            defaults = [record for record in group if not record.draw]
            fixed |= _grouped(defaults, lambda r: (r.algorithm, r.fixed))
    return _labelled(fixed, searched, key)


def _search_rows(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """The rows of a search space: an algorithm's draws from the same ranges, and its draw 0."""
    rows = {}
    for (algorithm, settings), group in _grouped(
        records, lambda r: (r.algorithm, r.searched)
    ).items():
        defaults = [record for record in group if not record.draw]
        if len({record.fixed for record in defaults}) > 1:
            defaults = []
        drawn = _grouped((record for record in group if record.draw), lambda r: r.search)
        for search, members in drawn.items():
            text = settings
            if len(drawn) > 1:
                text = canonical_json({**json.loads(settings), "search": json.loads(search)})
            rows[algorithm, text] = [*defaults, *members]
    return rows


def _labelled(
    fixed: Mapping[tuple[str, str], list[Record]],
    searched: Mapping[tuple[str, str], list[Record]],
    table: SectionKey,
) -> list[_Group]:
    """Name the rows; a label has the settings that tell rows of one algorithm apart."""
    groups = []
    for kind in (fixed, searched):
        flat = {key: _flat(json.loads(key[1])) for key in kind}
        for key, records in kind.items():
            siblings = [flat[other] for other in kind if other[0] == key[0]]
            notes = [
                f"{name}={short_hashes(flat[key].get(name, 'unset'))}"
                for name in sorted(set().union(*siblings))
                if len({sibling.get(name) for sibling in siblings}) > 1
            ]
            search = search_of(records, tuned_once=table.tuned_once)
            if kind is searched:
                notes.insert(0, f"best of {len(search.positions)} draws")
            label = f"{key[0]} ({', '.join(notes)})" if notes else key[0]
            departs = beyond((record.departures for record in records), table.departures)
            groups.append(_Group(label, *key, departs, records, search))
    return sorted(groups, key=lambda group: group.label)


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings by dotted name, with values as JSON."""
    return {name: canonical_json(value) for name, value in dotted(settings).items()}


def _grouped(items: Iterable[_T], key: Callable[[_T], _Key]) -> dict[_Key, list[_T]]:
    """Group items by key, in ascending order of keys."""
    groups: dict[_Key, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items()))


# One table


def _section(
    key: SectionKey,
    records: Sequence[Record],
    columns: Sequence[Column],
    drafts: Sequence[_Draft],
    *,
    reported: bool,
    asked: bool,
) -> Section | None:
    """The table of a rule, or None where no run answers it and no protocol reports it."""
    rule = key.rule
    if not drafts or not (reported or asked or any(any(d.values) for d in drafts)):
        return None
    paired = records[0].origin == "dgbench"
    ranked = rule == "train_val"
    rows = _rows(drafts, paired=paired, bold=rule != "oracle", ranked=ranked)
    rows = tuple(_beside_published(key, columns, records[0].environments, row) for row in rows)
    return Section(
        key=key,
        reported=reported,
        ranked=ranked,
        paired=paired,
        environments=records[0].environments,
        columns=tuple(columns),
        rows=rows,
        notes=_notes(rule, rows, paired=paired),
    )


def _beside_published(
    key: SectionKey, columns: Sequence[Column], environments: Sequence[str], row: Row
) -> Row:
    """Set what publications print beside each cell; an average only where it is over all."""
    cells = tuple(
        replace(
            cell,
            published=beside(key, row.algorithm, row.settings, column.index, cell.accuracy),
        )
        for column, cell in zip(columns, row.cells, strict=True)
    )
    average = row.average
    if average is not None and len(columns) == len(environments):
        published = beside(key, row.algorithm, row.settings, None, average.accuracy)
        average = replace(average, published=published)
    return replace(row, cells=cells, average=average)


def _columns(records: Iterable[Record]) -> tuple[Column, ...]:
    """The test environments that any of these runs has, ascending."""
    columns = {
        Column(environments.index(name), name, tuple(other for other in test if other != name))
        for environments, test in {(record.environments, record.test) for record in records}
        for name in test
    }
    return tuple(sorted(columns, key=_order))


def _order(column: Column) -> tuple[int, str, tuple[str, ...]]:
    return column.index, column.name, column.held_out_with


def _draft(group: _Group, columns: Sequence[Column], rule: SelectionRule, pairs: Pairs) -> _Draft:
    trials = tuple(sorted({record.trial for record in group.records}))
    names = group.records[0].environments
    tests = []
    for column in columns:
        together = {column.name, *column.held_out_with}
        tests.append(tuple(name for name in names if name in together))
    by_test: dict[tuple[str, ...], dict[Trial, list[Record]]] = {
        test: {trial: [] for trial in trials} for test in tests
    }
    for record in group.records:
        by_test[record.test][record.trial].append(record)
    chosen = {
        test: choices(rule, test, found, group.search, pairs) for test, found in by_test.items()
    }
    cells = tuple(
        _cell(group.records, column, chosen[test])
        for column, test in zip(columns, tests, strict=True)
    )
    picked = [
        choice
        for choices_of in chosen.values()
        for choice in choices_of.values()
        if isinstance(choice, Choice)
    ]
    numbered = {number.run_id for cell in cells for number in cell.numbers}
    compared = frozenset(
        record.run_id
        for test, choices_of in chosen.items()
        for trial, choice in choices_of.items()
        if isinstance(choice, Choice) and choice.record.run_id in numbered
        for record in by_test[test][trial]
        if record.state != DIVERGED
    )
    values = tuple({n.trial: n.accuracy for n in cell.numbers} for cell in cells)
    return _Draft(group, trials, cells, values, picked, compared)


def _cell(records: Sequence[Record], column: Column, chosen: Mapping[Trial, Choice | Lack]) -> Cell:
    numbers, missing = [], []
    for trial, choice in chosen.items():
        if isinstance(choice, Choice):
            number = _number(trial, choice, column.name)
            if number is not None:
                numbers.append(number)
                continue
            choice = Lack("its accuracy is not finite, or was not measured", ())
        missing.append(Missing(trial, choice.reason, _commands(records, choice.runs, trial)))
    complete = not missing
    return Cell(
        accuracy=summarize([n.accuracy for n in numbers]) if complete else None,
        n=len(numbers),
        expected=len(chosen),
        measure=_measure(numbers) if complete else _NO_MEASURE,
        to_erm=None,
        bold=None,
        by_trial=(),
        clusters=None,
        published=(),
        numbers=tuple(numbers),
        missing=tuple(missing),
    )


def _commands(records: Sequence[Record], needed: Sequence[Needed], trial: Trial) -> str | None:
    """The commands that make the runs which a trial lacks, one a line, as the row's others are."""
    defaults = min(records, key=lambda record: record.draw)
    drawn = max(records, key=lambda record: record.draw)
    found = [
        fit_command(drawn if draw else defaults, test, trial, draw)
        for test, draw in needed[:MOST_COMMANDS]
    ]
    left = len(needed) - MOST_COMMANDS
    more = [f"# and {left} more runs"] * (left > 0 and found[0] is not None)
    return "\n".join([*(command for command in found if command is not None), *more]) or None


def _number(trial: Trial, choice: Choice, name: str) -> Number | None:
    record, position = choice
    found = record.checks.at(position, f"{name}/main")
    if found is None or found["accuracy"] is None:
        return None
    return Number(
        trial=trial,
        run_id=record.run_id,
        step=int(record.checks.steps[position]),
        draw=record.draw,
        accuracy=found["accuracy"],
        nll=found["nll"],
        brier=found["brier"],
        ece=found["ece"],
        gap=_gap(record, position, found["accuracy"]),
    )


def _gap(record: Record, position: int, accuracy: float) -> float | None:
    mean = _training_accuracy(record, position, "holdout")
    return None if mean is None else mean - accuracy


def _training_accuracy(record: Record, position: int, split: str) -> float | None:
    splits = [f"{name}/{split}" for name in record.train]
    if any(name not in record.checks.splits for name in splits):
        return None
    mean = float(record.checks.accuracies(splits)[position].mean())
    return None if math.isnan(mean) else mean


def _training(draft: _Draft) -> Summary | None:
    """Main-split accuracy of the training environments, averaged over runs inside a trial."""
    trials: dict[Trial, list[float]] = {}
    for record, position in draft.chosen:
        accuracy = _training_accuracy(record, position, "main")
        if accuracy is None:
            return None
        trials.setdefault(record.trial, []).append(accuracy)
    return summarize([mean_of(values) for values in trials.values()]) if trials else None


def _seconds(draft: _Draft) -> Summary | None:
    seconds = [c.record.total_seconds for c in draft.chosen if c.record.total_seconds is not None]
    return summarize(seconds) if seconds and len(seconds) == len(draft.chosen) else None


def _concluded(draft: _Draft) -> dict[str, Any]:
    """What the selected runs were given and found, where their method tests sets of variables."""
    found = [c for record, _ in draft.chosen if (c := record.conclusion) is not None]
    counted = Counter(_conclusion(conclusion) for conclusion in found)
    return {
        "prior_knowledge": tuple(sorted({name for c in found for name in c["variables"]})),
        "conclusions": tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0]))),
    }


def _conclusion(found: Conclusion) -> str:
    accepted = [s["variables"] for s in found["sets"] if s["p_value"] > found["alpha"]]
    names = ", ".join(f"{{{', '.join(variables)}}}" for variables in accepted) or "no set"
    outcome = found["outcome"].replace("_", " ")
    return f"{outcome}: {names} accepted, {len(found['sets']) - len(accepted)} rejected"


def _measure(numbers: Sequence[Number]) -> Measure:
    def summary(values: Sequence[float | None]) -> Summary | None:
        known = [value for value in values if value is not None]
        return summarize(known) if known and len(known) == len(values) else None

    return Measure(
        nll=summary([n.nll for n in numbers]),
        brier=summary([n.brier for n in numbers]),
        ece=summary([n.ece for n in numbers]),
        gap=summary([n.gap for n in numbers]),
    )


# Rows beside each other


def _rows(drafts: Sequence[_Draft], *, paired: bool, bold: bool, ranked: bool) -> tuple[Row, ...]:
    """Compare the rows that are comparable; each of the others stands for itself."""
    alike = [draft for draft in drafts if are_comparable(draft.group.departures)]
    compared = _compared(alike, paired=paired, bold=bold, ranked=ranked) if alike else ()
    alone = [
        _compared([draft], paired=paired, bold=False, ranked=False)
        for draft in drafts
        if not are_comparable(draft.group.departures)
    ]
    return tuple(sorted(chain(compared, *alone), key=lambda row: row.label))


def _compared(
    drafts: Sequence[_Draft], *, paired: bool, bold: bool, ranked: bool
) -> tuple[Row, ...]:
    rows = []
    many = len(drafts[0].cells) > 1
    averages = [_inside_trials(draft, mean_of) if many else None for draft in drafts]
    worsts = [_inside_trials(draft, min) if many else None for draft in drafts]
    erm = _baseline([draft.group for draft in drafts])
    columns = [
        _compare_column([(d.cells[c], d.values[c]) for d in drafts], erm, paired=paired, bold=bold)
        for c in range(len(drafts[0].cells))
    ]
    average = _compare_column(
        [(_aggregate(d, v), v or {}) for d, v in zip(drafts, averages, strict=True)],
        erm,
        paired=paired,
        bold=bold,
    )
    worst = _compare_column(
        [(_aggregate(d, v), v or {}) for d, v in zip(drafts, worsts, strict=True)],
        erm,
        paired=paired,
        bold=bold,
    )
    overall = [average[i] if many else columns[0][i] for i in range(len(drafts))]
    ranks = _ranks([cell.accuracy for cell in overall]) if ranked else [None] * len(drafts)
    for i, draft in enumerate(drafts):
        rows.append(
            Row(
                label=draft.group.label,
                algorithm=draft.group.algorithm,
                settings=draft.group.settings,
                departures=draft.group.departures,
                draws=len(draft.group.search.positions),
                trials=draft.trials,
                cells=tuple(column[i] for column in columns),
                average=average[i] if many else None,
                worst=worst[i] if many else None,
                training=_training(draft),
                seconds=_seconds(draft),
                rank=ranks[i],
                **_concluded(draft),
            )
        )
    return tuple(rows)


def _baseline(rows: Sequence[_Group | Row]) -> int | None:
    """The place of ERM: of several rows the one with the protocol's hyper-parameters."""
    found = [i for i, row in enumerate(rows) if row.algorithm.lower() == BASELINE]
    plain = [i for i in found if rows[i].departures == NONE]
    single = found if len(found) == 1 else plain
    return single[0] if len(single) == 1 else None


def _inside_trials(draft: _Draft, function: Callable[[Sequence[float]], float]) -> Values | None:
    """One number a trial out of those of all environments; None if any is missing."""
    if not all(cell.complete for cell in draft.cells):
        return None
    return {trial: function([v[trial] for v in draft.values]) for trial in draft.trials}


def _aggregate(draft: _Draft, values: Values | None) -> Cell:
    whole = [t for t in draft.trials if all(t in column for column in draft.values)]
    accuracy = None if values is None else summarize(list(values.values()))
    return Cell(
        accuracy=accuracy,
        n=len(whole),
        expected=len(draft.trials),
        measure=_NO_MEASURE,
        to_erm=None,
        bold=None,
        by_trial=(),
        clusters=None,
        published=(),
        numbers=(),
        missing=(),
    )


def _compare_column(
    entries: Sequence[tuple[Cell, Values]], erm: int | None, *, paired: bool, bold: bool
) -> list[Cell]:
    """Fill in what trials say of the cells of one column; incomplete ones take no part."""
    complete = {i: v for i, (cell, v) in enumerate(entries) if cell.accuracy is not None}
    comparison = compare(complete, paired=paired)
    verdict = comparison.not_shown_worse() if bold else None
    to_erm = {} if erm not in complete else comparison.differences_to(erm)
    return [
        replace(
            cell,
            to_erm=to_erm.get(i),
            bold=None if verdict is None else verdict.get(i),
            by_trial=tuple(values[trial] for trial in sorted(values)),
            clusters=two_clusters(list(values.values())),
        )
        if i in complete
        else cell
        for i, (cell, values) in enumerate(entries)
    ]


def _ranks(summaries: Sequence[Summary | None]) -> list[float | None]:
    means = [summary.mean for summary in summaries if summary is not None]
    ranks = iter(average_ranks([means])) if means else iter(())
    return [None if summary is None else next(ranks) for summary in summaries]


def _notes(rule: SelectionRule, rows: Sequence[Row], *, paired: bool) -> tuple[str, ...]:
    notes = []
    if rule == "oracle":
        notes.append("The oracle saw held-out labels: its numbers are neither ranked nor bold.")
    if not paired:
        notes.append(
            "DomainBed draws other data for every algorithm, so trials are not paired: the spread "
            "of both rows is in a difference."
        )
    comparable = [row for row in rows if row.is_comparable]
    several = sum(row.algorithm.lower() == BASELINE for row in comparable) > 1
    if several and _baseline(comparable) is None:
        notes.append("There are several rows of ERM, so none is the one to compare with.")
    return tuple(notes)
