"""Tiny data, batches and trainers that the tests of the algorithms share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from datamodules.base import EnvironmentDataModule
from datamodules.environments import EnvironmentData, split_main_holdout
from datamodules.preprocessing import Preprocessing
from datamodules.seeds import derive_seed
from datamodules.streams import EnvironmentBatch
from dgbench import registry
from dgbench.algorithms.base import Algorithm
from dgbench.networks import Network, NetworkOptions, build_network
from dgbench.runtime import quiet_lightning

FEATURES = 6
SAMPLES = 48


class SyntheticData(EnvironmentDataModule):
    """Vectors of 6 features, of which 2 cause the class and 1 follows it, by another rule each."""

    environment_names = ("north", "east", "south", "west", "zenith")
    class_names = ("no", "yes")
    input_shape = (FEATURES,)
    generator_version = 1

    @property
    def preprocessing(self) -> Preprocessing:
        raise NotImplementedError("vectors are not images")

    def load_environment(self, index: int) -> EnvironmentData:
        random = np.random.Generator(np.random.PCG64(derive_seed(self.data_seed, index)))
        inputs = random.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
        targets = inputs[:, 0] - inputs[:, 1] + 0.7 * random.normal(size=SAMPLES) > 0
        agreement = (0.95, 0.85, 0.75, 0.65, 0.1)[index]
        inputs[:, 2] += np.where(targets == (random.random(SAMPLES) < agreement), 1.5, -1.5)
        main, holdout = split_main_holdout(SAMPLES, 0.25, self.data_seed, index)
        return EnvironmentData(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets.astype(np.int64)),
            sources=torch.arange(SAMPLES) + SAMPLES * index,
            main=main,
            holdout=holdout,
        )


class SeededSteps(pl.Callback):
    """Seeds each step as the recorder of a run does."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(derive_seed(self.seed, "step", trainer.global_step, trainer.global_rank))


def make_data(**run: Any) -> SyntheticData:
    """The synthetic data set; holds out its last environment and has batches of 8."""
    return SyntheticData(**{"test_envs": [4], "steps": 100, "batch_size": 8, **run})


def make_algorithm(name: str, data: EnvironmentDataModule, **options: Any) -> Algorithm:
    """An algorithm of the suite on a small network, as a run of the data's trial seed has it."""
    network = build_network(
        NetworkOptions(width=8), data.input_shape, len(data.class_names), data.trial_seed
    )
    algorithm: Algorithm = registry.load("algorithm", name)(
        network=network, n_environments=len(data.train_environments), **options
    )
    return algorithm


def train(
    algorithm: Algorithm,
    data: EnvironmentDataModule,
    steps: int,
    *,
    callbacks: Sequence[pl.Callback] = (),
    checkpoint: str | None = None,
    precision: Any = "32-true",
) -> pl.Trainer:
    """Trains as a run does, without record, on the CPU."""
    trainer = pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=[SeededSteps(data.trial_seed), *callbacks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        accelerator="cpu",
        devices=1,
        precision=precision,
    )
    with quiet_lightning():
        trainer.fit(algorithm, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


def make_batch(
    counts: Sequence[int],
    *,
    seed: int = 0,
    classes: int = 2,
    shift: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> EnvironmentBatch:
    """A batch of random vectors whose environments differ: classes move one feature by `shift`."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(counts)
    inputs = torch.randn(total, FEATURES, generator=generator, dtype=dtype)
    targets = torch.randint(classes, (total,), generator=generator)
    environment = torch.repeat_interleave(torch.tensor(counts))
    inputs[:, 0] += shift * targets * (1 + environment)
    rows = torch.cat([torch.arange(count) for count in counts])
    return EnvironmentBatch(inputs, targets, environment, rows, rows, torch.tensor(counts))


def per_environment(batch: EnvironmentBatch) -> list[tuple[Tensor, Tensor]]:
    """Inputs and targets of each environment, as the peers' code has them."""
    return [
        (batch.inputs[batch.environment == e], batch.targets[batch.environment == e])
        for e in range(len(batch.counts))
    ]


def small_network(
    *, classes: int = 2, logits: Any = "all", seed: int = 0, width: int = 8
) -> Network:
    """The IRM paper's network on the batches' vectors, in float64."""
    options = NetworkOptions(width=width, logits=logits)
    return build_network(options, (FEATURES,), classes, seed).double()


def identity_network() -> Network:
    """A network whose logits are its inputs, for objectives as functions of logits."""
    return Network(nn.Identity(), nn.Identity())


def gradients(loss: Tensor, module: nn.Module) -> list[Tensor]:
    """Gradients of a loss by all parameters of a module."""
    return list(torch.autograd.grad(loss, list(module.parameters()), retain_graph=True))


def assert_close(
    found: Tensor, expected: Tensor, *, rtol: float = 1e-12, atol: float = 1e-12
) -> None:
    """Equal but for the last digits of float64."""
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def assert_same_loss(
    found: Tensor, expected: Tensor, module: nn.Module, *, tolerance: float = 1e-12
) -> None:
    """The same value and the same gradients by all parameters of a module."""
    assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(gradients(found, module), gradients(expected, module), strict=True):
        assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
