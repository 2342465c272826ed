"""Checkpoints on their own: loading, scoring on a data set, labelling images."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.decoding import ImageError, read_image
from datamodules.preprocessing import Preprocessing
from datamodules.problems import some
from dgbench import BENCHMARK_VERSION
from dgbench.errors import UsageError
from dgbench.evaluation import all_splits, evaluate
from dgbench.intact import damage
from dgbench.networks import Network, NetworkOptions, build_network
from dgbench.runtime import matmul_precision, quiet_lightning
from dgbench.settings import Settings, recorded_config, resolve
from dgbench.training import build_data, build_trainer, make_algorithm
from dgbench.trust import refuse_unnamed_code
from leaderboard import records
from leaderboard.csv_files import csv_text
from leaderboard.reading import open_regular

# Characters of what torch says of a damaged file.
_SHOWN = 200
# Numbers of an input: of a colour image of 8192 x 8192 pixels, and some.
_LARGEST_INPUT = 2**28


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it needs to be used.

    Attributes:
        path: where it was read.
        network: in evaluation mode, on the CPU.
        preprocessing: from an image to the network's input.
        input_shape: of one input of the network.
        class_names: what the logits stand for.
        settings: all that decided the run's numbers.
        locations: where the source files of its data set were.
        step: optimiser steps taken.
        benchmark_version: of the suite that wrote it.
        flags: what its reader typed, in long forms, with the names of code that it may import.
    """

    path: Path
    network: Network
    preprocessing: Preprocessing
    input_shape: tuple[int, ...]
    class_names: tuple[str, ...]
    settings: dict[str, Any]
    locations: dict[str, Any]
    step: int
    benchmark_version: str
    flags: tuple[str, ...]


def read(path: Path, flags: Sequence[str] = ()) -> Checkpoint:
    """Reads a checkpoint, executing nothing that it contains.

    Args:
        path: the file.
        flags: what the user typed, in long forms. An algorithm from elsewhere that made something
            of the network is imported only if it is named here, or is imported already.

    Raises:
        UsageError: when it is missing, damaged or not written by this suite, and for code that is
            not named.
    """
    try:
        return _checkpoint(path, _content(path), tuple(flags))
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no checkpoint {path}. A run's folder holds last.ckpt and, where a check was "
            "selected before the end, selected.ckpt."
        ) from error
    except UsageError:
        raise
    except Exception as error:
        # torch.load and what is built raise whatever the damage leads to: no class is narrower.
        reason = " ".join(str(error).split())[:_SHOWN] or "no message"
        raise UsageError(
            f"{path} cannot be read as a checkpoint of this suite ({type(error).__name__}: "
            f"{reason}). Give the last.ckpt or selected.ckpt of a run."
        ) from error


def _content(path: Path) -> dict[str, Any]:
    """What the file holds: tensors, numbers, text and their lists, none of them larger than it."""
    if reason := damage(path):
        raise UsageError(
            f"{path} cannot be read as a checkpoint of this suite ({reason}). Restore it, or give "
            "the last.ckpt or selected.ckpt of a run."
        )
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            # torch's own words advise to read it all the same, which would run what is in it.
            raise ValueError("it holds more than tensors, numbers and text") from error
    tensors = content["state_dict"].values()
    if any(each.numel() * each.element_size() > size for each in tensors):
        raise ValueError("its weights are larger than the file")
    return content


def _checkpoint(path: Path, content: Mapping[str, Any], flags: tuple[str, ...]) -> Checkpoint:
    ours = content["dgbench"]
    settings: dict[str, Any] = {**records.validate_settings(ours["settings"])}
    input_shape, class_names = tuple(ours["input_shape"]), _texts(ours["class_names"])
    views, (version,) = _texts(ours["views"]), _texts([ours["benchmark_version"]])

    def plain() -> Network:
        return build_network(
            # It has the weights; those that training began with may be nowhere any more.
            NetworkOptions(**{**settings["network"], "weights": "none"}),
            input_shape,
            len(class_names),
            settings["trial_seed"],
        )

    def made_by_the_algorithm() -> Network:
        algo, environments = settings["algo"], len(settings["train_env"])
        refuse_unnamed_code({"algo": algo}, flags, str(path))
        seed = settings["trial_seed"]
        return make_algorithm(algo, plain(), environments, views, seed).network

    prefix = "network."
    weights = {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix)
    }
    build = plain if _shapes(plain).keys() == weights.keys() else made_by_the_algorithm
    if build is plain or "." not in settings["algo"]["name"]:  # one's own may need real tensors
        _refuse_other_shapes(build, weights)
    network = build().eval()
    floats = (value.dtype for value in weights.values() if value.is_floating_point())
    network.to(next(floats)).load_state_dict(weights)
    _try(network, input_shape, len(class_names))
    return Checkpoint(
        path,
        network,
        Preprocessing.from_dict(ours["preprocessing"]),
        input_shape,
        class_names,
        settings,
        ours.get("locations", {}),
        int(content["global_step"]),
        version,
        flags,
    )


def _texts(values: Sequence[str]) -> tuple[str, ...]:
    """Names that can be written to a file."""
    for value in values:
        value.encode()
    return tuple(values)


def _refuse_other_shapes(build: Callable[[], Network], weights: Mapping[str, Tensor]) -> None:
    """Refuses settings of another network than the file's, which may be of any size."""
    if _shapes(build) != {name: value.shape for name, value in weights.items()}:
        raise ValueError("its weights are not those of the network that its settings describe")


