"""What a sweep shows: a matrix of its runs, and how it goes on while it is carried out."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dgbench.errors import printable
from dgbench.sweep.manifest import Entry, entry
from dgbench.sweep.state import ENDED, State, problem_of, seconds_of, state_of, step_of

if TYPE_CHECKING:
    from dgbench.sweep.plan import PlannedRun
    from dgbench.sweep.worker import Outcome

_PAIRS = "pairs"


def matrices(entries: Sequence[Entry], states: Mapping[Path, State]) -> list[Table]:
    """A table a data set: algorithms down, held-out environments across, in each cell what is done.

    Args:
        entries: the runs.
        states: what became of them, by folder.
    """
    return [
        _matrix(dataset, [each for each in entries if each.dataset == dataset], states)
        for dataset in dict.fromkeys(each.dataset for each in entries)
    ]


def _matrix(dataset: str, entries: Sequence[Entry], states: Mapping[Path, State]) -> Table:
    cells: defaultdict[tuple[str, str], Counter[State]] = defaultdict(Counter)
    for each in entries:
        cells[each.algo, _column(each)][states[each.folder]] += 1
    columns = list(dict.fromkeys(map(_column, entries)))
    table = Table(title=escape(dataset), title_justify="left")
    table.add_column("algorithm")
    for column in columns:
        table.add_column(escape(column), justify="right")
    for algo in dict.fromkeys(each.algo for each in entries):
        table.add_row(escape(algo), *(_counts(cells[algo, column]) for column in columns))
    return table


def _column(run: Entry) -> str:
    """Pairs share a column: there are too many of them."""
    return run.test_env[0] if len(run.test_env) == 1 else _PAIRS


def _counts(found: Counter[State]) -> str:
    if not found:
        return "-"
    shown = f"{sum(found[state] for state in ENDED)}/{found.total()}"
    others: tuple[State, ...] = ("running", "failed", "interrupted", "diverged", "unreadable")
    return "\n".join([shown, *(f"{found[state]} {state}" for state in others if found[state])])


def states_of(entries: Iterable[Entry]) -> dict[Path, State]:
    """What became of runs, by folder.

    Args:
        entries: the runs.
    """
    return {each.folder: state_of(each.folder) for each in entries}


def show_status(console: Console, name: str, entries: Sequence[Entry]) -> None:
    """Prints how far a sweep is.

    Args:
        console: where to print.
        name: of the sweep.
        entries: its runs.
    """
    states = states_of(entries)
    ended = sum(state in ENDED for state in states.values())
    console.print(f"Sweep {name}: {ended} of {len(states)} runs finished", highlight=False)
    for table in matrices(entries, states):
        console.print(table)
    for each in entries:
        line = ""
        if states[each.folder] == "running":
            line = _progress_line(each)
        elif states[each.folder] == "unreadable":
            line = printable(f"Unreadable: {problem_of(each.folder)}")
        if line:
            console.print(line, highlight=False, markup=False, soft_wrap=True)


def _progress_line(run: Entry) -> str:
    held_out = " ".join(run.test_env)
    return (
        f"{run.algo} on {run.dataset}, {held_out} held out, trial {run.trial}, draw "
        f"{run.hparams_seed}: step {step_of(run.folder)}/{run.steps}"
    )


class _Begun(NamedTuple):
    """When a run went under way, at which step, and of how many in its model it is one."""

    time: float
    step: int
    stacked: int


class Progress:
    """Shows a sweep while it is carried out: in a terminal live, elsewhere a line a run."""

    def __init__(self, console: Console, runs: Sequence[PlannedRun], done: int, slots: int) -> None:
        """Prepares.

        Args:
            console: where to show it.
            runs: those to carry out.
            done: how many of the sweep were finished before.
            slots: how many run at a time.
        """
        self.console = console
        self.total = done + len(runs)
        self.before = done
        self.ended_runs = 0
        self.failed_runs = 0
        self.slots = slots
        self.running: dict[Path, Entry] = {}
        self.since: dict[Path, _Begun] = {}
        self.waiting = {run.folder: entry(run) for run in runs}
        self.seconds: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.begun = time.monotonic()
        self.told: set[str] = set()
        self.live = Live(console=console, refresh_per_second=2, get_renderable=self.picture)

    def __enter__(self) -> Progress:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def started(self, group: Sequence[PlannedRun]) -> None:
        """Counts runs as under way, several as one model."""
        for run in group:
            self.since[run.folder] = _Begun(time.monotonic(), step_of(run.folder), len(group))
            self.running[run.folder] = entry(run)

    def ended(self, run: PlannedRun, outcome: Outcome, *, final: bool) -> None:
        """Counts a run that came back, and says so."""
        known = self.running.pop(run.folder)
        if final:
            self.waiting.pop(run.folder, None)
            self.ended_runs += 1
            self.failed_runs += outcome.state != "finished"
        seconds = seconds_of(run.folder)
        if outcome.state == "finished" and seconds is not None:
            self.seconds[known.dataset, known.algo].append(seconds)
        told = outcome.state == "claimed" or outcome.message in self.told
        if outcome.state == "alone":
            self.told.add(outcome.message)
        if not told:
            self.console.print(
                self._line(run, outcome, seconds), highlight=False, markup=False, soft_wrap=True
            )

    def looked(self) -> None:
        """The live view refreshes itself."""

    def _line(self, run: PlannedRun, outcome: Outcome, seconds: float | None) -> str:
        done = f"[{self.before + self.ended_runs}/{self.total}] {run.title}: {outcome.state}"
        if outcome.state != "finished":
            reason = (outcome.message.splitlines() or [""])[0]
            return f"{done}: {reason}"
        return f"{done} in {seconds or 0:.0f} s; {self._left()}"

    def _left(self) -> str:
        """The time left, from the runs that finished here, or before that from those under way."""
        known = [second for seconds in list(self.seconds.values()) for second in seconds]
        known = known or self._projected()
        if not known:
            return "time left unknown"
        usual = sum(known) / len(known)
        left = 0.0
        # A copy: the live view asks from a thread of its own.
        for run in list(self.waiting.values()):
            own = self.seconds.get((run.dataset, run.algo))
            expected = usual if not own else sum(own) / len(own)
            done = step_of(run.folder) / run.steps if run.folder in self.running else 0.0
            left += expected * (1 - done)
        return f"{timedelta(seconds=round(left / self.slots))} left"

    def _projected(self) -> list[float]:
        """How long the runs under way would take, by the steps that they took here.

        Of those that are trained as one model each takes its share.
        """
        projected = []
        for run in list(self.running.values()):
            begun = self.since[run.folder]
            steps = step_of(run.folder) - begun.step
            if steps > 0:
                elapsed = time.monotonic() - begun.time
                projected.append(elapsed * run.steps / steps / begun.stacked)
        return projected

    def picture(self) -> Group:
        """The live view: a bar, speed and time left, and each run under way with its step."""
        elapsed = time.monotonic() - self.begun
        speed = f"{3600 * self.ended_runs / elapsed:.0f} runs an hour" if self.ended_runs else ""
        failed = f", {self.failed_runs} failed" if self.failed_runs else ""
        done = self.before + self.ended_runs
        head = Table.grid(padding=(0, 1))
        head.add_row(
            f"{done}/{self.total} runs{failed}",
            ProgressBar(total=self.total, completed=done, width=24),
            f"{speed}  {self._left()}",
        )
        lines = [Text(_progress_line(run)) for run in list(self.running.values())]
        return Group(head, *lines)
