"""The parser of ``fit``, made from the signatures and docstrings of the classes it configures."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from argparse import ArgumentParser as PlainParser
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from dgbench import registry
from dgbench.errors import UsageError
from dgbench.protocols import DEFAULT_DATASET, Names, default_protocol
from leaderboard.records import SelectionRule

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

Logger = Literal["csv", "tensorboard", "wandb"]
Environments = list[int | str] | int | str

DEFAULT_OUT = "runs"

# What of Lightning's Trainer a flag of ours decides.
_INSTEAD = {
    "accumulate_grad_batches": "--data.batch_size: a penalty is not the sum of its parts",
    "check_val_every_n_epoch": "--check-every",
    "default_root_dir": "--out",
    "fast_dev_run": "--steps 3",
    "limit_train_batches": "--steps",
    "log_every_n_steps": "--check-every",
    "logger": "--logger",
    "max_epochs": "--steps",
    "max_steps": "--steps",
    "max_time": "--steps",
    "min_epochs": "--steps",
    "min_steps": "--steps",
    "overfit_batches": "--steps",
    "val_check_interval": "--check-every",
}
# What recording, checks and batches that are functions of the step leave no choice about.
_SET_HERE = {
    "barebones",
    "callbacks",
    "enable_autolog_hparams",
    "enable_checkpointing",
    "enable_model_summary",
    "enable_progress_bar",
    "inference_mode",
    "limit_predict_batches",
    "limit_test_batches",
    "limit_val_batches",
    "model_registry",
    "num_sanity_val_steps",
    "reload_dataloaders_every_n_epochs",
    "use_distributed_sampler",
}
# Options of every data set that are flags of the run.
_HAVE_FLAGS = {"test_envs", "train_envs", "data_seed", "trial_seed", "steps"}


def build_parser(names: Names | None = None) -> ArgumentParser:
    """Makes the parser; of the run's own flags alone as long as no names are known.

    Args:
        names: algorithm and data set, whose options are added; this imports them and Lightning.
    """
    from jsonargparse import ArgumentParser

    title = "Trains one run and leaves its record."
    parser = ArgumentParser(prog="dgbench fit", description=title, exit_on_error=False)
    add = parser.add_argument
    add("--config", action="config", help="YAML file of options; flags override it.")
    known = ", ".join(registry.entries("algorithm"))
    add("--algo.name", required=True, help=f"Short: --algo. Algorithm: {known}; or package.Class.")
    _add_data(parser, names)
    add(
        "--train-env",
        type=Environments,
        help="Environment trained on; repeatable; default: all others.",
    )
    add(
        "--hparams-seed",
        type=int,
        default=0,
        help="Draw of the searched hyper-parameters; 0 takes the defaults.",
    )
    add("--search-space", default="signatures", help="What they are drawn from, or a file.")
    add("--steps", type=int, default=1000, help="Optimiser steps.")
    add("--check-every", type=int, default=100, help="Steps between two checks.")
    add(
        "--first-check",
        type=int | None,
        help="Step behind which the first check comes; default: as --check-every.",
    )
    add("--selection", type=SelectionRule, default="train_val", help="Rule that picks the check.")
    add(
        "--matmul-precision",
        type=Literal["highest", "high", "medium"],
        default="highest",
        help="Of products of float32 matrices. Only highest is float32 everywhere: medium is "
        "bfloat16 on processors with AMX. The record says what it was.",
    )
    add("--out", default=DEFAULT_OUT, help="Folder of the records.")
    add("--logger", type=list[Logger], help="csv, tensorboard or wandb; repeatable.")
    add("--resume", type=str | None, help="Run folder to go on with, 'last' or 'auto'.")
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
    add(
        "--save-predictions",
        type=bool,
        nargs="?",
        const=True,
        default=False,
        help="Keep the logits behind the numbers of the last and of the selected check.",
    )
    if names is None or names.algo is None:
        parser.epilog = (
            "fit --algo NAME --help shows the options of an algorithm, its data set and network."
        )
    else:
        _add_classes(parser, names.algo, names.dataset)
    return parser


def build_inspect_parser(names: Names | None = None) -> ArgumentParser:
    """Makes the parser of ``inspect``; of its own flags alone as long as no names are known.

    Args:
        names: the data set, whose options are added; this imports it and Lightning.
    """
    from jsonargparse import ArgumentParser

    title = "Shows what a data set holds and what is wrong with it."
    parser = ArgumentParser(prog="dgbench inspect", description=title, exit_on_error=False)
    add = parser.add_argument
    add("--config", action="config", help="YAML file of options, one of `fit` too; flags win.")
    _add_data(parser, names)
    add("--out", default="inspection", help="Folder of the pictures, in one of the set's name.")
    for flag, what in (
        ("--environments", "Compare the training environments: labels, and what views say."),
        ("--json", "Print JSON."),
    ):
        add(flag, type=bool, nargs="?", const=True, default=False, help=what)
    if names is None:
        parser.epilog = "inspect --dataset NAME --help shows the options of a data set."
    else:
        add_set = parser.add_class_arguments
        add_set(
            registry.load("data set", names.dataset), "data", skip=_HAVE_FLAGS, instantiate=False
        )
        _hide_groups(parser)
    return parser


def show_values(parser: ArgumentParser, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Lets help show what configurations say in place of the signatures' defaults, and which does.

    Args:
        parser: of ``fit`` or ``inspect``, with its classes.
        layers: nested options by the configuration's name, later ones winning.
    """
    values: dict[str, tuple[Any, str]] = {}
    for source, content in layers.items():
        for key, value in content.items():
            parts = value if isinstance(value, Mapping) else {"": value}
            values |= {f"{key}.{n}" if n else key: (part, source) for n, part in parts.items()}
    for action in parser._actions:
        if action.dest in values:
            value, source = values[action.dest]
            parser.set_defaults({action.dest: value})
            # The names are why these configurations are read, not what they set.
            if action.dest not in ("algo.name", "data.name", "protocol"):
                action.help = f"{action.help} Set by {source}."


