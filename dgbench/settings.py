"""From names, configuration files and flags to one resolved run.

Later wins: the signatures' defaults, ``protocol.yaml``, ``<algorithm>.yaml``, ``--config`` files,
flags. The first phase reads names only and imports nothing heavy; the second imports the two chosen
classes and takes their options from their signatures.
"""

from __future__ import annotations

import contextlib
import io
import re
from argparse import SUPPRESS, ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from dgbench import registry
from dgbench.errors import UsageError
from leaderboard import records
from leaderboard.records import SelectionRule

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Logger = Literal["csv", "tensorboard", "wandb"]
Environments = list[int | str] | int | str

DEFAULT_DATASET = "colored_mnist"
DEFAULT_PROTOCOL = "digits"
CUSTOM_PROTOCOL = "custom"
DEFAULT_OUT = "runs"

# The Trainer's own budgets and outputs would contradict ours: each names the flag to use instead.
_OWNED_BY_US = {
    "max_steps": "--steps",
    "min_steps": "--steps",
    "max_epochs": "--steps",
    "min_epochs": "--steps",
    "max_time": "--steps",
    "fast_dev_run": "--steps 3",
    "overfit_batches": "--steps",
    "limit_train_batches": "--steps",
    "limit_val_batches": "--check-every",
    "limit_test_batches": "--check-every",
    "limit_predict_batches": "--check-every",
    "num_sanity_val_steps": "--check-every",
    "val_check_interval": "--check-every",
    "check_val_every_n_epoch": "--check-every",
    "accumulate_grad_batches": "--data.batch_size (penalties are not sums of their parts)",
    "logger": "--logger",
    "log_every_n_steps": "--check-every",
    "enable_checkpointing": "--out",
    "default_root_dir": "--out",
    "callbacks": "--config",
    "enable_progress_bar": "--out",
    "enable_model_summary": "--out",
    "barebones": "--out",
    "reload_dataloaders_every_n_epochs": "--steps",
    "use_distributed_sampler": "--data.batch_size",
    "enable_autolog_hparams": "--logger",
    "model_registry": "--out",
    "inference_mode": "--out",
}
# Options of every data set that are flags of the run.
_HAVE_FLAGS = {"test_envs", "train_envs", "data_seed", "trial_seed", "steps"}
# What of the Trainer decides the numbers, and so belongs to the record.
_DECIDES_NUMBERS = ("precision", "deterministic", "gradient_clip_val", "gradient_clip_algorithm")


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
        data_seed: decides environments and splits.
        hparams_seed: draw of hyper-parameters; 0 is the defaults.
        steps: optimiser steps.
        check_every: steps between two checks.
        selection: rule that picks the check whose numbers are the run's.
        matmul_precision: of float32 matrix products, as torch names it.
        trainer: arguments of Lightning's Trainer.
        out: folder under which records are written.
        logger: Lightning's loggers to add.
        resume: run folder to go on with, or ``last``.
        force: run again what is finished.
        check_all: measure every environment and split at every check.
        sources: configuration files that were applied, in order.
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
    steps: int
    check_every: int
    selection: SelectionRule
    matmul_precision: Literal["highest", "high", "medium"]
    trainer: dict[str, Any]
    out: str = DEFAULT_OUT
    logger: list[Logger] = field(default_factory=list)
    resume: str | None = None
    force: bool = False
    check_all: bool = False
    sources: tuple[str, ...] = ()

    def deciding(self, test_env: Sequence[str], train_env: Sequence[str]) -> dict[str, Any]:
        """All that decides the numbers, as the record keeps it and ``run_id`` hashes it.

        Args:
            test_env: names of the held-out environments, as the data set resolved them.
            train_env: names of the training environments.
        """
        trainer = {key: self.trainer[key] for key in _DECIDES_NUMBERS if key in self.trainer}
        return {
            "algo": self.algo,
            "data": self.data,
            "network": self.network,
            "protocol": self.protocol,
            "test_env": list(test_env),
            "train_env": list(train_env),
            "trial_seed": self.trial_seed,
            "data_seed": self.data_seed,
            "hparams_seed": self.hparams_seed,
            "steps": self.steps,
            "check_every": self.check_every,
            "selection": self.selection,
            "matmul_precision": self.matmul_precision,
            "precision": "32-true",
            "deterministic": False,
            **trainer,
        }