@torch.no_grad()
def _try(network: Network, input_shape: tuple[int, ...], classes: int) -> None:
    """Sees that a network maps one input to one row of logits."""
    if prod(input_shape) > _LARGEST_INPUT:
        raise ValueError(f"an input of {input_shape} is too large")
    dtype = next(network.parameters()).dtype
    found = tuple(network(torch.zeros(1, *input_shape, dtype=dtype)).shape)
    if found != (1, classes):
        raise ValueError(f"its network gives {found} for one input in {classes} classes")


def _shapes(build: Callable[[], Network]) -> dict[str, torch.Size]:
    """Shapes of a network's weights, without the memory for them."""
    with torch.device("meta"):
        return {name: value.shape for name, value in build().state_dict().items()}


def score(checkpoint: Checkpoint) -> dict[str, records.SplitMetrics]:
    """Measures a checkpoint on every environment and split of its data set, as its run did.

    Args:
        checkpoint: what to measure.

    Returns:
        Metrics by ``<environment>/<split>``: the record's numbers, exactly.

    Raises:
        UsageError: for a checkpoint of another benchmark version, of data that its settings do not
            make, and for code from elsewhere that its reader did not name.
    """
    version = checkpoint.benchmark_version
    if version != BENCHMARK_VERSION:
        raise UsageError(
            f"The checkpoint was made by benchmark version {version} and this is "
            f"{BENCHMARK_VERSION}: their numbers do not compare. Install the one that made it."
        )
    settings: Settings = resolve(
        recorded_config(
            checkpoint.settings,
            checkpoint.locations,
            flags=checkpoint.flags,
            source=str(checkpoint.path),
        )
    )
    data = build_data(settings)
    _require_its_data(checkpoint, data)
    data.setup()
    with matmul_precision(settings.matmul_precision), quiet_lightning():
        trainer = build_trainer(settings, logger=False)
        device = trainer.strategy.root_device
        network = trainer.precision_plugin.convert_module(checkpoint.network).to(device)
        assert isinstance(network, Network)
        return evaluate(network, data, all_splits(data), device, trainer.precision_plugin)


def _require_its_data(checkpoint: Checkpoint, data: EnvironmentDataModule) -> None:
    """Refuses data that are not what the network was trained on."""
    theirs = (checkpoint.input_shape, checkpoint.class_names)
    ours = (tuple(data.input_shape), tuple(data.class_names))
    if theirs != ours:
        raise UsageError(
            f"{checkpoint.path} was trained on inputs of {theirs[0]} in the classes {theirs[1]}, "
            f"but its data set has {ours[0]} in {ours[1]} here. Bring the data back that its run "
            "had."
        )


class Unlabelled(NamedTuple):
    """A file that got no label, and why."""

    path: Path
    reason: str


@torch.no_grad()
def predict(checkpoint: Checkpoint, images: Sequence[Path], out: Path) -> list[Unlabelled]:
    r"""Labels images and writes a CSV: path, class and its probability.

    Paths and classes that a spreadsheet would take for formulas have an apostrophe before them
    (:mod:`leaderboard.csv_files`); bytes of a path that are no UTF-8 are written as ``\xff``.

    Args:
        checkpoint: the network.
        images: image files of any size and mode.
        out: the CSV, which appears whole or not at all.

    Returns:
        The files that are no images, which have no row.

    Raises:
        UsageError: when there is no image among them, for a network of other inputs or with
            weights that are not finite, and for an output that cannot be written.
    """
    shape = checkpoint.preprocessing.shape
    if shape != checkpoint.input_shape:
        raise UsageError(
            f"{checkpoint.path} is of a network for inputs of {checkpoint.input_shape}, which its "
            f"preprocessing does not make of images: it makes {shape}."
        )
    if not all(value.isfinite().all() for value in checkpoint.network.state_dict().values()):
        raise UsageError(
            f"{checkpoint.path} has weights that are not finite, as a run that diverged leaves "
            "them: its labels would mean nothing. Give its selected.ckpt, or another run's."
        )
    rows: list[tuple[str, str, str]] = []
    unlabelled: list[Unlabelled] = []
    dtype = next(checkpoint.network.parameters()).dtype
    for path in images:
        try:
            inputs = checkpoint.preprocessing(read_image(path)).to(dtype)
        except ImageError as error:
            unlabelled.append(Unlabelled(path, str(error)))
            continue
        probabilities = checkpoint.network(inputs[None]).softmax(dim=-1)[0]
        probability, position = probabilities.max(dim=-1)
        name = os.fsencode(path).decode(errors="backslashreplace")
        rows.append((name, checkpoint.class_names[position], f"{probability.item():.6f}"))
    if not rows:
        raise UsageError(
            "Nothing was labelled, for what was given cannot be read as an image: "
            f"{in_words(unlabelled)}. Leave it out, or repair it."
        )
    _write(out, csv_text(("path", "class", "probability"), rows))
    return unlabelled


def in_words(unlabelled: Sequence[Unlabelled]) -> str:
    """The first few files that got no label, each with the reason, and how many more there are.

    Args:
        unlabelled: the files.
    """
    return some([f"{path} ({reason})" for path, reason in unlabelled])


def _write(out: Path, text: str) -> None:
    try:
        if out.exists() and not out.is_file():  # such as /dev/stdout, which no file can replace
            out.write_text(text)
        else:
            records.write_text_atomic(out.resolve(), text)
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}). Name a file in a folder that can."
        ) from error
