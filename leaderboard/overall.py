"""Tables over several data sets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import fields

from leaderboard.board import Overall, OverallKey, OverallRow, Row, Section, SectionKey
from leaderboard.departures import in_words
from leaderboard.dotted import dotted
from leaderboard.records import canonical_json
from leaderboard.statistics import (
    Summary,
    average_ranks,
    friedman,
    groups_not_different,
    mean_of_means,
)


def overall_tables(sections: Iterable[Section]) -> tuple[Overall, ...]:
    """The tables over data sets: of each set of tables that share all but their data set one.

    Rows that are not compared with others in the table of a data set are in none of these.
    """
    groups: dict[OverallKey, list[Section]] = {}
    for section in sections:
        groups.setdefault(_overall_key(section.key), []).append(section)
    return tuple(
        _overall_table(key, groups[key])
        for key in sorted(groups)
        if len({section.key.dataset for section in groups[key]}) > 1
    )


def _overall_key(key: SectionKey) -> OverallKey:
    return OverallKey(**{field.name: getattr(key, field.name) for field in fields(OverallKey)})


def _counted(sections: Iterable[Section]) -> list[Section]:
    """One table of each data set: variants of one are no independent data sets.

    The protocol's own variant counts; where there is none, the one that changes least of it; of
    several such the one with the most complete rows, and of equal ones the first by its options.
    Data sets of one name and other environments are two: folders of a user's.
    """
    variants: dict[tuple[str, tuple[str, ...]], list[Section]] = {}
    for section in sections:
        variants.setdefault((section.key.dataset, section.environments), []).append(section)
    return [min(alike, key=_how_far_from_the_protocol) for alike in variants.values()]


def _how_far_from_the_protocol(section: Section) -> tuple[int, int, SectionKey]:
    complete = sum(_score(row) is not None for row in section.rows)
    return len(json.loads(section.key.departures)), -complete, section.key


def _overall_table(key: OverallKey, sections: Sequence[Section]) -> Overall:
    sections = sorted(sections, key=lambda section: section.key)
    keys = [section.key for section in sections]
    names = dict(zip(keys, _told_apart(keys), strict=True))
    counted = sorted(_counted(sections), key=lambda section: section.key)
    scores = [{r.label: _score(r) for r in s.rows if r.is_comparable} for s in counted]
    labels = sorted(set().union(*scores))
    cells = {label: tuple(score.get(label) for score in scores) for label in labels}
    complete = {
        label: summaries
        for label in labels
        if len(summaries := [s for s in cells[label] if s is not None]) == len(counted)
    }
    ranked = all(section.ranked for section in counted)
    matrix = [[complete[label][d].mean for label in complete] for d in range(len(counted))]
    ranks = dict(zip(complete, average_ranks(matrix), strict=True)) if ranked and complete else {}
    test = friedman(matrix) if ranked else None
    groups = (
        [] if test is None else groups_not_different(list(ranks.values()), test.critical_difference)
    )
    order = list(complete)
    return Overall(
        key=key,
        datasets=tuple(names.pop(section.key) for section in counted),
        not_counted=tuple(names.values()),
        rows=tuple(
            OverallRow(
                label, cells[label], mean_of_means(complete.get(label, [])), ranks.get(label)
            )
            for label in labels
        ),
        friedman=test,
        not_different=tuple(tuple(order[i] for i in group) for group in groups),
    )


def _told_apart(keys: Sequence[SectionKey]) -> tuple[str, ...]:
    """Names of data sets, with what each changes of the protocol and differs in from its like."""
    options = [
        {name: canonical_json(v) for name, v in dotted(json.loads(key.data)).items()}
        for key in keys
    ]
    names = []
    for key, own in zip(keys, options, strict=True):
        alike = [o for other, o in zip(keys, options, strict=True) if other.dataset == key.dataset]
        telling = [
            name
            for name in sorted(set().union(*alike))
            if len({each.get(name) for each in alike}) > 1
            or f"data.{name}" in json.loads(key.departures)
        ]
        notes = in_words(key.departures, without=[f"data.{name}" for name in own])
        notes += [f"{name}={own.get(name, 'unset')}" for name in telling]
        names.append(f"{key.dataset} ({', '.join(notes)})" if notes else key.dataset)
    return tuple(names)


def _score(row: Row) -> Summary | None:
    return (row.average or row.cells[0]).accuracy
