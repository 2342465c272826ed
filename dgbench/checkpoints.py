"""Checkpoints on their own: loading, scoring on a data set, labelling images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, UnidentifiedImageError

from datamodules.preprocessing import Preprocessing
from dgbench import BENCHMARK_VERSION
from dgbench.errors import UsageError
from dgbench.evaluation import all_splits, evaluate
from dgbench.networks import Network, NetworkOptions, build_network
from dgbench.runtime import matmul_precision, quiet_lightning
from dgbench.settings import Settings, recorded_config, resolve
from dgbench.training import build_data, build_trainer, make_algorithm
from leaderboard import records


@dataclass(frozen=True)
class Checkpoint:
    """A trained network and what it needs to be used.

    Attributes:
        network: in evaluation mode, on the CPU.
        preprocessing: from an image to the network's input.
        class_names: what the logits stand for.
        settings: all that decided the run's numbers.
        locations: where the source files of its data set were.
        step: optimiser steps taken.
        benchmark_version: of the suite that wrote it.
    """

    network: Network
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    settings: dict[str, Any]
    locations: dict[str, Any]
    step: int
    benchmark_version: str


def read(path: Path) -> Checkpoint:
    """Reads a checkpoint, executing nothing that it contains.

    Args:
        path: the file.

    Raises:
        UsageError: when it is missing, damaged or not written by this suite.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        ours = content["dgbench"]
    except FileNotFoundError as error:
        raise UsageError(
            f"There is no checkpoint {path}. A run's folder holds last.ckpt and, where a check was "
            "selected before the end, selected.ckpt."
        ) from error
    except Exception as error:
        # torch.load raises whatever the damage leads to: there is no narrower class.
        raise UsageError(
            f"{path} cannot be read as a checkpoint of this suite ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}). "
            "Give the last.ckpt or selected.ckpt of a run."
        ) from error
    settings = ours["settings"]
    network = build_network(
        # The checkpoint has the weights; those that training began with may be nowhere any more.
        NetworkOptions(**{**settings["network"], "weights": "none"}),
        tuple(ours["input_shape"]),
        len(ours["class_names"]),
        settings["trial_seed"],
    )
    prefix = "network."
    weights = {
        name.removeprefix(prefix): value
        for name, value in content["state_dict"].items()
        if name.startswith(prefix)
    }
    if weights.keys() != network.state_dict().keys():
        # The algorithm has made something else of the network.
        environments = len(settings["train_env"])
        network = make_algorithm(
            settings["algo"], network, environments, ours["views"], settings["trial_seed"]
        ).network
    floats = (value.dtype for value in weights.values() if value.is_floating_point())
    network.to(next(floats)).load_state_dict(weights)
    return Checkpoint(
        network.eval(),
        Preprocessing.from_dict(ours["preprocessing"]),
        tuple(ours["class_names"]),
        settings,
        ours.get("locations", {}),
        content["global_step"],
        ours["benchmark_version"],
    )


def score(checkpoint: Checkpoint) -> dict[str, records.SplitMetrics]:
    """Measures a checkpoint on every environment and split of its data set, as its run did.

    Args:
        checkpoint: what to measure.

    Returns:
        Metrics by ``<environment>/<split>``: the record's numbers, exactly.

    Raises:
        UsageError: for a checkpoint of another benchmark version.
    """
    version = checkpoint.benchmark_version
    if version != BENCHMARK_VERSION:
        raise UsageError(
            f"The checkpoint was made by benchmark version {version} and this is "
            f"{BENCHMARK_VERSION}: their numbers do not compare. Install the one that made it."
        )
    settings: Settings = resolve(recorded_config(checkpoint.settings, checkpoint.locations))
    data = build_data(settings)
    data.setup()
    with matmul_precision(settings.matmul_precision), quiet_lightning():
        trainer = build_trainer(settings, logger=False)
        device = trainer.strategy.root_device
        network = trainer.precision_plugin.convert_module(checkpoint.network).to(device)
        assert isinstance(network, Network)
        return evaluate(network, data, all_splits(data), device, trainer.precision_plugin)


@torch.no_grad()
def predict(checkpoint: Checkpoint, images: Sequence[Path], out: Path) -> None:
    """Labels images and writes a CSV: path, class and its probability.

    Args:
        checkpoint: the network.
        images: image files of any size and mode.
        out: the CSV to write.

    Raises:
        UsageError: for files that are no images, and an output that cannot be written.
    """
    rows = [("path", "class", "probability")]
    dtype = next(checkpoint.network.parameters()).dtype
    for path in images:
        inputs = checkpoint.preprocessing(_open(path)).to(dtype)
        probabilities = checkpoint.network(inputs[None]).softmax(dim=-1)[0]
        probability, position = probabilities.max(dim=-1)
        rows.append((str(path), checkpoint.class_names[position], f"{probability.item():.6f}"))
    try:
        with out.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}). Name a file in a folder that can."
        ) from error


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as error:
        raise UsageError(f"There is no image {path}.") from error
    except (UnidentifiedImageError, OSError) as error:
        raise UsageError(
            f"{path} cannot be read as an image ({error}). Leave it out, or repair it."
        ) from error
    return image
