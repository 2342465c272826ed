"""What a leaderboard says, as data: tables of text, pages and plots are made of nothing else.

All accuracies, differences and errors are fractions, 0..1; a `Summary` says how many trials it is
made of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leaderboard.comparing import Difference
from leaderboard.departures import are_comparable
from leaderboard.frame import LeftOut, Record, Trial
from leaderboard.records import SelectionRule
from leaderboard.statistics import Clusters, Friedman, Summary


@dataclass(frozen=True)
class Column:
    """A test environment.

    Attributes:
        index: Its index in the data set.
        name: Its name.
        held_out_with: Names of the environments that were held out together with it.
    """

    index: int
    name: str
    held_out_with: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """The number of one trial in one cell, and where it came from.

    Attributes:
        trial: The repetition.
        run_id: The run that was selected; a key of `Board.runs`.
        step: The check that was selected.
        draw: The draw of hyper-parameters that was selected.
        accuracy: On the main split of the test environment.
        nll: Negative log-likelihood there, in nats; None if the source has none.
        brier: Brier score there; None if the source has none.
        ece: Expected calibration error there; None if the source has none.
        gap: Mean holdout accuracy of the training environments minus `accuracy`; None where a
            protocol has no holdout.
    """

    trial: Trial
    run_id: str
    step: int
    draw: int
    accuracy: float
    nll: float | None
    brier: float | None
    ece: float | None
    gap: float | None


@dataclass(frozen=True)
class Missing:
    """A trial that a cell lacks.

    Attributes:
        trial: The repetition.
        reason: Why: not run, interrupted, diverged, or what its selection rule did not find.
        command: What fills it; None where no run would.
    """

    trial: Trial
    reason: str
    command: str | None


@dataclass(frozen=True)
class Published:
    """A number that a publication prints for a cell, beside ours.

    Attributes:
        mean: Theirs.
        printed: As it is printed, in percent: `71.7 ± 0.1`.
        standard_error: Of their mean, with ddof 1 whatever they print; None if not printed.
        trials: Their number of trials; None where they do not tell.
        title: The publication.
        source: Its address.
        note: What differs between their setting and ours; "" if nothing is known to.
        difference: Ours minus theirs; None where our cell is incomplete.
        flagged: Whether the difference is beyond two of its standard errors; None where either
            error is unknown.
    """

    mean: float
    printed: str
    standard_error: float | None
    trials: int | None
    title: str
    source: str
    note: str
    difference: float | None
    flagged: bool | None


@dataclass(frozen=True)
class Measure:
    """Metrics of a cell besides its accuracy, each over the same trials; None where not measured.

    Attributes:
        nll: Negative log-likelihood, nats.
        brier: Brier score, 0..2.
        ece: Expected calibration error with 15 bins, 0..1.
        gap: Mean holdout accuracy of the training environments minus held-out accuracy.
    """

    nll: Summary | None
    brier: Summary | None
    ece: Summary | None
    gap: Summary | None


@dataclass(frozen=True)
class Cell:
    """An algorithm on one test environment, or on all of them.

    Attributes:
        accuracy: Mean over trials; None if the cell is incomplete: there is no partial mean.
        n: Trials that have a number.
        expected: Trials that the row has anywhere.
        measure: The other metrics; all None if the cell is incomplete.
        to_erm: Difference to ERM in the same column; None for ERM itself, or where there is no
            single ERM row or no common trial.
        bold: Whether it is the best of its column or not shown to be worse; None without a verdict.
        by_trial: Accuracy of each trial, ascending by trial; empty if the cell is incomplete.
        clusters: Where its trials are two clusters, which ones.
        published: What publications print for it.
        numbers: The trials behind it, ascending. Empty for `average` and `worst`, which are made of
            the row's cells.
        missing: The trials it lacks, ascending.
    """

    accuracy: Summary | None
    n: int
    expected: int
    measure: Measure
    to_erm: Difference | None
    bold: bool | None
    by_trial: tuple[float, ...]
    clusters: Clusters | None
    published: tuple[Published, ...]
    numbers: tuple[Number, ...]
    missing: tuple[Missing, ...]

    @property
    def complete(self) -> bool:
        """Whether no trial is missing."""
        return self.n == self.expected


@dataclass(frozen=True)
class Row:
    """An algorithm with its settings.

    Attributes:
        label: The algorithm, and what tells it from other rows of the same algorithm.
        algorithm: The algorithm.
        settings: What its runs share, canonical JSON.
        departures: What of the protocol they change, and not all rows of the table.
        draws: Draws of hyper-parameters among which a trial was searched; 1 for fixed settings.
        trials: All its trials, ascending.
        cells: One for each column of the section.
        average: Environments averaged inside each trial; None for a section of one column.
        worst: The least of the environments inside each trial; None for a section of one column.
        training: Mean main-split accuracy of the training environments at the selected checks,
            averaged over columns inside a trial; None where they were not measured.
        seconds: Wall time of a selected run; None if the source does not tell.
        rank: Place by average (or by the only column) among complete rows, 1 the best, equal ones
            sharing; None in a section that is not ranked, or for an incomplete row or one that is
            not comparable.
        prior_knowledge: Variables of a sample that its runs were given, which other algorithms do
            not have; ascending.
        conclusions: What its selected runs concluded of sets of these variables, with the number of
            runs that did, the most frequent first.
    """

    label: str
    algorithm: str
    settings: str
    departures: str
    draws: int
    trials: tuple[Trial, ...]
    cells: tuple[Cell, ...]
    average: Cell | None
    worst: Cell | None
    training: Summary | None
    seconds: Summary | None
    rank: float | None
    prior_knowledge: tuple[str, ...]
    conclusions: tuple[tuple[str, int], ...]

    @property
    def is_comparable(self) -> bool:
        """Whether it is compared with other rows: it has the conditions that they have."""
        return are_comparable(self.departures)

    @property
    def data_seeds(self) -> int:
        """How many its trials have; a standard error over fewer than trials is too small."""
        return len({trial.data_seed for trial in self.trials})


@dataclass(frozen=True, order=True)
class SectionKey:
    """What runs must share to stand in one table.

    Attributes:
        dataset: The data set.
        protocol: The protocol.
        backbone: The network's backbone, with its pre-trained weights if it has any.
        source: Where the data set's samples came from, "" if there is one only.
        task: `generalization`, or `adaptation` where unlabelled test samples were seen.
        data: The data set's options, canonical JSON.
        departures: What of the protocol all of them change (`leaderboard.departures`).
        search: Name and version of the space that hyper-parameters were drawn from; "" for fixed
            settings, and where the source does not tell.
        tuned_once: Whether the first trial alone was searched, and the others repeat a draw that is
            preferred there.
        held_out: How many environments are held out together.
        origin: `dgbench` or `DomainBed`.
        rule: The selection rule.
    """

    dataset: str
    protocol: str
    backbone: str
    source: str
    task: str
    data: str
    departures: str
    search: str
    tuned_once: bool
    held_out: int
    origin: str
    rule: SelectionRule


@dataclass(frozen=True)
class Section:
    """One table.

    Attributes:
        key: What its runs share.
        reported: Whether the rule is the one that the protocol reports.
        ranked: Whether rows are ranked: for `train_val` alone.
        paired: Whether equal trials saw equal data, so that differences are taken inside trials.
        environments: All environments of the data set, by index.
        columns: The test environments that any row has.
        rows: Ascending by label.
        notes: What a reader must know, whole sentences.
    """

    key: SectionKey
    reported: bool
    ranked: bool
    paired: bool
    environments: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class OverallRow:
    """An algorithm over several data sets.

    Attributes:
        label: The algorithm.
        cells: Its average on each data set; None where it is incomplete or absent.
        mean: Mean over the data sets; None unless every cell is there.
        average_rank: Mean of its ranks among the rows that are complete; None unless it is one.
    """

    label: str
    cells: tuple[Summary | None, ...]
    mean: Summary | None
    average_rank: float | None


@dataclass(frozen=True, order=True)
class OverallKey:
    """What the tables of several data sets must share to be averaged: all but the data set."""

    protocol: str
    backbone: str
    source: str
    task: str
    search: str
    tuned_once: bool
    held_out: int
    origin: str
    rule: SelectionRule


@dataclass(frozen=True)
class Overall:
    """Several data sets in one table.

    Attributes:
        key: What they share.
        datasets: The data sets, ascending; of each one variant.
        not_counted: The other variants of these data sets.
        rows: Ascending by label.
        friedman: Test of the ranks; None with fewer than five data sets, or where the rule is not
            ranked.
        not_different: The bars of the critical-difference diagram: groups of labels, each by rank.
    """

    key: OverallKey
    datasets: tuple[str, ...]
    not_counted: tuple[str, ...]
    rows: tuple[OverallRow, ...]
    friedman: Friedman | None
    not_different: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Board:
    """A leaderboard.

    Attributes:
        benchmark_version: Of the suite that made the runs.
        sha256: Of the sha256 of all its runs, which changes with any number of any of them.
        sections: The tables, ascending by key.
        overall: The tables over data sets.
        left_out: What was found and is in no table, with the reason, ascending by place.
        runs: The runs behind the tables, by run id: settings, seeds, commit and checks of each.
    """

    benchmark_version: str
    sha256: str
    sections: tuple[Section, ...]
    overall: tuple[Overall, ...]
    left_out: tuple[LeftOut, ...]
    runs: Mapping[str, Record]
