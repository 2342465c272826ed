"""Which runs train as one model, and which do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from datamodules.base import EnvironmentDataModule
from dgbench import registry
from dgbench.algorithms.base import Algorithm
from dgbench.backbones import is_published
from dgbench.networks import NetworkOptions, build_network
from dgbench.settings import Settings
from dgbench.stacked.model import is_number, overridden_hooks
from dgbench.training import build_data


def why_not(runs: Sequence[Settings]) -> str | None:
    """Why runs cannot be stacked, as far as settings and classes tell; None if they may be.

    Args:
        runs: the resolved runs.
    """
    different = [
        key
        for key, value in likeness(runs[0]).items()
        if any(likeness(r)[key] != value for r in runs)
    ]
    if different:
        return f"they differ in {', '.join(different)}"
    return own_obstacle(runs[0])


def own_obstacle(run: Settings) -> str | None:
    """Why a run cannot be stacked with any other, None if it may be.

    Args:
        run: a resolved run.
    """
    name = run.algo["name"]
    hooks = overridden_hooks(cast("type[Algorithm]", registry.load("algorithm", name)))
    if hooks:
        return f"{name} has steps of its own ({', '.join(hooks)})"
    data_set = cast("type[EnvironmentDataModule]", registry.load("data set", run.data["name"]))
    if data_set.train_dataloader is not EnvironmentDataModule.train_dataloader:
        return f"{run.data['name']} makes its batches in a way of its own"
    if run.logger:
        return f"each would need a {' and a '.join(run.logger)} logger of its own"
    if run.trainer.get("precision") == "16-mixed":
        return "16-mixed scales all losses by one factor"
    if run.save_predictions:
        return "saved predictions must give its numbers to the last digit"
    return None


def likeness(run: Settings) -> dict[str, Any]:
    """What stacked runs have in common: all but seeds, batch sizes and options that are numbers.

    Where a network normalises by each batch the batch sizes are one, too: it would see the rows
    beyond a run's own.

    Args:
        run: a resolved run.
    """
    algo = {name: None if is_number(value) else value for name, value in run.algo.items()}
    network = NetworkOptions(**run.network)
    normalises = is_published(network.backbone) and network.batch_norm == "train"
    size = run.data.get("batch_size")
    return {
        **{f"algo.{name}": value for name, value in algo.items()},
        **{f"data.{name}": value for name, value in run.data.items() if name != "batch_size"},
        **{f"network.{name}": value for name, value in run.network.items()},
        **{f"trainer.{name}": value for name, value in run.trainer.items()},
        "data.batch_size": size if normalises or size == "full" else "a number",
        **{
            name: getattr(run, name)
            for name in (
                "protocol",
                "test_env",
                "train_env",
                "steps",
                "check_every",
                "first_check",
                "selection",
                "matmul_precision",
                "force",
                "check_all",
            )
        },
    }


def operations_per_row(run: Settings) -> float:
    """Floating-point operations of a step for each row of an environment's batch.

    Those of one pass forward and one backward through the network, for all training environments;
    nothing is computed or loaded.

    Args:
        run: a resolved run.
    """
    data = build_data(run)
    options = replace(NetworkOptions(**run.network), weights="none")
    network = build_network(options, data.input_shape, len(data.class_names), seed=0).to("meta")
    rows = 2  # batch normalisation refuses one
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(rows, *data.input_shape, device="meta")).sum().backward()
    return float(counter.get_total_flops()) / rows * len(data.train_environments)


def data_bytes(run: Settings) -> int:
    """Memory that a data seed takes in a stack: its images, those of training a second time.

    Args:
        run: a resolved run.

    Raises:
        DataError: when the data cannot be loaded.
    """
    data = build_data(run)
    data.setup()
    inputs = [data.environment(index).inputs for index in range(len(data.environment_names))]
    inputs += [split.inputs for split in data.training_splits()]
    return sum(each.nbytes for each in inputs if isinstance(each, torch.Tensor))