@dataclass(frozen=True)
class Names:
    """What the first phase reads: which algorithm, data set and protocol."""

    algo: str | None
    dataset: str
    protocol: str

    def require(self) -> None:
        """Refuses unknown names, importing nothing.

        Raises:
            UsageError: with the names there are.
        """
        if self.algo is None:
            known = ", ".join(registry.entries("algorithm"))
            raise UsageError(f"Name an algorithm with --algo. There are: {known}.")
        if "." not in self.algo:
            registry.require("algorithm", self.algo)
        if "." not in self.dataset:
            registry.require("data set", self.dataset)
        known_protocols = protocols(self.dataset)
        if known_protocols and self.protocol not in known_protocols:
            raise UsageError(
                registry.unknown(f"protocol of {self.dataset}", self.protocol, known_protocols)
            )

    def files(self) -> list[Path]:
        """The suite's configuration files for these names, in order of application."""
        folder = configs() / self.dataset / self.protocol
        files = [folder / "protocol.yaml", folder / f"{self.algo}.yaml"]
        return [file for file in files if file.exists()]


def configs() -> Path:
    """The folder of protocols: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "configs"
    return installed if installed.exists() else Path(__file__).parent.parent / "configs"


def protocols(dataset: str) -> list[str]:
    """Names of a data set's protocols; none for a data set from elsewhere.

    Args:
        dataset: the data set's name.
    """
    return sorted(file.parent.name for file in (configs() / dataset).glob("*/protocol.yaml"))


def resolve(config: Mapping[str, Any]) -> Settings:
    """Resolves a run from nested options, named as in a configuration file.

    Args:
        config: ``algo`` (a name, or a mapping with ``name`` and options), ``dataset`` or ``data``,
            ``test_env`` and whatever else a file may say.

    Raises:
        UsageError: for names and values that are not allowed.
    """
    content = dict(config)
    if "dataset" in content:
        content["data"] = {"name": content.pop("dataset"), **content.get("data", {})}
    if isinstance(content.get("algo"), str):
        content["algo"] = {"name": content["algo"]}
    return _second_phase(_names([content], []), [content], [])


def resolve_arguments(arguments: Sequence[str]) -> Settings:
    """Resolves a run from the arguments of ``fit``.

    Args:
        arguments: the command line after ``fit``.

    Raises:
        UsageError: for names, options and values that are not allowed.
        SystemExit: with 0 after printing help or a configuration.
    """
    flags, files, resume = _sorted_out(arguments)
    layers = [_read_yaml(Path(file)) for file in files]
    if resume is not None:
        layers.insert(0, _resumed(resume, flags))
    names = _names(layers, flags)
    if {"--help", "-h"} & set(flags) and names.algo is None:
        _parser().print_help()
        raise SystemExit(0)
    return _second_phase(names, layers, flags, tuple(files))


def recorded_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A record's settings as a configuration: what :meth:`Settings.deciding` wrote, taken back.

    Args:
        settings: ``settings`` of a ``run.json``.
    """
    trainer = {key: settings[key] for key in _DECIDES_NUMBERS if key in settings}
    others = {key: value for key, value in settings.items() if key not in _DECIDES_NUMBERS}
    return {**others, "trainer": trainer}


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
    config = recorded_config(records.read_run(folder).run["settings"])
    return {**config, "out": str(folder.resolve().parents[2]), "resume": str(folder.resolve())}


def _second_phase(
    names: Names,
    layers: Sequence[Mapping[str, Any]],
    flags: Sequence[str],
    sources: tuple[str, ...] = (),
) -> Settings:
    names.require()
    parser = _parser(names)
    _refuse_unknown(parser, flags)
    files = names.files()
    texts = [yaml.safe_dump(dict(layer), sort_keys=False) for layer in layers]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            parsed = parser.parse_args([f"--config={text}" for text in [*files, *texts]] + [*flags])
    except Exception as error:
        if not _is_about_arguments(error):
            raise
        raise UsageError(_flat(error, names)) from error
    values = parsed.as_dict()
    values.pop("config")
    applied = tuple(str(file.relative_to(configs().parent)) for file in files)
    return _settings(values, applied + sources)


