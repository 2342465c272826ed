"""The command ``sweep``: its flags, and what it does in which order."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, get_args

from dgbench.errors import UsageError
from dgbench.parser import DEFAULT_OUT
from dgbench.sweep import design as designs
from dgbench.sweep import manifest
from dgbench.sweep.design import Estimand, Sweep
from dgbench.yaml_files import parse_yaml

if TYPE_CHECKING:
    from rich.console import Console

    from dgbench.sweep.cost import Line
    from dgbench.sweep.executors import Executor
    from dgbench.sweep.launcher import Failure
    from dgbench.sweep.plan import Plan, PlannedRun
    from dgbench.sweep.stacking import Grouping


EXECUTORS = ("local", "ray", "commands")


def main(arguments: Sequence[str], console: Console) -> int:
    """Carries a sweep out, or shows its cost or state.

    Args:
        arguments: the command line after ``sweep``.
        console: where to show it.

    Returns:
        0 when every run is finished, 1 when some failed.

    Raises:
        UsageError: for what is not allowed.
        Interrupted: when a signal stopped it.
    """
    if arguments[:1] == ["status"]:
        return _status(arguments[1:], console)
    file = arguments[0] if arguments and not arguments[0].startswith("-") else None
    options, flags = _parser().parse_known_args(arguments[1:] if file else arguments)
    sweep = designs.design(_content(file, options), flags)
    name = manifest.name_of(sweep, file)
    from dgbench.sweep.plan import plan

    if options.address is not None and options.executor != "ray":
        raise UsageError("--address is that of a Ray cluster; add --executor ray.")
    if options.dry_run:
        return _show_cost(sweep, options, console)
    if options.executor == "commands":
        if sweep.stack != 1:
            raise UsageError(
                "--executor commands prints a command a run, so nothing is trained stacked. Add "
                "--stack 1, or use another executor."
            )
        found = plan(sweep, options.out)
        manifest.write(options.out, name, sweep, found)
        _print_commands(found)
        return 0
    return _carry_out(sweep, name, options, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dgbench sweep",
        usage="dgbench sweep [FILE] [options] [options of fit], or: dgbench sweep status",
        description=f"{Sweep.__doc__.splitlines()[0] if Sweep.__doc__ else ''} FILE is a YAML "
        "file, or one of the suite's: " + ", ".join(designs.names()) + ". Options of `fit` are "
        "passed on to every run.",
        epilog="A Slurm array of printed commands: `... --executor commands > runs.txt`, and in "
        "the job, with --array=1-N for N lines and --signal=USR1@60, `srun bash -c "
        '"$(sed -n "${SLURM_ARRAY_TASK_ID}p" runs.txt)"`.',
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--datasets", type=_listed, help="data sets, with commas between them")
    add("--algos", type=_listed, help="algorithms, or all")
    add("--test-envs", type=_test_envs, help="all, pairs (for leave-one-out), or a list")
    add("--trials", type=int, help=f"repetitions; number t has t for both seeds ({Sweep.trials})")
    add("--draws", type=int, help="hyper-parameter draws, the defaults among them (1)")
    add("--estimand", choices=get_args(Estimand), help="what the spread over trials stands for")
    add("--protocol", help="of every data set")
    add("--stack", type=_stack, help="auto, or most runs to train as one model (1)")
    add("--vary", action="append", type=_varied, help="OPTION=VALUE,VALUE,...; repeatable")
    add("--out", default=DEFAULT_OUT, help=f"folder of the records ({DEFAULT_OUT})")
    add("--executor", choices=EXECUTORS, default="local", help="where runs are trained (local)")
    add("--address", help="of a Ray cluster; one that is known here, or a new one of this machine")
    add("--jobs", type=_at_least_one, help="runs at a time; one a core, or as many as GPUs hold")
    add("--jobs-per-gpu", type=_at_least_one, default=1, help="runs that share a GPU (1)")
    add("--dry-run", action="store_true", help="print what it costs, and train nothing")
    add("--yes", action="store_true", help="begin unasked, however long it takes")
    add("--retries", type=_not_negative, default=2, help="how often a failed run is retried (2)")
    return parser


def _content(file: str | None, options: argparse.Namespace) -> dict[str, Any]:
    content = designs.read(file) if file else {}
    given = {name: value for name, value in vars(options).items() if name in Sweep.__annotations__}
    if given["vary"] is not None:
        given["vary"] = dict(given["vary"])
    return content | {name: value for name, value in given.items() if value is not None}


def _carry_out(sweep: Sweep, name: str, options: argparse.Namespace, console: Console) -> int:
    from dgbench.sweep.launcher import carry_out
    from dgbench.sweep.plan import plan, refuse_several_devices
    from dgbench.sweep.stacking import grouped
    from dgbench.sweep.state import ENDED
    from dgbench.sweep.view import Progress, states_of

    if not options.yes:
        _ask_if_long(sweep, options, console)
    executor = _executor(options, name)
    failures: list[Failure] = []
    try:
        while True:
            found = plan(sweep, options.out)
            refuse_several_devices(
                found.runs,
                "let --executor commands print a command for each run and start those yourself",
            )
            manifest.write(options.out, name, sweep, found)
            states = states_of(map(manifest.entry, found.runs))
            given_up = {failure.run.folder for failure in failures}
            todo = [
                run
                for run in found.runs
                if states[run.folder] not in ENDED and run.folder not in given_up
            ]
            _show_plan(found, todo, console)
            if not todo:
                break
            grouping = grouped(found.runs, sweep.stack, executor.slots)
            _show_grouping(grouping, console)
            missing = {run.folder for run in todo}
            groups = [
                left
                for group in grouping.groups
                if (left := tuple(run for run in group if run.folder in missing))
            ]
            done = len(found.runs) - len(todo)
            with Progress(console, todo, done, executor.slots) as progress:
                failures += carry_out(groups, executor, options.retries, progress)
    finally:
        executor.close()
    return _show_end(name, failures, console)


def _executor(options: argparse.Namespace, name: str) -> Executor:
    logs = manifest.logs(options.out, name)
    if options.executor == "ray":
        from dgbench.sweep.cluster import RayExecutor

        return RayExecutor(options.address, options.jobs, options.jobs_per_gpu, logs)
    from dgbench.sweep.local import LocalExecutor, places

    return LocalExecutor(places(options.jobs, options.jobs_per_gpu), logs)


def _show_cost(sweep: Sweep, options: argparse.Namespace, console: Console) -> int:
    from dgbench.sweep import cost
    from dgbench.sweep.plan import plan
    from dgbench.sweep.stacking import grouped

    found = plan(sweep, options.out)
    lines, workers = _cost(found, options, console)
    _show_plan(found, [run for line in lines for run in line.todo], console)
    grouping = grouped(found.runs, sweep.stack, workers)
    _show_grouping(grouping, console)
    cost.show(lines, workers, options.out, console)
    if grouping.stacks:
        console.print("Measured steps are of single runs; stacked ones take less.")
    return 0


def _ask_if_long(sweep: Sweep, options: argparse.Namespace, console: Console) -> None:
    from dgbench.sweep import cost
    from dgbench.sweep.plan import plan

    found = plan(sweep, options.out)
    if cost.is_small(found.runs):
        return
    lines, workers = _cost(found, options, console)
    takes = cost.total(lines, workers)
    if takes > cost.ASKED_ABOVE:
        cost.show(lines, workers, options.out, console)
        cost.ask(takes, console)


def _cost(found: Plan, options: argparse.Namespace, console: Console) -> tuple[list[Line], int]:
    """What a sweep costs, and how many workers share it."""
    from dgbench.sweep.cost import estimate, measured_here
    from dgbench.sweep.local import places

    found_here = places(options.jobs, options.jobs_per_gpu)
    workers = len(found_here) if options.executor == "local" else options.jobs or 1
    measure = measured_here(found_here[0].environment(), found_here[0].cores)
    with console.status("Taking a few steps of each algorithm"):
        return estimate(found.runs, measure), workers


def _show_plan(found: Plan, todo: Sequence[PlannedRun], console: Console) -> None:
    to_come = f", and {found.to_come} more once draws are chosen" if found.to_come else ""
    console.print(
        f"Runs: {len(found.runs)}, of which finished: {len(found.runs) - len(todo)}{to_come}",
        highlight=False,
    )
    for reason in found.left_out:
        console.print(f"Left out: {reason}.", highlight=False, markup=False, soft_wrap=True)


def _show_grouping(grouping: Grouping, console: Console) -> None:
    for reason in grouping.alone:
        console.print(f"Not stacked: {reason}.", highlight=False, markup=False, soft_wrap=True)
    for reason in grouping.bounded:
        console.print(f"Smaller stacks: {reason}.", highlight=False, markup=False, soft_wrap=True)
    if not grouping.stacks:
        return
    masked = (
        f" {grouping.masked:.0%} of their rows are masked, since batch sizes differ; those of "
        "--search-space domainbed-stackable are powers of two."
        if grouping.masked
        else ""
    )
    console.print(
        f"Stacked: {sum(map(len, grouping.stacks))} runs as {len(grouping.stacks)} models.{masked}",
        highlight=False,
        soft_wrap=True,
    )


def _show_end(name: str, failures: Sequence[Failure], console: Console) -> int:
    for run, message in failures:
        console.print(
            f"Failed: {run.title}: {message}", highlight=False, markup=False, soft_wrap=True
        )
        console.print(f"  {command_of(run)}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"Sweep {name}: {len(failures)} runs failed", highlight=False)
    return int(bool(failures))


def command_of(run: PlannedRun) -> str:
    """The command that trains one run, or goes on with it.

    Args:
        run: the run.
    """
    return shlex.join(["python", "-m", "dgbench", "fit", *run.flags])


def _print_commands(found: Plan) -> None:
    for run in found.runs:
        sys.stdout.write(f"{command_of(run)}\n")


def _status(arguments: Sequence[str], console: Console) -> int:
    """Shows how far sweeps are."""
    from dgbench.registry import unknown
    from dgbench.sweep.view import show_status

    parser = argparse.ArgumentParser(prog="dgbench sweep status", description=_status.__doc__)
    parser.add_argument("names", nargs="*", help="which sweeps; all of the folder if left out")
    parser.add_argument("--out", default=DEFAULT_OUT, help=f"folder ({DEFAULT_OUT})")
    options = parser.parse_args(arguments)
    known = manifest.names(options.out)
    for name in options.names or known:
        if name not in known:
            raise UsageError(unknown("sweep", name, known))
        show_status(console, name, manifest.read(options.out, name))
    if not known:
        raise UsageError(f"No sweep has left records in {options.out}. Name a folder with --out.")
    return 0


def _stack(text: str) -> Any:
    return text if text == "auto" else _at_least_one(text)


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _test_envs(text: str) -> Any:
    if text.startswith("["):
        return parse_yaml(text)
    parts = [int(part) if part.isdigit() else part for part in _listed(text)]
    return parts[0] if parts in (["all"], ["pairs"]) else parts


def _varied(text: str) -> tuple[str, list[Any]]:
    name, equals, values = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text} given; OPTION=VALUE,VALUE,... needed")
    return name.removeprefix("--"), [parse_yaml(value) for value in _listed(values)]


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} given, at least {least} needed")
        return int(text)

    return number


_at_least_one = _at_least(1)
_not_negative = _at_least(0)
