"""What a sweep is: a file or flags, sorted out. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args

from dgbench import registry
from dgbench.arguments import as_flags, as_options
from dgbench.errors import UsageError, require
from dgbench.protocols import configs
from dgbench.yaml_files import read_yaml
from leaderboard import draws

Estimand = Literal["search-again", "tune-once"]
Environment = int | str
Stack = Literal["auto"] | int

_MOST_TRIALS = 1000
_INSTEAD = {
    "--algo": "--algos",
    "--algo.name": "--algos",
    "--dataset": "--datasets",
    "--data.name": "--datasets",
    "--test-env": "--test-envs",
    "--trial-seed": "--trials",
    "--data-seed": "--trials",
    "--hparams-seed": "--draws",
    "--resume": "nothing: a sweep goes on with what it finds",
    "--force": "another --out",
}


@dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
        datasets: names of data sets.
        algos: names of algorithms; ``all`` takes those of the suite.
        test_envs: ``all`` holds out each environment in turn; ``pairs`` also each two of them,
            which leave-one-out selection reads; or what each run holds out.
        trials: repetitions; trial t has t for its trial seed and its data seed, whatever the
            algorithm, so that algorithms are compared on the same data.
        draws: hyper-parameter draws; the first is what ``fit`` would use.
        estimand: what the spread over trials stands for. ``search-again``: every trial has draws of
            its own and is searched by itself, as in DomainBed. ``tune-once``: trial 0 is searched,
            and the draw that its own selection rule prefers is repeated with the other seeds.
        protocol: of every data set; None takes each one's own default.
        vary: options and the values that each takes, such as ``algo.penalty_weight``.
        options: options of ``fit`` that every run gets, as flags.
        stack: how many runs that differ in seeds and numbers alone are trained as one model, at the
            most; ``auto`` where that saves time. It decides how and not what, and no name.
    """

    datasets: tuple[str, ...]
    algos: tuple[str, ...]
    test_envs: Literal["all", "pairs"] | tuple[tuple[Environment, ...], ...] = "all"
    trials: int = 5
    draws: int = 1
    estimand: Estimand = "search-again"
    protocol: str | None = None
    vary: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    options: tuple[str, ...] = ()
    stack: Stack = 1

    def variations(self) -> list[list[str]]:
        """The flags of every combination of varied options; one empty list without any."""
        names = [name for name, _ in self.vary]
        values = product(*(values for _, values in self.vary))
        return [_flags(zip(names, combination, strict=True)) for combination in values]

    def hparams_seeds(self, trial: int) -> list[int]:
        """The draws of a trial, the defaults first.

        Args:
            trial: from 0.
        """
        return [draws.hparams_seed(trial, position) for position in range(self.draws)]

    def plain(self) -> dict[str, Any]:
        """What is run, as JSON has it."""
        content = asdict(self)
        del content["stack"]
        return content


def _flags(options: Any) -> list[str]:
    config: dict[str, Any] = {}
    for name, value in options:
        section, dot, option = name.partition(".")
        if dot:
            config.setdefault(section, {})[option] = value
        else:
            config[section] = value
    return as_flags(config)


def names() -> list[str]:
    """Names of the suite's sweeps."""
    return sorted(file.stem for file in (configs() / "sweeps").glob("*.yaml"))


def read(name: str) -> dict[str, Any]:
    """Reads a sweep's file.

    Args:
        name: of the suite, or the path of a YAML file.

    Raises:
        UsageError: when there is none of that name, or it cannot be read.
    """
    path = configs() / "sweeps" / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise UsageError(registry.unknown("sweep", name, names()) + " Or name a file.")
    return read_yaml(path)


