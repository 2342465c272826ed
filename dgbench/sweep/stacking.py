"""Which runs of a sweep are trained as one model, and which each by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from datamodules.errors import DataError
from dgbench.provenance import memory_gb
from dgbench.stacked.plan import data_bytes, likeness, operations_per_row, own_obstacle
from dgbench.sweep.design import Stack
from dgbench.sweep.executors import Group
from dgbench.sweep.plan import PlannedRun
from leaderboard import records

# Operations of a run's step from which on `auto` leaves it alone: stacking saves the cost of
# dispatching a small step, and a core is busy with so many for as long.
_HEAVY = 50e6
# Most runs of a stack that `auto` makes: more gain next to nothing, and each holds memory.
_MOST = 32
# Most of a stack's rows that may be masked.
_WASTE = 1 / 3
# Most of the machine's memory that `auto` fills with the data of stacks.
_MEMORY = 1 / 2


class Grouping(NamedTuple):
    """How the runs of a sweep are trained.

    Attributes:
        groups: all of them, those that train as one model together.
        alone: why some are trained each by itself, one sentence a kind.
        bounded: where memory bounds how many data seeds a stack has, one sentence a kind.
    """

    groups: list[Group]
    alone: list[str]
    bounded: list[str]

    @property
    def stacks(self) -> list[Group]:
        """The groups of several."""
        return [group for group in self.groups if len(group) > 1]

    @property
    def masked(self) -> float:
        """Share of the stacks' rows that are masked, since the batch sizes differ."""
        sizes = [[_size(run) for run in stack] for stack in self.stacks]
        rows = sum(len(each) * max(each) for each in sizes)
        return 1 - sum(map(sum, sizes)) / rows if rows else 0.0


def grouped(runs: Sequence[PlannedRun], stack: Stack, slots: int) -> Grouping:
    """Groups runs that may be stacked: those of one kind, of batch sizes that are near each other.

    The groups are a function of the whole sweep, whatever of it is finished, so that a stack that
    was interrupted goes on with the same runs.

    Args:
        runs: all of a sweep.
        stack: how many runs a stack has at the most; ``auto`` leaves those alone whose steps are
            bound by arithmetic, makes no fewer stacks than there are slots, and of no more data
            seeds than half of this machine's memory holds.
        slots: how many groups are trained at a time.
    """
    if stack == 1:
        return Grouping([(run,) for run in runs], [], [])
    kinds: dict[str, list[PlannedRun]] = {}
    for run in runs:
        kinds.setdefault(records.canonical_json(likeness(run.settings)), []).append(run)
    order = {run.folder: position for position, run in enumerate(runs)}
    together: list[list[PlannedRun]] = []
    alone: dict[str, None] = {}
    for alike in kinds.values():
        why, left = _left_alone(alike, stack)
        if left:
            settings = alike[0].settings
            alone[f"{settings.algo['name']} on {settings.data['name']}: {why}"] = None
        together += [[run] for run in left]
        together.append([run for run in alike if run not in left])
    stackable = sum(len(each) for each in together if len(each) > 1)
    most = min(_MOST, max(1, -(-stackable // slots))) if stack == "auto" else stack
    groups: list[Group] = []
    bounded: dict[str, None] = {}
    for each in together:
        seeds = _most_seeds(each, slots) if stack == "auto" else None
        for near in _near(each):
            unbounded = len(groups) + -(-len(near) // most)
            groups += _split(near, most, seeds)
            if len(groups) > unbounded:
                settings = near[0].settings
                bounded[
                    f"{settings.algo['name']} on {settings.data['name']}: memory holds the data "
                    f"of {seeds} trials for each of {slots} stacks at a time"
                ] = None
    groups.sort(key=lambda group: min(order[run.folder] for run in group))
    return Grouping(groups, list(alone), list(bounded))


def _left_alone(alike: Sequence[PlannedRun], stack: Stack) -> tuple[str, Sequence[PlannedRun]]:
    """Which runs of a kind are not stacked, and why."""
    settings = alike[0].settings
    obstacle = own_obstacle(settings)
    if obstacle is not None:
        return obstacle, alike
    if stack != "auto":
        return "", []
    if settings.data.get("batch_size") == "full":
        return "full batches are bound by arithmetic", alike
    operations = operations_per_row(settings)
    heavy = [run for run in alike if operations * _size(run) > _HEAVY]
    largest = operations * max(map(_size, alike)) / 1e6
    return f"its steps are bound by arithmetic ({largest:.0f} million operations)", heavy


def _near(alike: Sequence[PlannedRun]) -> Iterator[list[PlannedRun]]:
    """Parts of which no more than the tolerated share of rows would be masked."""
    near: list[PlannedRun] = []
    for run in sorted(alike, key=_size, reverse=True):
        rows = sum(map(_size, near)) + _size(run)
        if near and rows < (1 - _WASTE) * (len(near) + 1) * _size(near[0]):
            yield near
            near = []
        near.append(run)
    if near:
        yield near


def _most_seeds(alike: Sequence[PlannedRun], slots: int) -> int | None:
    """How many data seeds a stack may have of which each holds its own; None for any number."""
    memory = memory_gb()
    if memory is None or len({run.settings.data_seed for run in alike}) < 2:
        return None
    try:
        each = data_bytes(alike[0].settings)
    except DataError:
        # What cannot be loaded takes nothing, and is for the runs to say.
        return None
    return max(1, int(_MEMORY * memory * 2**30 / slots / max(1, each)))


def _split(near: Sequence[PlannedRun], most: int, seeds: int | None) -> list[Group]:
    """Parts of a size, as few as may be, each of no more runs and data seeds than allowed."""
    for parts in range(-(-len(near) // most), len(near) + 1):
        cuts = [part * len(near) // parts for part in range(parts + 1)]
        groups = [tuple(near[start:end]) for start, end in pairwise(cuts)]
        if seeds is None or all(_seeds(group) <= seeds for group in groups):
            break
    return groups


def _seeds(group: Group) -> int:
    return len({run.settings.data_seed for run in group})


def _size(run: PlannedRun) -> int:
    """Rows of an environment's batch; 1 for full ones, of which none is masked."""
    size = run.settings.data.get("batch_size")
    return size if isinstance(size, int) else 1
