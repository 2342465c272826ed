"""The runs of a sweep: which they are, and where each leaves its record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from dgbench import BENCHMARK_VERSION, registry
from dgbench.arguments import as_flags
from dgbench.errors import UsageError
from dgbench.settings import Settings, resolve_arguments
from dgbench.sweep.design import Sweep
from dgbench.sweep.tuning import preferred
from dgbench.training import build_data
from leaderboard import records
from leaderboard.estimands import TUNING_RULES


@dataclass(frozen=True)
class PlannedRun:
    """One run, as ``fit`` would train it.

    Attributes:
        settings: resolved, environments by name.
        folder: of its record.
        flags: of the ``fit`` that trains it.
    """

    settings: Settings
    folder: Path
    flags: tuple[str, ...]

    @property
    def title(self) -> str:
        """What tells it from the others, in words."""
        settings = self.settings
        held_out = " ".join(map(str, settings.test_env))
        draw = f", draw {settings.hparams_seed}" if settings.hparams_seed else ""
        return (
            f"{settings.algo['name']} on {settings.data['name']}, {held_out} held out, "
            f"trial {settings.trial_seed}{draw}"
        )


def planned_run(settings: Settings, flags: list[str]) -> PlannedRun:
    """Finds the place of a run, and makes it one that goes on with what is there.

    Args:
        settings: the resolved run.
        flags: of the ``fit`` that trains it.

    Raises:
        DataError: for environments that the data set has not.
    """
    return _placed(settings, flags, *_environments(settings))


def _placed(
    settings: Settings, flags: list[str], test_env: list[str], train_env: list[str]
) -> PlannedRun:
    identity = records.run_id(BENCHMARK_VERSION, settings.deciding(test_env, train_env))
    folder = records.run_folder(
        settings.out, settings.data["name"], settings.algo["name"], identity
    )
    settings = replace(settings, test_env=list(test_env), resume="auto")
    return PlannedRun(settings, folder, (*flags, "--resume=auto"))


def refuse_several_devices(runs: Iterable[PlannedRun], instead: str) -> None:
    """A worker has one device; for a second one Lightning would start its launcher again.

    Args:
        runs: what workers are to train.
        instead: what to do, as the end of a sentence.

    Raises:
        UsageError: when a run asks for several.
    """
    for run in runs:
        for option in ("devices", "num_nodes"):
            given = run.settings.trainer.get(option, 1)
            if _count(given) > 1:
                raise UsageError(
                    f"--trainer.{option} {given}: a worker trains each run on one device, and "
                    f"there are several workers. Leave it out, or {instead}."
                )


def _count(devices: int | str | list[int]) -> int:
    """How many there are at least, as Lightning reads it; those that a worker can see are one."""
    if isinstance(devices, int):
        return devices
    if isinstance(devices, str):
        listed = [part for part in devices.split(",") if part]
        return int(devices) if devices.isdigit() else len(listed)
    return len(devices)


class Plan(NamedTuple):
    """The runs of a sweep.

    Attributes:
        runs: trial by trial, so that a stopped sweep has all algorithms alike.
        to_come: how many more there will be once a draw is chosen.
        left_out: what cannot be run, and why.
    """

    runs: list[PlannedRun]
    to_come: int
    left_out: list[str]


@dataclass(frozen=True)
class _Cell:
    """The runs that differ in seeds alone.

    Attributes:
        flags: that they share.
        settings: of trial 0 with the default hyper-parameters.
        test_env: names of the environments held out.
        train_env: names of those trained on.
    """

    flags: list[str]
    settings: Settings
    test_env: list[str]
    train_env: list[str]

    def run(self, trial: int, hparams_seed: int) -> PlannedRun:
        """One of them."""
        settings = replace(self.settings.drawn(hparams_seed), trial_seed=trial, data_seed=trial)
        seeds = {"trial_seed": trial, "data_seed": trial, "hparams_seed": hparams_seed}
        flags = [*self.flags, *as_flags(seeds)]
        return _placed(settings, flags, self.test_env, self.train_env)

    def runs(self, sweep: Sweep, trial: int) -> list[PlannedRun]:
        """Those of a trial; none as long as the draw to repeat is not chosen."""
        if sweep.estimand == "search-again" or sweep.draws == 1 or trial == 0:
            return [self.run(trial, seed) for seed in sweep.hparams_seeds(trial)]
        first = {seed: self.run(0, seed).folder for seed in sweep.hparams_seeds(0)}
        chosen = preferred(first, self.settings.selection)
        return [] if chosen is None else [self.run(trial, chosen)]


def plan(sweep: Sweep, out: str) -> Plan:
    """The runs of a sweep that are known by now.

    Args:
        sweep: what to run.
        out: folder of the records; where draws are chosen once, finished ones in it are read.

    Raises:
        UsageError: for names, options and values that are not allowed.
        DataError: for environments that a data set has not.
    """
    cells: list[_Cell] = []
    left_out: list[str] = []
    for dataset in sweep.datasets:
        for algo in sweep.algos:
            for varied in sweep.variations():
                cells += _cells(sweep, out, dataset, algo, varied, left_out)
    found = [cell.runs(sweep, trial) for trial in range(sweep.trials) for cell in cells]
    return Plan(
        [run for runs in found for run in runs],
        sum(not runs for runs in found),
        list(dict.fromkeys(left_out)),
    )


def _cells(
    sweep: Sweep, out: str, dataset: str, algo: str, varied: list[str], left_out: list[str]
) -> Iterator[_Cell]:
    protocol = {} if sweep.protocol is None else {"protocol": sweep.protocol}
    named: dict[str, Any] = {"data": {"name": dataset}, "algo": algo, **protocol, "out": out}
    flags = [*as_flags(named), *sweep.options, *varied]
    settings = resolve_arguments([*flags, "--test-env=0"])
    _refuse_to_tune(sweep, settings)
    algorithm: Any = registry.load("algorithm", algo)
    for held_out in _held_out(sweep, settings):
        own = replace(settings, test_env=list(held_out))
        test_env, train_env = _environments(own)
        if len(train_env) < algorithm.minimum_environments:
            left_out.append(
                f"{algo} on {dataset} without {' and '.join(test_env)}: it needs "
                f"{algorithm.minimum_environments} environments to train on, and "
                f"{len(train_env)} would be left"
            )
        else:
            tested = [f"--test-env={name}" for name in test_env]
            yield _Cell([*flags, *tested], own, test_env, train_env)


def _environments(settings: Settings) -> tuple[list[str], list[str]]:
    """Names of the environments that a run holds out and trains on."""
    data = build_data(settings)
    names = data.environment_names
    return (
        [names[index] for index in data.test_environments],
        [names[index] for index in data.train_environments],
    )


def _refuse_to_tune(sweep: Sweep, settings: Settings) -> None:
    if sweep.estimand == "search-again" or sweep.draws == 1:
        return
    if settings.selection not in TUNING_RULES:
        raise UsageError(
            f"The estimand tune-once chooses between draws by the runs' own rule, and "
            f"{settings.selection} chooses between none. Add --selection train_val, or search "
            "again per trial."
        )
    if sweep.test_envs == "pairs":
        raise UsageError(
            "The estimand tune-once chooses by train_val or oracle, which read no pairs. Leave out "
            "--test-envs pairs, or search again per trial."
        )


def _held_out(sweep: Sweep, settings: Settings) -> Iterator[tuple[int | str, ...]]:
    if isinstance(sweep.test_envs, tuple):
        yield from sweep.test_envs
        return
    count = len(build_data(settings).environment_names)
    yield from combinations(range(count), 1)
    if sweep.test_envs == "pairs":
        yield from combinations(range(count), 2)