def design(content: Mapping[str, Any], flags: Sequence[str] = ()) -> Sweep:
    """A sweep of what a file and flags say.

    Args:
        content: by the names of :class:`Sweep`'s attributes; ``options`` as a configuration of
            ``fit``, lists where there are several.
        flags: further options of ``fit``, which win over ``options``.

    Raises:
        UsageError: for what is missing, unknown or impossible.
    """
    known = [field.name for field in fields(Sweep)]
    for name in content:
        if name not in known:
            raise UsageError(registry.unknown("option of a sweep", name, known))
    content = {name: value for name, value in content.items() if value is not None}
    for name, (is_one, what) in _KINDS.items():
        require(name not in content or is_one(content[name]), name, content.get(name), what)
    options = (*as_flags(content.get("options") or {}), *flags)
    for flag in (*options, *as_options(content.get("vary") or {})):
        instead = _INSTEAD.get(flag.partition("=")[0])
        if instead is not None:
            raise UsageError(f"{flag} is decided by the sweep; use {instead}.")
    for name, what in (("datasets", "data set"), ("algos", "algorithm")):
        if not content.get(name):
            raise UsageError(f"Name at least one {what} with --{name}.")
    vary = {name: tuple(values) for name, values in (content.get("vary") or {}).items()}
    sweep = Sweep(
        datasets=_names("data set", content["datasets"]),
        algos=_names("algorithm", content["algos"]),
        test_envs=_test_envs(content.get("test_envs", "all")),
        trials=content.get("trials", Sweep.trials),
        draws=content.get("draws", Sweep.draws),
        estimand=content.get("estimand", Sweep.estimand),
        protocol=content.get("protocol"),
        vary=tuple(vary.items()),
        options=options,
        stack=content.get("stack", Sweep.stack),
    )
    _check(sweep)
    return sweep


def _is_name_or_names(value: Any) -> bool:
    return isinstance(value, str) or _is_list(value, str)


def _is_list(value: Any, kinds: type | UnionType) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, kinds) for each in value)


def _are_environments(value: Any) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(part, int | str) or _is_list(part, int | str) for part in parts)


def _is_varied(value: Any) -> bool:
    return isinstance(value, Mapping) and all(_is_list(each, object) for each in value.values())


# What a file may say for each name, if anything.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "datasets": (_is_name_or_names, "a name or a list of names"),
    "algos": (_is_name_or_names, "a name or a list of names"),
    "test_envs": (_are_environments, "all, pairs, or a list of environments"),
    "trials": (lambda value: isinstance(value, int), "a whole number"),
    "draws": (lambda value: isinstance(value, int), "a whole number"),
    "protocol": (lambda value: isinstance(value, str), "a name"),
    "options": (lambda value: isinstance(value, Mapping), "a mapping of options of fit"),
    "vary": (_is_varied, "a mapping of options to lists of values"),
}


def _check(sweep: Sweep) -> None:
    estimands = get_args(Estimand)
    require(sweep.trials >= 1, "trials", sweep.trials, "at least 1")
    require(sweep.trials <= _MOST_TRIALS, "trials", sweep.trials, f"at most {_MOST_TRIALS}")
    require(1 <= sweep.draws <= draws.LIMIT, "draws", sweep.draws, f"1 to {draws.LIMIT}")
    known_stack = sweep.stack == "auto" or (isinstance(sweep.stack, int) and sweep.stack >= 1)
    require(known_stack, "stack", sweep.stack, "auto or at least 1")
    require(sweep.estimand in estimands, "estimand", sweep.estimand, " or ".join(estimands))
    if sweep.vary and sweep.draws > 1:
        raise UsageError(
            "A sweep draws hyper-parameters or varies named ones; with both, runs of different "
            "values would count as one draw. Leave out --vary or --draws."
        )


def _names(kind: registry.Kind, given: str | Sequence[str]) -> tuple[str, ...]:
    listed = [given] if isinstance(given, str) else list(given)
    if listed == ["all"]:
        listed = list(registry.entries(kind))
    for name in listed:
        if "." not in name:
            registry.require(kind, name)
    return tuple(dict.fromkeys(listed))


def _test_envs(given: Any) -> Literal["all", "pairs"] | tuple[tuple[Environment, ...], ...]:
    if given == "all" or given == "pairs":
        every: Literal["all", "pairs"] = given
        return every
    listed = given if isinstance(given, list | tuple) else [given]
    held_out = [tuple(each) if isinstance(each, list | tuple) else (each,) for each in listed]
    return tuple(dict.fromkeys(held_out))
