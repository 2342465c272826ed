"""From names, configuration files and flags to one resolved run.

Later wins: the signatures' defaults, ``protocol.yaml``, ``<algorithm>.yaml``, ``--config`` files,
flags. The first phase reads names only and imports nothing heavy; the second imports the two chosen
classes and takes their options from their signatures.
"""

from __future__ import annotations

import contextlib
import io
from argparse import ArgumentError
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import yaml

from dgbench import registry
from dgbench.arguments import as_options, long_form, sorted_out
from dgbench.contents import by_content
from dgbench.errors import UsageError
from dgbench.parser import (
    DEFAULT_OUT,
    Environments,
    Logger,
    build_inspect_parser,
    build_parser,
    in_our_words,
    refuse_unknown,
    show_values,
)
from dgbench.protocols import Names, configs, names_of
from dgbench.search_space import Choice, Range, draw, hyperparameters
from dgbench.search_spaces import SearchSpace, read
from dgbench.source import hashes
from dgbench.trust import refuse_unnamed_code
from dgbench.yaml_files import read_yaml
from leaderboard import records
from leaderboard.records import SelectionRule

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# What of the Trainer decides the numbers, and so belongs to the record.
_DECIDES_NUMBERS = ("precision", "deterministic", "gradient_clip_val", "gradient_clip_algorithm")
_HELP = {"--help", "-h"}
# What of a run's configuration says which data it has.
_DATA_KEYS = ("data", "protocol", "test_env", "trial_seed", "data_seed")
# Lightning's short names: one precision must not have two run_ids.
_PRECISIONS = {"16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}


@dataclass(frozen=True)
class Settings:
    """One resolved run: what is trained and measured, and where that leaves its traces.

    Attributes:
        algo: name and options of the algorithm.
        data: name and options of the data set.
        network: options of the network.
        protocol: name of the protocol whose files were applied.
        test_env: environments held out, indices or names.
        train_env: environments trained on; None means all others.
        trial_seed: decides initialisation and order of batches.
        data_seed: decides environments and splits; the trial seed where nothing else is said, so
            that what is told from several trials holds for other data of the same kind, too. The
            algorithms of a trial share it.
        hparams_seed: the draw of the searched options; 0 leaves them as protocol and flags say.
        search: what they are drawn from: the ranges of this algorithm's options, as its signature
            and the search space say, without those that a flag or a file of the user's fixes.
        steps: optimiser steps.
        check_every: steps between two checks.
        first_check: step behind which the first check comes; None is ``check_every``.
        selection: rule that picks the check whose numbers are the run's.
        matmul_precision: of products of float32 matrices, as torch names it; what they are computed
            in depends on the machine, unless it is ``highest``.
        trainer: arguments of Lightning's Trainer.
        out: folder under which records are written.
        logger: Lightning's loggers to add.
        resume: run folder to go on with; ``last``; or ``auto``, which goes on with a run of these
            very settings where there is one.
        force: run again what is finished.
        check_all: measure every environment and split at every check.
        save_predictions: keep the logits of the last and of the selected check.
        source: hashes of the code of an algorithm and a data set that are not the suite's, by
            ``algo`` and ``data``, see :mod:`dgbench.source`; no option, but what is there.
        files: configuration files that were applied, in order.
    """

    algo: dict[str, Any]
    data: dict[str, Any]
    network: dict[str, Any]
    protocol: str
    test_env: list[int | str]
    train_env: list[int | str] | None
    trial_seed: int
    data_seed: int
    hparams_seed: int
    search: SearchSpace
    steps: int
    check_every: int
    first_check: int | None
    selection: SelectionRule
    matmul_precision: Literal["highest", "high", "medium"]
    trainer: dict[str, Any]
    out: str = DEFAULT_OUT
    logger: list[Logger] = field(default_factory=list)
    resume: str | None = None
    force: bool = False
    check_all: bool = False
    save_predictions: bool = False
    source: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    @property
    def names(self) -> dict[str, str]:
        """Names of the algorithm and of the data set, as ``algo`` and ``data``."""
        return {"algo": self.algo["name"], "data": self.data["name"]}

    def deciding(self, test_env: Sequence[str], train_env: Sequence[str]) -> dict[str, Any]:
        """All that decides the numbers, as the record keeps it and ``run_id`` hashes it.

        Args:
            test_env: names of the held-out environments, as the data set resolved them.
            train_env: names of the training environments.
        """
        trainer = {key: self.trainer[key] for key in _DECIDES_NUMBERS if key in self.trainer}
        from dgbench.networks import NetworkOptions

        data_set: Any = registry.load("data set", self.data["name"])
        located = data_set.location_options
        return {
            "algo": {**self.algo, **self._algorithm_files()},
            "data": {key: value for key, value in self.data.items() if key not in located},
            "network": NetworkOptions(**self.network).deciding(),
            "protocol": self.protocol,
            "test_env": list(test_env),
            "train_env": list(train_env),
            "trial_seed": self.trial_seed,
            "data_seed": self.data_seed,
            "hparams_seed": self.hparams_seed,
            "steps": self.steps,
            "check_every": self.check_every,
            **self._own_first_check(),
            "selection": self.selection,
            "matmul_precision": self.matmul_precision,
            "precision": "32-true",
            "deterministic": False,
            **trainer,
            # Left out for classes of the suite, for which the benchmark version stands.
            **({"source": self.source} if self.source else {}),
        }

    def _own_first_check(self) -> dict[str, int]:
        """The first check, where it is not that of ``check_every``."""
        if self.first_check is None or self.first_check == self.check_every:
            return {}
        return {"first_check": self.first_check}

    def _algorithm_files(self) -> dict[str, str]:
        """Of the algorithm's files, which decide numbers by what is in them."""
        algorithm: Any = registry.load("algorithm", self.algo["name"])
        return {
            name: by_content(f"--algo.{name}", self.algo[name], "a file")
            for name in algorithm.file_options
            if self.algo.get(name) is not None
        }

    def locations(self) -> dict[str, Any]:
        """Where the run's source files are, for going on with it; decides no number."""
        data_set: Any = registry.load("data set", self.data["name"])
        given = {name: self.data.get(name) for name in data_set.location_options}
        return {
            name: str(Path(value).expanduser().resolve())
            if isinstance(value, str) and Path(value).expanduser().exists()
            else value
            for name, value in given.items()
            if value
        }

    def drawn(self, hparams_seed: int) -> Settings:
        """These settings with the searched options of a draw.

        Args:
            hparams_seed: which draw; 0 leaves every option as it is.
        """
        sections = {"algo": self.algo, "data": self.data, "network": self.network}
        for name, value in draw(self.search.ranges, hparams_seed).items():
            section, _, option = name.partition(".")
            sections[section] = {**sections[section], option: value}
        return replace(
            self,
            algo=sections["algo"],
            data=sections["data"],
            network=sections["network"],
            hparams_seed=hparams_seed,
        )


def resolve(config: Mapping[str, Any]) -> Settings:
    """Resolves a run from nested options, named as in a configuration file.

    Args:
        config: ``algo`` (a name, or a mapping with ``name`` and options), ``dataset`` or ``data``,
            ``test_env`` and whatever else a file may say.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    layer = long_form(config)
    return _second_phase(names_of([layer], []), [layer], [])


def resolve_arguments(arguments: Sequence[str]) -> Settings:
    """Resolves a run from the arguments of ``fit``.

    Args:
        arguments: the command line after ``fit``.

    Raises:
        UsageError: for names, options and values that are not allowed.
        SystemExit: with 0 after printing help or a configuration.
    """
    flags, files, resume = sorted_out(arguments)
    layers = [long_form(read_yaml(Path(file), "--config")) for file in files]
    if resume == "auto":
        layers.insert(0, {"resume": resume})
    elif resume is not None:
        layers.insert(0, _resumed(resume, flags))
    names = names_of(layers, flags)
    if _HELP & set(flags) and names.algo is None:
        build_parser().print_help()
        raise SystemExit(0)
    return _second_phase(names, layers, flags, tuple(files))


@dataclass(frozen=True)
class DataSettings:
    """One resolved data set, and what to do with what is found in it.

    Attributes:
        data: name and options of the data set.
        protocol: name of the protocol whose file was applied.
        test_env: environments held out, indices or names.
        data_seed: decides environments and splits.
        out: folder of the pictures.
        environments: whether to compare the training environments.
        json: whether to print JSON.
    """

    data: dict[str, Any]
    protocol: str
    test_env: list[int | str]
    data_seed: int
    out: str
    environments: bool
    json: bool


def resolve_inspection(arguments: Sequence[str]) -> DataSettings:
    """Resolves a data set from the arguments of ``inspect``.

    Args:
        arguments: the command line after ``inspect``.

    Raises:
        UsageError: for names, options and values that are not allowed.
        SystemExit: with 0 after printing help.
    """
    flags, files, _ = sorted_out(arguments)
    layers = [long_form(read_yaml(Path(file), "--config")) for file in files]
    names = names_of(layers, flags)
    named = any(flag.startswith("--data.name=") for flag in flags)
    if _HELP & set(flags) and not named:
        build_inspect_parser().print_help()
        raise SystemExit(0)
    names.require_data()
    suite = {source: _of_data(layer) for source, layer in _suite(names).items()}
    own = [_of_data(layer) for layer in layers]
    if _HELP & set(flags):
        parser = build_inspect_parser(names)
        show_values(parser, {**suite, **_of_files(files, own)})
        _print_help(parser, flags)
    command = f"inspect --dataset {names.dataset}"
    values = _parsed(build_inspect_parser, names, [*suite.values()], own, flags, command)
    values["test_env"] = [] if values["test_env"] is None else _listed(values["test_env"])
    values["data_seed"] = _data_seed(values)
    del values["trial_seed"]
    return DataSettings(**values)


def recorded_config(
    settings: Mapping[str, Any],
    locations: Mapping[str, Any] | None = None,
    *,
    flags: Sequence[str] = (),
    source: str = "The record",
) -> dict[str, Any]:
    """A record's settings as a configuration: what :meth:`Settings.deciding` wrote, taken back.

    Whatever a record says becomes settings by this one way, so that none imports code unasked.

    Args:
        settings: ``settings`` of a ``run.json``.
        locations: where its source files are, as :meth:`Settings.locations` said.
        flags: what the user typed, in long forms, among it the names of code to be imported.
        source: where the record is, for messages.

    Raises:
        UsageError: when it names code from elsewhere that the flags do not name.
    """
    trainer = {key: settings[key] for key in _DECIDES_NUMBERS if key in settings}
    kept = settings.keys() - {*_DECIDES_NUMBERS, "source"}
    # Nothing that decides numbers is a location: the settings, which the run id covers, win.
    data = {**(locations or {}), **settings["data"]}
    config = {key: settings[key] for key in settings if key in kept}
    config = {**config, **_left_out(settings), "data": data, "trainer": trainer}
    refuse_unnamed_code(config, flags, source)
    return config


def _left_out(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a record leaves out because it does nothing there, whatever its protocol says of it."""
    from dgbench.networks import NetworkOptions

    return {
        "first_check": settings.get("first_check"),
        "network": {**asdict(NetworkOptions()), **settings["network"]},
    }


def resolve_recorded(run: records.RunJson, arguments: Sequence[str]) -> Settings:
    """Resolves a recorded run anew, with options on top.

    Args:
        run: content of its ``run.json``. Source files are looked for where it had them, or, where
            these are not on this machine, wherever they are by default.
        arguments: options of ``fit``.

    Raises:
        UsageError: for names, options and values that are not allowed.
    """
    flags, _, _ = sorted_out(arguments)
    locations = run["provenance"].get("locations", {})
    here = {name: path for name, path in locations.items() if Path(str(path)).exists()}
    layer = recorded_config(run["settings"], here, flags=flags)
    return _second_phase(names_of([layer], flags), [layer], flags)


def _resumed(resume: str, flags: Sequence[str]) -> dict[str, Any]:
    """The configuration of the run to go on with."""
    outs = [flag.partition("=")[2] for flag in flags if flag.startswith("--out=")]
    folder = Path(resume)
    if resume == "last":
        out = Path(outs[-1] if outs else DEFAULT_OUT)
        folders = records.find_runs([out]) if out.exists() else []
        open_runs = [found for found in folders if not (found / records.DONE_FILE).exists()]
        if not open_runs:
            raise UsageError(
                f"--resume last: no run under {out} is unfinished. Name one, or --out."
            )
        folder = max(open_runs, key=lambda found: (found / records.RUN_FILE).stat().st_mtime)
    run = records.read_run(folder, repaired=True)
    locations = run.run["provenance"].get("locations", {})
    return {
        **recorded_config(run.run["settings"], locations, flags=flags, source=str(folder)),
        "out": str(folder.resolve().parents[2]),
        "resume": str(folder.resolve()),
        "check_all": _measured_all(run),
        "save_predictions": run.run.get("saves_predictions", False),
    }


def _measured_all(run: records.Run) -> bool:
    """Whether a run measures every split at every check, which no setting of a record says."""
    splits = [split for e in run.run["environments"] for split in e["splits"].values()]
    expected = sum(split["n"] > 0 for split in splits)
    return bool(run.checks) and len(run.checks[0]["splits"]) == expected


def _second_phase(
    names: Names,
    layers: Sequence[Mapping[str, Any]],
    flags: Sequence[str],
    files: tuple[str, ...] = (),
) -> Settings:
    names.require()
    suite = _suite(names)
    if _HELP & set(flags):
        parser = build_parser(names)
        show_values(parser, {**suite, **_of_files(files, layers)})
        assert names.algo is not None
        space = read(parser.get_default("search_space"))
        ranges = "; ".join(f"{n} {r}" for n, r in _with_stated(space, names.algo).items())
        parser.epilog = f"Search ranges of the space {space.name}: {ranges}."
        _print_help(parser, flags)
    command = f"fit --algo {names.algo}"
    values = _parsed(build_parser, names, [*suite.values()], layers, flags, command)
    options = [*flags, *(option for layer in layers for option in as_options(layer))]
    values["search"] = _search(values, {option.partition("=")[0] for option in options})
    return _settings(values, (*suite, *files))


def _suite(names: Names) -> dict[str, dict[str, Any]]:
    """The suite's configurations, by their files' paths as a reader knows them."""
    return {str(f.relative_to(configs().parent)): layer for f, layer in names.layers().items()}


def _of_files(
    files: Sequence[str], layers: Sequence[Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """The user's configurations by file; the first layer may be that of a run to go on with."""
    return dict(zip(files, layers[len(layers) - len(files) :], strict=True))


def _of_data(layer: Mapping[str, Any]) -> dict[str, Any]:
    return {key: layer[key] for key in _DATA_KEYS if key in layer}


def _print_help(parser: ArgumentParser, flags: Sequence[str]) -> NoReturn:
    refuse_unknown(parser, flags)
    parser.print_help()
    raise SystemExit(0)


def _parsed(
    build: Callable[[Names | None], ArgumentParser],
    names: Names,
    suite: Sequence[Mapping[str, Any]],
    layers: Sequence[Mapping[str, Any]],
    flags: Sequence[str],
    command: str,
) -> dict[str, Any]:
    """What a parser makes of the suite's configurations, the user's, and flags, in that order."""
    options = [*flags, *(option for layer in layers for option in as_options(layer))]
    # Once without the classes: most slips are found before torch is imported.
    refuse_unknown(build(None), [option for option in options if "." not in option])
    parser = build(names)
    refuse_unknown(parser, options)
    try:
        texts = [yaml.safe_dump(dict(layer), sort_keys=False) for layer in (*suite, *layers)]
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser.parse_args([*(f"--config={text}" for text in texts), *flags])
    except Exception as error:
        if not _is_about_arguments(error):
            raise
        raise UsageError(in_our_words(error, command)) from error
    values: dict[str, Any] = parsed.as_dict()
    values.pop("config")
    return values


def _search(values: Mapping[str, Any], fixed: Collection[str]) -> SearchSpace:
    """The ranges of a run's options, without those that the user fixes."""
    space = read(values["search_space"])
    for name in space.ranges:
        section, _, option = name.partition(".")
        if section not in ("algo", "data", "network") or option not in values[section]:
            raise UsageError(
                f"The search space {space.name} has a range for {name}, which "
                f"{values['algo']['name']} on {values['data']['name']} has not. Name one with "
                "--search-space that has not either."
            )
    ranges = _with_stated(space, values["algo"]["name"])
    return replace(space, ranges={n: r for n, r in ranges.items() if f"--{n}" not in fixed})


def _with_stated(space: SearchSpace, algo: str) -> dict[str, Range | Choice]:
    """The ranges of a space, and those that an algorithm's signature states beside it."""
    options = hyperparameters(registry.load("algorithm", algo))
    stated = {f"algo.{p.name}": p.range for p in options if p.range is not None}
    return {**stated, **space.ranges}


def _is_about_arguments(error: Exception) -> bool:
    expected = ArgumentError | TypeError | ValueError | KeyError | OSError | yaml.YAMLError
    # A value of thousands of brackets is read by a parser that calls itself.
    return isinstance(error, expected | RecursionError)


def _settings(values: dict[str, Any], files: tuple[str, ...]) -> Settings:
    if values["test_env"] is None:
        raise UsageError(
            "Name the environment to hold out with --test-env: an index or a name, several times "
            f"for several. `dgbench list` shows those of {values['data']['name']}."
        )
    if values["hparams_seed"] < 0:
        raise UsageError(
            f"--hparams-seed is {values['hparams_seed']}; it must be at least 0, which is the "
            "defaults."
        )
    for name in ("steps", "check_every", "first_check"):
        if values[name] is not None and values[name] < 1:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is {values[name]}; it must be at least 1.")
    values["data_seed"] = _data_seed(values)
    values["test_env"] = _listed(values["test_env"])
    values["train_env"] = None if values["train_env"] is None else _listed(values["train_env"])
    values["logger"] = list(dict.fromkeys(values["logger"] or []))
    trainer = {key: value for key, value in values["trainer"].items() if value is not None}
    if "precision" in trainer:
        given = str(trainer["precision"])
        trainer["precision"] = _PRECISIONS.get(given, given)
    values["trainer"] = trainer
    del values["search_space"]
    hparams_seed = values.pop("hparams_seed")
    settings = Settings(**values, hparams_seed=0, files=files)
    return replace(settings, source=hashes(settings.names)).drawn(hparams_seed)


def _data_seed(values: Mapping[str, Any]) -> int:
    """The data seed that was given, or the trial seed: another trial is one on other data."""
    given: int | None = values["data_seed"]
    trial: int = values["trial_seed"]
    return trial if given is None else given


def _listed(environments: Environments) -> list[int | str]:
    return list(environments) if isinstance(environments, list) else [environments]