def refuse_unknown(parser: PlainParser, arguments: Sequence[str]) -> None:
    """Refuses options that the parser does not have.

    Raises:
        UsageError: with the options that come close and those beside it, or what to use instead.
    """
    shown = [action for action in parser._actions if action.help != SUPPRESS]
    spellings = [option for action in shown for option in action.option_strings]
    # jsonargparse adds a second spelling for lists, which ours make superfluous.
    known = [option for option in spellings if option.startswith("--") and option[-1] != "+"]
    for argument in arguments:
        flag = argument.partition("=")[0]
        if not flag.startswith("--") or flag in spellings:
            continue
        section, _, name = flag.removeprefix("--").partition(".")
        if section == "trainer" and name in _INSTEAD:
            raise UsageError(f"{flag} is decided by the protocol; use {_INSTEAD[name]} instead.")
        if section == "trainer" and name in _SET_HERE:
            raise UsageError(f"{flag} is set by dgbench itself, for every run; leave it out.")
        close = get_close_matches(flag, known, n=3, cutoff=0.6)
        siblings = [option for option in known if option.startswith(f"--{section}.")]
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        listed = ", ".join(siblings or (option for option in known if "." not in option))
        raise UsageError(f"There is no option {flag}.{hint} There are: {listed}.")


def in_our_words(error: Exception, command: str) -> str:
    """One line of jsonargparse's message, in the words of the command line.

    Args:
        error: what it raised.
        command: the command that shows the options.
    """
    reason = re.sub(r'^Parser key "([^"]*)"', r"--\1", " ".join(str(error).split()))
    return f"{reason}. `dgbench {command} --help` shows every option and its type."


def _add_data(parser: ArgumentParser, names: Names | None) -> None:
    """Adds what names the data: set, protocol, environments held out and seeds."""
    add = parser.add_argument
    sets = ", ".join(registry.entries("data set"))
    add("--data.name", default=DEFAULT_DATASET, help=f"Short: --dataset. Data set: {sets}.")
    add(
        "--protocol",
        default=names.protocol if names else default_protocol(DEFAULT_DATASET),
        help="Named, complete setting of the data set.",
    )
    add("--test-env", type=Environments, help="Environment held out, index or name; repeatable.")
    add("--trial-seed", type=int, default=0, help="Decides initialisation and batches.")
    add(
        "--data-seed",
        type=int | None,
        help="Decides environments and splits; default: the trial seed.",
    )


def _hide_groups(parser: ArgumentParser) -> None:
    """Hides the flags that read a whole group from a file: these names are our short forms."""
    for action in parser._actions:
        if action.dest in ("algo", "data", "network", "trainer"):
            action.help = SUPPRESS


def _add_classes(parser: ArgumentParser, algo: str, dataset: str) -> None:
    import pytorch_lightning as pl

    from dgbench.networks import NetworkOptions

    algorithm, data_set = registry.load("algorithm", algo), registry.load("data set", dataset)
    add = parser.add_class_arguments
    add(algorithm, "algo", skip={"network", "n_environments"}, instantiate=False)
    add(data_set, "data", skip=_HAVE_FLAGS, instantiate=False)
    add(NetworkOptions, "network", instantiate=False)
    add(pl.Trainer, "trainer", skip={*_INSTEAD, *_SET_HERE}, instantiate=False)
    # A run of a benchmark takes one device unless it is told otherwise, not every GPU it can see.
    parser.set_defaults({"trainer.devices": 1})
    _hide_groups(parser)