def _is_about_arguments(error: Exception) -> bool:
    return isinstance(error, ArgumentError | TypeError | ValueError | KeyError | OSError)


def _settings(values: dict[str, Any], sources: tuple[str, ...]) -> Settings:
    if values["test_env"] is None:
        raise UsageError(
            "Name the environment to hold out with --test-env: an index or a name, several times "
            f"for several. `dgbench list` shows those of {values['data']['name']}."
        )
    if values["steps"] < 1 or values["check_every"] < 1:
        raise UsageError(
            f"--steps is {values['steps']} and --check-every is {values['check_every']}; "
            "both must be at least 1."
        )
    values["test_env"] = _listed(values["test_env"])
    values["train_env"] = None if values["train_env"] is None else _listed(values["train_env"])
    values["logger"] = list(dict.fromkeys(values["logger"] or []))
    values["trainer"] = {
        key: value for key, value in values["trainer"].items() if value is not None
    }
    return Settings(**values, sources=sources)


def _listed(environments: Environments) -> list[int | str]:
    return list(environments) if isinstance(environments, list) else [environments]


# Phase one: names


def _sorted_out(arguments: Sequence[str]) -> tuple[list[str], list[str], str | None]:
    """Long forms of the flags, with repeated ones as lists; configuration files; run to resume.

    Files are taken out and applied first, wherever they stand: placed last, one would silently
    override the flags before it.
    """
    long_forms = {"--algo": "--algo.name", "--dataset": "--data.name"}
    collected: dict[str, list[str]] = {
        flag: [] for flag in ("--test-env", "--train-env", "--logger", "--config", "--resume")
    }
    flags: list[str] = []
    for argument in _joined(arguments):
        flag, equals, value = argument.partition("=")
        if flag in collected:
            collected[flag].append(value)
        else:
            flags.append(long_forms.get(flag, flag) + equals + value)
    files, resume = collected.pop("--config"), collected.pop("--resume")
    flags += [f"{flag}={_as_list(values)}" for flag, values in collected.items() if values]
    return flags, files, resume[-1] if resume else None


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """Puts ``--flag value`` together as ``--flag=value`` for the flags read in phase one."""
    takes_value = {
        "--algo", "--algo.name", "--dataset", "--data.name", "--protocol", "--config",
        "--test-env", "--train-env", "--logger", "--resume", "--out",
    }  # fmt: skip
    remaining = iter(arguments)
    for argument in remaining:
        if argument in takes_value:
            value = next(remaining, None)
            if value is None:
                raise UsageError(f"{argument} needs a value; none was given.")
            yield f"{argument}={value}"
        else:
            yield argument


def _as_list(values: list[str]) -> str:
    items = [int(value) if value.isdigit() else value for value in values]
    return yaml.safe_dump(items, default_flow_style=True, width=10**6).strip()


def _names(files: Sequence[Mapping[str, Any]], arguments: Sequence[str]) -> Names:
    found: dict[str, str] = {}
    for content in files:
        for key, flag in (("algo", "--algo.name"), ("data", "--data.name")):
            section = content.get(key)
            if isinstance(section, Mapping) and "name" in section:
                found[flag] = str(section["name"])
        if "protocol" in content:
            found["--protocol"] = str(content["protocol"])
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if equals and flag in ("--algo.name", "--data.name", "--protocol"):
            found[flag] = value
    dataset = found.get("--data.name", DEFAULT_DATASET)
    usual = DEFAULT_PROTOCOL if protocols(dataset) else CUSTOM_PROTOCOL
    return Names(found.get("--algo.name"), dataset, found.get("--protocol", usual))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--config {path} cannot be read: {reason}. It must be a YAML file as --print_config "
            "writes it."
        ) from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path} holds no mapping of options; see --print_config.")
    return content


# Phase two: the parser, from the signatures


