"""One IRM step of the protocol irm-paper against the paper's own loop, in CPU time.

    DGBENCH_DATA=FOLDER python tests/benchmarks/irm_paper_step.py

The peer's side is a restatement of the IRM paper's colored_mnist/main.py on plain tensors: one
forward pass an environment, the held-out one among them at every step, the penalty by double
backward, Adam. Ours is the step of a run, its share of a check included. Both start from the same
weights on the same full MNIST, take turns in one process on one thread, and stay on the side of the
switch at which the penalty has its weight. Ratios are medians over rounds of theirs to ours.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.base import EnvironmentDataModule
from dgbench.evaluation import evaluate, splits_for_selection
from dgbench.runtime import matmul_precision
from dgbench.settings import Settings, resolve
from dgbench.training import build_algorithm, build_data, build_trainer

DEMANDS = {"32-true": 1.3, "bf16-mixed": 2.2}
Step = Callable[[], float]


def settings_of(precision: str) -> Settings:
    """The published IRM with its penalty at full weight from the first step."""
    config = {"algo": {"name": "irm", "anneal_steps": 0}, "protocol": "irm-paper", "test_env": 2}
    return resolve({**config, "trainer": {"precision": precision, "accelerator": "cpu"}})


def ours(precision: str, data: EnvironmentDataModule) -> tuple[Step, float]:
    """A step of a run, and its share of the CPU seconds of a check."""
    settings = settings_of(precision)
    algorithm = build_algorithm(settings, data)
    plugin = build_trainer(settings, logger=False).precision_plugin
    optimizer = algorithm.configure_optimizers()
    batches = iter(data.train_dataloader())
    splits = splits_for_selection(data)

    def step() -> float:
        with matmul_precision(settings.matmul_precision):
            batch = next(batches)
            with plugin.train_step_context():
                loss = algorithm.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return loss.item()

    def check() -> float:
        with matmul_precision(settings.matmul_precision):
            evaluate(algorithm.network, data, splits, torch.device("cpu"), plugin)
        return 0.0

    return step, timed(check) / settings.check_every


def theirs(data: EnvironmentDataModule) -> Step:
    """The paper's loop."""
    settings = settings_of("32-true")
    network = copy.deepcopy(build_algorithm(settings, data).network)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    optimizer = torch.optim.Adam(network.parameters(), lr=settings.algo["learning_rate"])
    l2, penalty_weight = settings.algo["l2"], settings.algo["penalty_weight"]
    environments = []
    for index in range(3):
        environment = data.environment(index)
        labels = environment.targets[:, None].float()
        environments.append((environment.inputs, labels))

    def logits_of(images: Tensor) -> Tensor:
        hidden = F.relu(layers[0](images.view(images.shape[0], 2 * 14 * 14)), inplace=True)
        hidden = F.relu(layers[1](hidden), inplace=True)
        return F.linear(hidden, layers[2].weight, layers[2].bias)

    def step() -> float:
        measured = []
        for images, labels in environments:
            logits = logits_of(images)
            nll = F.binary_cross_entropy_with_logits(logits, labels)
            accuracy = ((logits > 0.0).float() - labels).abs().lt(1e-2).float().mean()
            scale = torch.tensor(1.0).requires_grad_()
            loss = F.binary_cross_entropy_with_logits(logits * scale, labels)
            (gradient,) = torch.autograd.grad(loss, [scale], create_graph=True)
            measured.append((nll, accuracy, torch.sum(gradient**2)))
        loss = torch.stack([nll for nll, _, _ in measured[:2]]).mean()
        loss = loss + l2 * sum(w.norm().pow(2) for w in network.parameters())
        loss = loss + penalty_weight * torch.stack([p for _, _, p in measured[:2]]).mean()
        loss = loss / penalty_weight
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def timed(call: Callable[[], float]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Takes turns, then prints medians, ratios and the demands beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    data = build_data(settings_of("32-true"))
    data.steps = rounds + 1
    data.setup()
    sides = {"paper": (theirs(data), 0.0)}
    sides |= {precision: ours(precision, data) for precision in DEMANDS}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    costs: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, (step, share) in sides.items():
            start = time.process_time()
            losses[name].append(step())
            costs[name].append(time.process_time() - start + share)
    for name, values in costs.items():
        # The first round warms up.
        print(f"{name:<12}{statistics.median(values[1:]):.3f} CPU-s a step")
    for name, demand in DEMANDS.items():
        ratios = [p / o for p, o in zip(costs["paper"][1:], costs[name][1:], strict=True)]
        apart = [abs(o / p - 1) for p, o in zip(losses["paper"], losses[name], strict=True)]
        print(
            f"{name:<12}{statistics.median(ratios):.2f} times less "
            f"({min(ratios):.2f} to {max(ratios):.2f}; demand: at least {demand}); "
            f"losses apart by {apart[0]:.1e} at step 1, {max(apart):.1e} at most"
        )


if __name__ == "__main__":
    main()
