"""What a table shows: its name, its columns and the text of its cells, the same in every format."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from leaderboard.board import (
    Board,
    Cell,
    Column,
    Missing,
    Overall,
    OverallKey,
    OverallRow,
    Published,
    Row,
    Section,
    SectionKey,
)
from leaderboard.comparing import Difference
from leaderboard.departures import in_words
from leaderboard.marks import TWO_CLUSTERS, cluster_notes, clusters_text, marks
from leaderboard.records import SelectionRule, folder_name
from leaderboard.statistics import (
    CLUSTERED_TRIALS,
    LEVEL,
    MINIMUM_DATA_SETS,
    MINIMUM_TRIALS,
    Summary,
)

MOST_ENVIRONMENTS = 30
"""Columns of environments that a table for readers shows; files of numbers hold all."""

MOST_TOGETHER = 5
"""Environments held out with another one that its title names."""

RULES: dict[SelectionRule, str] = {
    "train_val": "the best mean holdout accuracy of the training environments",
    "leave_one_out": "accuracy on one more environment, held out in runs of their own",
    "oracle": "the held-out environment itself, for comparison only",
    "last": "the last check, with fixed settings",
}


class Heading(NamedTuple):
    """A column of a table.

    Attributes:
        title: Its short name.
        meaning: What its numbers are, a sentence.
        group: `environment` for one test environment each, `over` for what is taken over them,
            `beside` for what is no accuracy.
        ascending: Whether less is better, so that the least comes first.
    """

    title: str
    meaning: str
    group: Literal["environment", "over", "beside"]
    ascending: bool = False


class Entry(NamedTuple):
    """The text of a cell.

    Attributes:
        text: The number, or what stands in its place.
        beside: What stands beside it, smaller: its standard error or the interval of a difference.
        hint: What a reader may ask next, as a sentence.
        value: What to sort by; None without a number.
        bold: Whether it is the best or not shown to be worse.
        partial: Whether trials are missing.
    """

    text: str
    beside: str = ""
    hint: str = ""
    value: float | None = None
    bold: bool = False
    partial: bool = False


NOTHING = Entry("—")

MINUS = "\N{MINUS SIGN}"

_TUNED_ONCE = "tuned once"


def title(section: Section) -> str:
    """Name a table by all that its runs share."""
    key = section.key
    shared = [key.dataset, protocol(key), *facts(key), *options(key)]
    return ", ".join([*shared, f"selected by {key.rule}"])


def protocol(key: SectionKey) -> str:
    """The protocol, with what all runs of a table change of it: `digits, 20 of 501 steps`."""
    elsewhere = ["data.source", *(f"data.{name}" for name in json.loads(key.data))]
    return ", ".join([key.protocol, *in_words(key.departures, without=elsewhere)])


def short_names(sections: Sequence[Section]) -> list[str]:
    """A short name for each table, with a hash where what it names repeats."""
    short = [
        folder_name("-".join(filter(None, _parts_of(section.key))).lower()) for section in sections
    ]
    count = Counter(short)
    return [
        f"{name}-{hashlib.sha256(repr(section.key).encode()).hexdigest()[:8]}"
        if count[name] > 1
        else name
        for name, section in zip(short, sections, strict=True)
    ]


def _parts_of(key: SectionKey) -> tuple[str, ...]:
    return key.dataset, key.protocol, key.search, _TUNED_ONCE * key.tuned_once, key.rule


def legend(sections: Iterable[Section]) -> list[str]:
    """How to read these tables, a sentence for each thing that is in them."""
    sections = list(sections)
    certain = f"{100 * (1 - LEVEL):.0f} %"
    lines = [
        "Accuracy in % on the main split of environments that no training saw: mean ± standard "
        "error (ddof 1) over trials; average and worst are taken inside each trial first.",
        "Bold: the highest mean of a column, and every row that trials do not show to be worse. If "
        f"several rows are best, all of them are bold with a probability of {certain} or more (for "
        "normal trials that vary alike in all rows): Tukey's range test and t-tests of pairs "
        "share the error, and of two rows the t-test has all of it. No verdict below "
        f"{MINIMUM_TRIALS} trials.",
        "Minus ERM: mean difference over trials [interval]. The intervals of a column hold all "
        f"together with {certain} or more on the same terms, and each alone whatever the rows' "
        "variances: the narrower of Dunnett's and of the row's own t-interval (Bonferroni), which "
        "share the error; of two rows the t-interval.",
    ]
    if any(section.key.search and not section.key.tuned_once for section in sections):
        lines.append(
            "Best of N draws: of a trial's N draws of hyper-parameters the one that the rule "
            "prefers, in each trial anew."
        )
    if any(section.key.tuned_once for section in sections):
        lines.append(
            "Tuned once: the rule chose one of N draws in the first trial, and the others repeat "
            "it, so that the error over trials has no search in it."
        )
    if any(found for section in sections for found in _clustered(section)):
        lines.append(
            f"{TWO_CLUSTERS}: {CLUSTERED_TRIALS} trials or more in two clusters, with a gap wider "
            "than half of their range and two trials or more at each side. Mean, error, interval "
            "and verdict describe neither cluster."
        )
    if any(cell.accuracy is None for s in sections for row in s.rows for cell in row.cells):
        lines.append(
            "†: trials were not run, did not finish or diverged; such a cell has no mean, and its "
            "row no average."
        )
    return lines


def in_order(board: Board) -> list[Section]:
    """The tables, and of those of the same runs first the one that the protocol reports."""
    return sorted(
        board.sections, key=lambda s: (replace(s.key, rule="last"), not s.reported, s.key)
    )


def facts(key: SectionKey | OverallKey) -> list[str]:
    """What the runs of a table share besides data set, its options, protocol and rule."""
    return [
        *[f"{key.held_out} environments held out together"] * (key.held_out > 1),
        *[key.backbone] * bool(key.backbone),
        *[f"source {key.source}"] * bool(key.source),
        *[key.task] * (key.task != "generalization"),
        *[f"search space {key.search}"] * bool(key.search),
        *[_TUNED_ONCE] * key.tuned_once,
        *[key.origin] * (key.origin != "dgbench"),
    ]


def options(key: SectionKey) -> list[str]:
    """The data set's options, with the protocol's value where it is another one."""
    departs = json.loads(key.departures)
    notes = []
    for name, value in json.loads(key.data).items():
        expected, *other = departs.get(f"data.{name}", [None])
        if name != "source" or other:
            against = f" (not {json.dumps(expected)})" if other else ""
            notes.append(f"{name}={json.dumps(value)}{against}")
    return notes


def column_title(column: Column) -> str:
    """Name a test environment, and those held out with it, or how many they are."""
    others = column.held_out_with
    if not others:
        return column.name
    names = ", ".join(others) if len(others) <= MOST_TOGETHER else f"{len(others)} others"
    return f"{column.name} (with {names})"


def row_title(row: Row) -> str:
    """The label of a row with its marks."""
    return " ".join([row.label, *(mark.symbol for mark in marks(row))])


def shown_columns(section: Section) -> tuple[Column, ...]:
    """The environments that a table for readers shows."""
    return section.columns[:MOST_ENVIRONMENTS]


def notes(section: Section) -> list[str]:
    """What a reader must know about a table, whole sentences."""
    left = len(section.columns) - MOST_ENVIRONMENTS
    more = f"{left} more environments are in leaderboard.csv; average and worst are over all."
    of_rows = [f"{mark.symbol} {mark.note}" for row in section.rows for mark in marks(row)]
    return [*section.notes, *of_rows, *_clustered(section), *[more] * (left > 0)]


def _clustered(section: Section) -> list[str]:
    """Where the trials of a row are two clusters, a sentence for each row."""
    titles = [*map(column_title, section.columns), "average", "worst"]
    notes = [note for row in section.rows for note in cluster_notes(row, titles)]
    return [f"{TWO_CLUSTERS} {note}" for note in notes]


def headings(section: Section) -> list[Heading]:
    """The columns of a table after the algorithm; environments first, never an average alone."""
    environments = [
        Heading(
            column_title(column), f"Accuracy in {column_title(column)}, held out", "environment"
        )
        for column in shown_columns(section)
    ]
    return [*environments, *(heading for heading, _ in _derived(section))]


def entries(section: Section, row: Row) -> list[Entry]:
    """The cells of a row, one for each of the headings."""
    cells = row.cells[: len(shown_columns(section))]
    return [*map(accuracy_entry, cells), *(entry(row) for _, entry in _derived(section))]


def whole(row: Row) -> Cell:
    """The cell that stands for a row: its average, or its only column."""
    return row.average or row.cells[0]


def accuracy_entry(cell: Cell) -> Entry:
    """An accuracy in %; of an incomplete cell how many trials it has, never a mean."""
    if cell.accuracy is None:
        reasons = ", ".join(sorted({missing.reason for missing in cell.missing}))
        return Entry(f"{cell.n} of {cell.expected} †", hint=reasons, partial=True)
    entry = summary_entry(cell.accuracy, 1, scale=100)._replace(bold=bool(cell.bold))
    if cell.clusters is None:
        return entry
    hint = f"{entry.hint}; two clusters: {clusters_text(cell.clusters)}"
    return entry._replace(beside=f"{entry.beside} {TWO_CLUSTERS}", hint=hint)


def difference_entry(found: Difference | None) -> Entry:
    """A difference in percent points with its interval."""
    if found is None:
        return NOTHING
    text = number(100 * found.mean, 1, sign="+")
    if found.interval is None:
        return Entry(text, value=found.mean)
    low, high = (number(100 * end, 1, sign="+") for end in found.interval)
    alone = "" if found.p_value is None else f"alone p = {found.p_value:.2g}, {found.n} trials"
    return Entry(text, f"[{low}, {high}]", alone, found.mean)


def summary_entry(summary: Summary | None, digits: int, *, scale: float = 1) -> Entry:
    """A mean with its standard error."""
    if summary is None:
        return NOTHING
    text = number(scale * summary.mean, digits)
    if summary.standard_error is None or summary.interval is None:
        return Entry(text, hint="1 trial, so no interval", value=summary.mean)
    low, high = (number(scale * end, digits) for end in summary.interval)
    hint = f"95 % interval {low} to {high}, {summary.n} trials"
    error = number(scale * summary.standard_error, digits)
    return Entry(text, f"± {error}", hint, summary.mean)


def number(value: float, digits: int, *, sign: Literal["", "+"] = "") -> str:
    """Write a number with a minus sign, not a hyphen, and never a negative zero."""
    return f"{value:{sign}z.{digits}f}".replace("-", MINUS)


def _derived(section: Section) -> list[tuple[Heading, Callable[[Row], Entry]]]:
    """The columns after the environments."""
    over: list[tuple[Heading, Callable[[Row], Entry]]] = []
    if len(section.columns) > 1:
        mean = "Mean of the environments inside each trial"
        least = "Least of the environments inside each trial"
        over = [
            (Heading("Average", mean, "over"), lambda row: accuracy_entry(whole(row))),
            (Heading("Worst", least, "over"), lambda row: accuracy_entry(row.worst or whole(row))),
        ]
    test = "paired by trial" if section.paired else "trials not paired"
    meaning = f"Difference to ERM, {test}; the intervals of all rows hold together with 95 %"
    minus = Heading("Minus ERM", meaning, "over")
    over.append((minus, lambda row: difference_entry(whole(row).to_erm)))
    if section.ranked:
        rank = Heading("Rank", "Place among complete rows", "over", ascending=True)
        over.append((rank, _rank))
    trials = Heading("Trials", "Repetitions, with seeds of their own", "over")
    over.append((trials, lambda row: Entry(str(len(row.trials)), value=len(row.trials))))
    return over + _BESIDE


def _rank(row: Row) -> Entry:
    return NOTHING if row.rank is None else Entry(f"{row.rank:g}", value=row.rank)


_BESIDE: list[tuple[Heading, Callable[[Row], Entry]]] = [
    (
        Heading("Gap", "Holdout of the training environments minus held out, %", "beside", True),
        lambda row: summary_entry(whole(row).measure.gap, 1, scale=100),
    ),
    (
        Heading("NLL", "Negative log-likelihood held out, nats", "beside", True),
        lambda row: summary_entry(whole(row).measure.nll, 3),
    ),
    (
        Heading("Brier", "Brier score held out, 0 to 2", "beside", True),
        lambda row: summary_entry(whole(row).measure.brier, 3),
    ),
    (
        Heading("ECE", "Calibration error held out, 15 bins", "beside", True),
        lambda row: summary_entry(whole(row).measure.ece, 3),
    ),
    (
        Heading("Training", "Main splits of the training environments, %", "beside"),
        lambda row: summary_entry(row.training, 1, scale=100),
    ),
    (
        Heading("Seconds", "Wall time of a run", "beside", True),
        lambda row: summary_entry(row.seconds, 0),
    ),
]


def published_entries(cell: Cell, published: Published) -> list[str]:
    """A published number beside ours: theirs, ours, and the difference with a mark if large."""
    ours = "—" if cell.accuracy is None else number(100 * cell.accuracy.mean, 1)
    if published.difference is None:
        return [published.printed, ours, "—"]
    mark = " (!)" if published.flagged else ""
    return [published.printed, ours, number(100 * published.difference, 1, sign="+") + mark]


def published_rows(section: Section) -> list[tuple[str, str, Cell, Published]]:
    """Label of the row, name of the column, our cell and theirs, in the order of the table."""
    return [
        (row.label, column_title(column), cell, published)
        for row in section.rows
        for column, cell in zip(section.columns, row.cells, strict=True)
        for published in cell.published
    ]


def missing_trials(section: Section) -> list[tuple[str, Missing]]:
    """Each trial that a table lacks, and where it lacks it."""
    key = section.key
    return [
        (
            f"{key.dataset}, {key.protocol}, {row.label}, {column_title(column)}, "
            f"trial {missing.trial.trial_seed}",
            missing,
        )
        for row in section.rows
        for column, cell in zip(section.columns, row.cells, strict=True)
        for missing in cell.missing
    ]


def overall_tables(board: Board) -> list[Overall]:
    """The tables over data sets in which any row is complete."""
    return [t for t in board.overall if any(row.mean is not None for row in t.rows)]


def header(board: Board) -> list[str]:
    """What a board is made of."""
    return [
        f"benchmark version {board.benchmark_version}",
        f"{len(board.runs)} runs",
        f"sha256 of the records {board.sha256}",
    ]


def overall_title(overall: Overall) -> str:
    """Name a table over data sets by all that its runs share."""
    key = overall.key
    return ", ".join(["Over data sets", key.protocol, *facts(key), f"selected by {key.rule}"])


def overall_titles(overall: Overall) -> list[str]:
    """The columns of a table over data sets after the algorithm."""
    return [*overall.datasets, "Mean", "Average rank"]


def overall_entries(row: OverallRow) -> list[Entry]:
    """The cells of a row over data sets, one for each of its columns."""
    rank = row.average_rank
    return [
        *(summary_entry(cell, 1, scale=100) for cell in row.cells),
        summary_entry(row.mean, 1, scale=100),
        NOTHING if rank is None else Entry(f"{rank:.2f}", value=rank),
    ]


def overall_notes(overall: Overall) -> list[str]:
    """What is averaged, and what Friedman's test says of the ranks."""
    notes = [
        "Each cell is the average over a data set's environments. The mean takes data sets as fixed"
        " and trials as independent between them."
    ]
    if overall.not_counted:
        notes.append(
            "Each data set counts once, as its protocol has it where that was run; not counted: "
            f"{'; '.join(overall.not_counted)}."
        )
    test = overall.friedman
    if test is None:
        too_few = f"Ranks are tested with {MINIMUM_DATA_SETS} data sets or more."
        return [*notes, *[too_few] * (len(overall.datasets) < MINIMUM_DATA_SETS)]
    return [
        *notes,
        f"Friedman's test of equal ranks (Iman and Davenport): F = {test.statistic:.2f}, "
        f"p = {test.p_value:.2g}. Average ranks closer than {test.critical_difference:.2f} are not "
        "told apart (Nemenyi, 5 %).",
    ]