def _parser(names: Names | None = None) -> ArgumentParser:
    from jsonargparse import ArgumentParser

    title = "Trains one run and leaves its record."
    parser = ArgumentParser(prog="dgbench fit", description=title, exit_on_error=False)
    add = parser.add_argument
    add("--config", action="config", help="YAML file of options; flags override it.")
    known = ", ".join(registry.entries("algorithm"))
    add("--algo.name", required=True, help=f"Short: --algo. Algorithm: {known}; or package.Class.")
    sets = ", ".join(registry.entries("data set"))
    add("--data.name", default=DEFAULT_DATASET, help=f"Short: --dataset. Data set: {sets}.")
    add(
        "--protocol",
        default=names.protocol if names else DEFAULT_PROTOCOL,
        help="Named, complete setting of the data set.",
    )
    add("--test-env", type=Environments, help="Environment held out, index or name; repeatable.")
    add(
        "--train-env",
        type=Environments,
        help="Environment trained on; repeatable; default: all others.",
    )
    add("--trial-seed", type=int, default=0, help="Decides initialisation and batches.")
    add("--data-seed", type=int, default=0, help="Decides environments and splits.")
    add("--hparams-seed", type=int, default=0, help="Draw of hyper-parameters; 0: the defaults.")
    add("--steps", type=int, default=1000, help="Optimiser steps.")
    add("--check-every", type=int, default=100, help="Steps between two checks.")
    add("--selection", type=SelectionRule, default="train_val", help="Rule that picks the check.")
    add(
        "--matmul-precision",
        type=Literal["highest", "high", "medium"],
        default="highest",
        help="Of float32 matrix products.",
    )
    add("--out", default=DEFAULT_OUT, help="Folder of the records.")
    add("--logger", type=list[Logger], help="csv, tensorboard or wandb; repeatable.")
    add("--resume", type=str | None, help="Run folder to go on with, or 'last'.")
    add(
        "--force",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="Run again what is finished.",
    )
    add(
        "--check-all",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="Measure every split at every check.",
    )
    if names is None or names.algo is None:
        parser.epilog = (
            "fit --algo NAME --help shows the options of an algorithm, its data set and network."
        )
    else:
        _add_classes(parser, names.algo, names.dataset)
    return parser


def _add_classes(parser: ArgumentParser, algo: str, dataset: str) -> None:
    import pytorch_lightning as pl

    from dgbench.networks import NetworkOptions
    from dgbench.search_space import hyperparameters

    algorithm = registry.load("algorithm", algo)
    add = parser.add_class_arguments
    add(algorithm, "algo", skip={"network", "n_environments"}, instantiate=False)
    add(registry.load("data set", dataset), "data", skip=_HAVE_FLAGS, instantiate=False)
    add(NetworkOptions, "network", instantiate=False)
    add(pl.Trainer, "trainer", skip=set(_OWNED_BY_US), instantiate=False)
    # A run of a benchmark takes one device unless it is told otherwise, not every GPU it can see.
    parser.set_defaults({"trainer.devices": 1})
    for action in parser._actions:
        if action.dest in ("algo", "data", "network", "trainer"):
            # jsonargparse lets a group be read from a file under its name; our short forms of
            # these names mean something else.
            action.help = SUPPRESS
    searched = [f"{p.name} {p.range}" for p in hyperparameters(algorithm) if p.range is not None]
    parser.epilog = f"Search ranges: {'; '.join(searched)}."


def _refuse_unknown(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    shown = [action for action in parser._actions if action.help != SUPPRESS]
    known = [option for action in shown for option in action.option_strings]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if not flag.startswith("--") or flag in known:
            continue
        section, _, name = flag.removeprefix("--").partition(".")
        if section == "trainer" and name in _OWNED_BY_US:
            raise UsageError(
                f"{flag} is decided by the protocol; use {_OWNED_BY_US[name]} instead."
            )
        close = get_close_matches(flag, known, n=3, cutoff=0.6)
        siblings = [option for option in known if option.startswith(f"--{section}.")]
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        listed = ", ".join(siblings or (option for option in known if "." not in option))
        raise UsageError(f"There is no option {flag}.{hint} There are: {listed}.")


def _flat(error: Exception, names: Names) -> str:
    """One line of jsonargparse's message, in the words of the command line."""
    reason = re.sub(r'^Parser key "([^"]*)"', r"--\1", " ".join(str(error).split()))
    return f"{reason}. `dgbench fit --algo {names.algo} --help` shows every option and its type."
