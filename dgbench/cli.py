"""The command line: ``python -m dgbench <command>``.

Every error a user can cause ends here as one message and exit code 2.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dgbench import registry
from dgbench.errors import UsageError, printable

if TYPE_CHECKING:
    from rich.console import Console

    from dgbench.checkpoints import Checkpoint

_EXIT_USAGE = 2
_EXIT_INTERRUPTED = 130
_ICP_OPTIONS = ("test", "alpha", "bonferroni", "intervals", "screen", "keep")


def main(arguments: Sequence[str]) -> int:
    """Runs one command.

    Args:
        arguments: the command and what follows it.

    Returns:
        0 when it succeeded, 1 when what it checked was not in order, 2 when it was misused, 130
        when a signal ended it.
    """
    from datamodules.errors import DataError
    from leaderboard.errors import RecordError

    try:
        return _command(arguments)
    except (UsageError, DataError, RecordError) as error:
        sys.stderr.write(f"dgbench: {printable(str(error))}\n")
        return _EXIT_USAGE
    except MemoryError as error:
        reason = printable(str(error)) or "no more could be had"
        sys.stderr.write(f"dgbench: out of memory: {reason}. Free some, or ask for less.\n")
        return _EXIT_USAGE
    except OSError as error:
        sys.stderr.write(
            f"dgbench: {printable(str(error))}. What was written before is whole; make room or "
            "give access, and give the command again.\n"
        )
        return _EXIT_USAGE
    except KeyboardInterrupt:
        sys.stderr.write("dgbench: interrupted\n")
        return _EXIT_INTERRUPTED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else _EXIT_USAGE


def _command(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_usage())
        return 0
    name, *rest = arguments
    if name == "--version":
        from dgbench import BENCHMARK_VERSION, __version__

        sys.stdout.write(f"dgbench {__version__}, benchmark version {BENCHMARK_VERSION}\n")
        return 0
    if name not in _COMMANDS:
        raise UsageError(registry.unknown("command", name, list(_COMMANDS)))
    return _COMMANDS[name](rest)


def _usage() -> str:
    lines = [
        f"  {name:<12}{(command.__doc__ or '').splitlines()[0]}"
        for name, command in _COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: dgbench <command> [options]",
            "",
            *lines,
            "",
            "dgbench <command> --help shows a command's options.",
            "",
        ]
    )


def _fit(arguments: list[str]) -> int:
    """Trains one run: dgbench fit --algo irm --test-env 2."""
    from dgbench.settings import resolve_arguments

    settings = resolve_arguments(arguments)
    console = _console()
    from dgbench.disk import complaint
    from dgbench.errors import Interrupted
    from dgbench.report import show
    from dgbench.training import run

    for file in settings.files:
        console.print(f"Settings of {file}", highlight=False)
    try:
        show(console, run(settings, console))
    except Interrupted as interrupted:
        sys.stderr.write(f"dgbench: {interrupted}\n")
        return _EXIT_INTERRUPTED
    except OSError as error:
        raise UsageError(
            f"{complaint(error, settings.out)}. What was written before is whole; make room or "
            "give access, and go on with "
            f"`dgbench fit --resume last --out {shlex.quote(settings.out)}`."
        ) from error
    return 0


def _test(arguments: list[str]) -> int:
    """Scores a checkpoint on every environment of its data set."""
    parser = argparse.ArgumentParser(
        prog="dgbench test", description=_test.__doc__, allow_abbrev=False
    )
    _, checkpoint = _read_checkpoint(parser, arguments)
    from dgbench.checkpoints import score
    from dgbench.report import show_scores

    show_scores(_console(), checkpoint.settings, checkpoint.step, score(checkpoint))
    return 0


def _predict(arguments: list[str]) -> int:
    """Labels images with a checkpoint and writes a CSV."""
    parser = argparse.ArgumentParser(
        prog="dgbench predict", description=_predict.__doc__, allow_abbrev=False
    )
    parser.add_argument("images", type=Path, nargs="+", help="image files")
    parser.add_argument(
        "--out", type=Path, required=True, help="CSV file: path, class, probability"
    )
    options, checkpoint = _read_checkpoint(parser, arguments)
    from dgbench.checkpoints import in_words, predict

    unlabelled = predict(checkpoint, options.images, options.out)
    labelled = len(options.images) - len(unlabelled)
    _console().print(f"{labelled} images labelled in {options.out}", highlight=False, markup=False)
    if unlabelled:
        sys.stderr.write(
            f"dgbench: {len(unlabelled)} of {len(options.images)} files cannot be read as images "
            f"and have no row: {printable(in_words(unlabelled))}\n"
        )
    return int(bool(unlabelled))


def _read_checkpoint(
    parser: argparse.ArgumentParser, arguments: Sequence[str]
) -> tuple[argparse.Namespace, Checkpoint]:
    """Parses a command that reads a checkpoint, and reads it."""
    from dgbench.arguments import as_flags

    add = parser.add_argument
    add("--checkpoint", type=Path, required=True, help="last.ckpt or selected.ckpt")
    for flag in ("--algo", "--dataset"):
        text = "name of the checkpoint's, if it is your own: none is imported that is not named"
        add(flag, metavar="PACKAGE.CLASS", help=text)
    options, rest = parser.parse_known_args(arguments)
    # Options of one's own class may name code, too; what they are, the class alone knows.
    other = [flag for flag in rest if not flag.startswith(("--algo.", "--data."))]
    if other:
        parser.error(f"unrecognized arguments: {' '.join(other)}")
    given = {name: getattr(options, name) for name in ("algo", "dataset") if getattr(options, name)}
    from dgbench.checkpoints import read

    return options, read(options.checkpoint, [*as_flags(given), *rest])


def _sweep(arguments: list[str]) -> int:
    """Trains data sets x algorithms x test environments x trials x draws."""
    from dgbench.errors import Interrupted
    from dgbench.sweep.command import main as sweep

    try:
        return sweep(arguments, _console())
    except Interrupted as interrupted:
        sys.stderr.write(f"dgbench: {interrupted}\n")
        return _EXIT_INTERRUPTED


def _reproduce(arguments: list[str]) -> int:
    """Reruns a published table, or a record, and prints theirs beside ours."""
    from dgbench import reproductions
    from dgbench.parser import DEFAULT_OUT

    if arguments and not arguments[0].startswith("-") and _is_record(arguments[0]):
        return _rerun(arguments)
    parser = argparse.ArgumentParser(
        prog="dgbench reproduce",
        description=f"{_reproduce.__doc__} Options of `fit` are passed on to every run.",
        allow_abbrev=False,
    )
    text = "which table, --list names them; or a run folder, a packed file or a run id"
    parser.add_argument("name", nargs="?", help=text)
    parser.add_argument("--list", action="store_true", help="list all there are")
    parser.add_argument("--trials", type=_at_least_one, help="runs of each row")
    parser.add_argument("--row", action="append", default=[], help="only this row; repeatable")
    parser.add_argument("--jobs", type=_at_least_one, default=1, help="runs at a time (1)")
    parser.add_argument("--out", default=DEFAULT_OUT, help=f"folder of the records ({DEFAULT_OUT})")
    options, flags = parser.parse_known_args(arguments)
    if options.list:
        for found in map(reproductions.read, reproductions.names()):
            listed = ", ".join(row.name for row in found.rows)
            text = f"{found.name}: {found.title}\n  {found.trials} trials of {listed}"
            _console().print(text, highlight=False, soft_wrap=True)
        return 0
    if options.name is None:
        raise UsageError(f"Name what to reproduce. There are: {', '.join(reproductions.names())}.")
    table = reproductions.read(options.name)
    rows = table.chosen(options.row)
    from dgbench.errors import Interrupted
    from dgbench.reproduce import compare, plan, train, write

    planned = plan(table, rows, options.trials or table.trials, options.out, flags)
    try:
        train(table.name, planned, options.jobs, _console())
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("dgbench: interrupted; the same command goes on from there\n")
        return _EXIT_INTERRUPTED
    lines = compare(table, planned)
    sys.stdout.write(write(table, lines, flags, options.out))
    return int(any(line.inside is False for line in lines))


def _is_record(name: str) -> bool:
    """Whether something to reproduce is a record: a path that is there, or a run id."""
    return Path(name).exists() or re.fullmatch(r"[0-9a-f]{16}", name) is not None


def _rerun(arguments: list[str]) -> int:
    from dgbench.parser import DEFAULT_OUT

    parser = argparse.ArgumentParser(
        prog="dgbench reproduce",
        description="Reruns a record and compares. Options of `fit` that decide no number are "
        "passed on.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("record", help=f"a run folder, a packed file, or a run id of a record below {DEFAULT_OUT}")
    add("--run-id", help="which record of several")
    add("--out", default="reproduced", help="folder of the rerun (reproduced)")
    text = "largest difference of an accuracy, 0 to 1, that counts as reproduced (0.01)"
    add("--tolerance", type=float, default=0.01, help=text)
    options, flags = parser.parse_known_args(arguments)
    from dgbench import rerun
    from dgbench.errors import Interrupted

    console = _console()
    original, source = rerun.find(options.record, options.run_id, DEFAULT_OUT)
    try:
        again = rerun.rerun(original, source, options.out, flags, console)
    except (Interrupted, KeyboardInterrupt):
        sys.stderr.write("dgbench: interrupted; the same command goes on from there\n")
        return _EXIT_INTERRUPTED
    comparison = rerun.compare(original, again, options.tolerance)
    rerun.show(console, original, again, comparison)
    return int(not comparison.reproduced)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} given, at least 1 needed")
    return number


def _list(arguments: list[str]) -> int:
    """Lists algorithms, data sets and protocols."""
    parser = argparse.ArgumentParser(prog="dgbench list", description=_list.__doc__)
    parser.parse_args(arguments)
    from dgbench.catalogue import show

    show(_console())
    return 0


def _leaderboard(arguments: list[str]) -> int:
    """Builds tables and a page of records: dgbench leaderboard build RUNS... --out DIR."""
    parser = argparse.ArgumentParser(prog="dgbench leaderboard", description=_leaderboard.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="records in, tables and a page out")
    sources = "run folders, packed files, sweeps of DomainBed, or folders that hold some"
    build.add_argument("runs", nargs="+", type=Path, help=sources)
    build.add_argument("--out", type=Path, required=True, help="folder for the files")
    text = "print what DomainBed's collect_results prints of its sweep, and no more"
    build.add_argument("--parity", choices=["domainbed"], help=text)
    packed = commands.add_parser("pack", help="records in, one file out")
    packed.add_argument("runs", nargs="+", type=Path, help=sources)
    packed.add_argument("--out", type=Path, required=True, help="a .parquet or .jsonl file")
    verified = commands.add_parser("verify", help="checks a submission: records and their tables")
    verified.add_argument("folder", type=Path, help="holds both")
    published = commands.add_parser("publish", help="tables and plots to Weights & Biases")
    published.add_argument("runs", nargs="+", type=Path, help=sources)
    published.add_argument("--to", choices=["wandb"], required=True, help="offline by default")
    published.add_argument("--out", type=Path, default=Path(), help="where wandb keeps its run")
    options = parser.parse_args(arguments)
    # As the program ends, several collections would go through all the records that it read.
    atexit.register(gc.freeze)
    if options.command == "publish":
        return _publish(options.runs, options.out)
    if options.command == "pack":
        return _pack(options.runs, options.out)
    if options.command == "verify":
        return _verify(options.folder)
    from leaderboard.build import build as build_tables
    from leaderboard.build import build_parity

    if options.parity is not None:
        sys.stdout.write(build_parity(options.runs, options.out))
        return 0
    written = build_tables(options.runs, options.out)
    console = _console()
    for path in written:
        console.print(f"Written: {path}", highlight=False, soft_wrap=True)
    if written[-1].suffix != ".parquet":
        text = "No Parquet: it needs pyarrow, pip install 'dgbench[parquet]'."
        console.print(text, highlight=False, markup=False)
    return 0


def _publish(runs: Sequence[Path], out: Path) -> int:
    from leaderboard.build import load_board
    from leaderboard.publish import to_wandb

    folder = to_wandb(load_board(runs), out, "dgbench")
    _console().print(f"Written: {folder}", highlight=False, soft_wrap=True)
    return 0


def _pack(runs: Sequence[Path], out: Path) -> int:
    from leaderboard.pack import pack
    from leaderboard.sources import load

    records, left_out = load(runs)
    written = pack(records, out)
    console = _console()
    for entry in left_out:
        text = printable(f"Left out: {entry.place}: {entry.reason}")
        console.print(text, highlight=False, markup=False)
    console.print(f"Written: {written}", highlight=False, soft_wrap=True)
    return 0


def _verify(folder: Path) -> int:
    from leaderboard.verify import HASH_NOTE, verify

    report = verify(folder)
    parts = (
        ("Violation", report.violations),
        ("Checked", report.checked),
        ("Remark", report.remarks),
        ("Not checked", report.unchecked),
    )
    for word, lines in parts:
        for line in lines:
            sys.stdout.write(f"{word}: {printable(str(line))}\n")
    sys.stdout.write(f"{len(report.violations) or 'No'} violations. {HASH_NOTE}\n")
    return int(bool(report.violations))


def _inspect(arguments: list[str]) -> int:
    """Shows what a data set holds and what is wrong with it: counts, copies, pictures."""
    from dgbench.settings import resolve_inspection

    settings = resolve_inspection(arguments)
    from dgbench.inspect import inspect

    return int(inspect(settings, _console()).spoilt)


def _icp(arguments: list[str]) -> int:
    """Finds causes in a table: dgbench icp --table FILE.csv --target Y --environment-column E."""
    from dgbench import icp, icp_report

    parser = argparse.ArgumentParser(
        prog="dgbench icp",
        description=f"{_icp.__doc__} With --dataset, options of `inspect` choose environments and "
        "data: --test-env, --protocol, --data-seed, --data.NAME.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--table", type=Path, help="CSV file with a header line")
    source.add_argument(
        "--dataset", help="a data set's views, or a model: linear_unit_test_1, irm_sem_fou, ..."
    )
    add("--target", help="the column to explain")
    add("--environment-column", help="the column that names the environments")
    add("--variables", nargs="+", help="columns that may be causes; all others if left out")
    add(
        "--test",
        choices=list(icp.TESTS),
        help="residuals for numbers, calibration for words and two values, if left out",
    )
    add("--alpha", type=float, default=0.05, help="level; a set is accepted above it (0.05)")
    add(
        "--bonferroni",
        choices=["recommended", "R"],
        default="recommended",
        help="factor over environments (recommended)",
    )
    add(
        "--intervals",
        choices=["marginal", "simultaneous"],
        default="marginal",
        help="each by itself, or all at once (marginal)",
    )
    add(
        "--screen",
        choices=["boosting", "lasso", "stability"],
        help="keep the best predictors; no guarantee unless these hold every cause",
    )
    add("--keep", type=int, default=8, help="how many a screen keeps (8)")
    add("--out", type=Path, help="folder for icp.json and the picture icp.png")
    options, flags = parser.parse_known_args(arguments)
    names = (options.target, options.environment_column)
    if options.dataset is not None:
        if any((*names, options.variables)):
            raise UsageError(
                "--target, --environment-column and --variables are for --table; a data set knows "
                "its own. Which views there are is --data's to say: `dgbench list`."
            )
        from dgbench import icp_datasets

        columns = icp_datasets.read(options.dataset, flags)
        options.target = icp_datasets.TARGET
    elif flags:
        from dgbench.parser import refuse_unknown

        refuse_unknown(parser, flags)
        parser.error(f"unrecognized arguments: {' '.join(flags)}")
    elif None in names:
        parser.error("--table needs --target and --environment-column")
    else:
        columns = icp_report.read(options.table, *names, options.variables)
    result = icp.icp(
        *columns[:3],
        variables=columns.variables,
        groups=columns.groups,
        **{name: getattr(options, name) for name in _ICP_OPTIONS},
    )
    console = _console()
    icp_report.show(console, result, options.target, columns)
    if options.out is not None:
        written = icp_report.write(result, options.target, options.out)
        for path in written:
            console.print(f"Written: {path}", highlight=False, soft_wrap=True)
        if len(written) == 1:
            console.print(
                "No picture: it needs matplotlib, pip install 'dgbench[report]'.",
                highlight=False,
                markup=False,
            )
    return 0


def _screen(arguments: list[str]) -> int:
    """Runs an algorithm where the answer is known: dgbench screen --algo irm."""
    parser = argparse.ArgumentParser(
        prog="dgbench screen",
        description=f"{_screen.__doc__} Options of the algorithm are --algo.NAME VALUE.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--algo", required=True, help="the algorithm")
    add(
        "--examples",
        nargs="+",
        help="linear unit tests: 1 2 3 1s 2s 3s (all of them); models of the IRM paper: FOU to PES",
    )
    add("--environments", type=_at_least_one, default=3, help="of each example (3)")
    add("--data-seeds", type=_at_least_one, default=3, help="data sets of each example (3)")
    add("--draws", type=_at_least_one, default=2, help="settings to choose from (2)")
    add("--samples", type=_at_least_one, default=1000, help="rows of each environment (1000)")
    add("--steps", type=_at_least_one, default=10_000, help="optimiser steps (10000)")
    add("--out", type=Path, help="folder for screen.json")
    options, flags = parser.parse_known_args(arguments)
    if "." not in options.algo:
        registry.require("algorithm", options.algo)
    from dgbench.parser import refuse_unknown

    refuse_unknown(parser, [flag for flag in flags if "." not in flag])
    from datamodules.scm_presets import EXAMPLES
    from dgbench import screen, screen_report

    console = _console()
    plan = screen.Plan(
        algo=options.algo,
        examples=tuple(options.examples or EXAMPLES),
        options=screen.algorithm_options(options.algo, flags),
        environments=options.environments,
        data_seeds=options.data_seeds,
        draws=options.draws,
        samples=options.samples,
        steps=options.steps,
    )
    with console.status("") as status:
        lines = screen.run(plan, status.update)
    screen_report.show(console, plan, lines)
    if options.out is not None:
        written = screen_report.write(plan, lines, options.out)
        console.print(f"Written: {written}", highlight=False, soft_wrap=True)
    return 0


def _console() -> Console:
    from rich.console import Console

    # Of several processes that train together, the first one speaks.
    return Console(quiet=int(os.environ.get("LOCAL_RANK", "0")) > 0)


_COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "fit": _fit,
    "test": _test,
    "predict": _predict,
    "sweep": _sweep,
    "reproduce": _reproduce,
    "list": _list,
    "leaderboard": _leaderboard,
    "inspect": _inspect,
    "icp": _icp,
    "screen": _screen,
}
