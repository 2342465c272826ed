"""Trains every algorithm in turn, as one of several processes or alone.

    python -m torch.distributed.run --nproc-per-node 2 \\
        -m tests.distributed.train_all OUT --devices 2

`python -m tests.distributed.table` does so and compares.

The first process saves, for each case, the weights after 20 steps in float64 and what
`evaluate` finds. With `--naive` each process keeps to its own rows, as if penalties of shards could
be averaged: the error that exact sums avoid.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.streams import EnvironmentBatch
from dgbench import registry
from dgbench.algorithms import base, irm, irmv2
from dgbench.algorithms.base import Algorithm
from dgbench.collectives import leave_at_exit, world_size
from dgbench.evaluation import all_splits, evaluate
from dgbench.networks import NetworkOptions, build_network
from dgbench.runtime import quiet_lightning
from dgbench.search_space import hyperparameters
from tests.synthetic import SyntheticData

STEPS = 20


class WeightedRisks(Algorithm):
    """GroupDRO's update (Sagawa et al., 2020): state that must be the global batch's."""

    weights: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.register_buffer("weights", torch.ones(self.n_environments) / self.n_environments)

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        risks = self.risks(batch)
        weights = (self.weights * (0.1 * risks.detach()).exp()).to(self.weights.dtype)
        weights = weights / weights.sum()
        return {"loss": weights @ risks, "risks": risks, "state": {"weights": weights}}


def cases() -> dict[str, tuple[type[Algorithm], dict[str, Any], int]]:
    """Algorithm, options and rows an environment, by name: every algorithm with uneven shards."""
    found: dict[str, tuple[type[Algorithm], dict[str, Any], int]] = {
        name: (registry.load("algorithm", name), {}, 127) for name in registry.entries("algorithm")
    }
    found["irm split"] = (irm.IRM, {"estimator": "split"}, 127)
    found["irm, one row"] = (irm.IRM, {}, 1)
    found["irmv2 features"] = (irmv2.IRMv2, {"head_input": "features"}, 127)
    found["l2, rescaled, restarted"] = (
        irm.IRM,
        {"l2": 1e-3, "rescale_loss": True, "restart_optimizer": True, "penalty_weight": 50.0},
        127,
    )
    found["state"] = (WeightedRisks, {}, 127)
    return found


def train(name: str, devices: int, accelerator: str) -> dict[str, Any]:
    """Weights and metrics of a case after its steps."""
    algorithm_class, options, rows = cases()[name]
    data = SyntheticData(test_envs=[4], steps=STEPS, batch_size=rows)
    network = build_network(NetworkOptions(width=8), data.input_shape, 2, seed=0)
    if "anneal_steps" in {option.name for option in hyperparameters(algorithm_class)}:
        options = {"anneal_steps": 7, **options}
    algorithm = algorithm_class(
        network=network, n_environments=len(data.train_environments), **options
    )
    trainer = pl.Trainer(
        max_steps=STEPS,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accelerator=accelerator,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="64-true",
    )
    trainer.fit(algorithm, datamodule=data)
    metrics = evaluate(
        algorithm.network, data, all_splits(data), algorithm.device, trainer.precision_plugin
    )
    weights = {name: value.cpu() for name, value in algorithm.state_dict().items()}
    return {"weights": weights, "metrics": metrics}


def keep_to_own_rows() -> None:
    """Replaces the sums over processes by each process's own, scaled as if it were all."""
    for module in (base, irm, irmv2):
        module.global_sum = lambda local: local * world_size()  # type: ignore[attr-defined]


def main() -> None:
    """Trains all cases and saves them from the first process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--naive", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    leave_at_exit()
    if options.naive:
        keep_to_own_rows()
    with quiet_lightning():
        results = {name: train(name, options.devices, options.accelerator) for name in cases()}
    if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
        torch.save(results, options.out)


if __name__ == "__main__":
    main()
