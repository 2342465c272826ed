"""The steps of the protocols that restate a publication are those of its code.

Each peer's step is written out here from its own source, on plain tensors: the paper's loops with a
forward pass an environment, double backward, one logit and binary cross-entropy, DomainBed's
updates with its four convolutions. Settings are those that ``configs/`` publishes, but for the
switch, which comes after 2 steps, and the convolutions' width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from datamodules.base import EnvironmentDataModule
from datamodules.environments import EnvironmentData
from datamodules.pacs import PACS
from dgbench import reproductions
from dgbench.reproduce import plan
from dgbench.settings import Settings, resolve
from dgbench.training import build_algorithm, build_data
from tests.folders import folder_options
from tests.real import needs_mnist, stand_in_for_mnist
from tests.synthetic import train

# A stiff penalty multiplies float32's rounding from step to step.
STEPS = {torch.float64: 9, torch.float32: 5}
SWITCH = 2
Environments = list[tuple[Tensor, Tensor]]

# The published settings, as their sources print them.
IRM_PAPER = {"width": 390, "lr": 0.0004898536566546834, "l2": 0.00110794568, "w": 91257.18613115903}
ERM_PAPER = {"width": 256, "lr": 0.001, "l2": 0.001, "w": 0.0}
GRAYSCALE = {"width": 83, "lr": 0.0028171488133821726, "l2": 0.0008602868865288383, "w": 0.0}
DOMAINBED = {"erm": 0.0, "irm": 100.0, "vrex": 10.0}


def switched(weight: float, step: int) -> float:
    return weight if step >= SWITCH else 1.0


# The IRM and the REx paper: colored_mnist/main.py


def mlp(weights: list[Tensor], images: Tensor) -> Tensor:
    w1, b1, w2, b2, w3, b3 = weights
    hidden = F.linear(images.view(len(images), w1.shape[1]), w1, b1).relu()
    return F.linear(F.linear(hidden, w2, b2).relu(), w3, b3)


def mean_nll(logits: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, targets[:, None].to(logits.dtype))


def paper_penalty(logits: Tensor, targets: Tensor) -> Tensor:
    scale = torch.ones((), dtype=logits.dtype, requires_grad=True)
    loss = mean_nll(logits * scale, targets)
    (grad,) = torch.autograd.grad(loss, [scale], create_graph=True)
    return torch.sum(grad**2)


def weight_norm(weights: list[Tensor]) -> Tensor:
    total = torch.zeros((), dtype=weights[0].dtype)
    for weight in weights:
        total = total + weight.norm().pow(2)
    return total


def irm_paper(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
    return _irm_paper(weights, environments, switched(IRM_PAPER["w"], step), IRM_PAPER["l2"])


def erm_paper(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
    return _irm_paper(weights, environments, ERM_PAPER["w"], ERM_PAPER["l2"])


def grayscale_paper(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
    """The paper's grayscale model sums the channels of the coloured images."""
    summed = [(images.view(-1, 2, 14 * 14).sum(dim=1), targets) for images, targets in environments]
    return _irm_paper(weights, summed, GRAYSCALE["w"], GRAYSCALE["l2"])


def _irm_paper(
    weights: list[Tensor], environments: Environments, penalty_weight: float, l2: float
) -> Tensor:
    logits = [mlp(weights, images) for images, _ in environments]
    pairs = [(z, targets) for z, (_, targets) in zip(logits, environments, strict=True)]
    loss = torch.stack([mean_nll(*pair) for pair in pairs]).mean()
    loss = loss + l2 * weight_norm(weights)
    loss = loss + penalty_weight * torch.stack([paper_penalty(*pair) for pair in pairs]).mean()
    return loss / penalty_weight if penalty_weight > 1.0 else loss


def rex_paper(
    distance: Callable[[Tensor], Tensor], published_weight: float = IRM_PAPER["w"]
) -> Callable[..., Tensor]:
    """REx with a distance of two risks, `--mse False` if it is the absolute difference."""

    def loss(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
        first, second = (mean_nll(mlp(weights, images), y) for images, y in environments)
        penalty_weight = switched(published_weight, step)
        total = first + second + IRM_PAPER["l2"] * weight_norm(weights)
        total = total + penalty_weight * distance(first - second)
        return total / penalty_weight if penalty_weight > 1.0 else total

    return loss


# DomainBed: algorithms.py, networks.py


def mnist_cnn(weights: list[Tensor], images: Tensor) -> Tensor:
    *convolutions, head, bias = weights
    hidden = images
    for number in range(4):
        kernel, offset, gain, shift = convolutions[4 * number : 4 * number + 4]
        hidden = F.conv2d(hidden, kernel, offset, stride=2 if number == 1 else 1, padding=1)
        hidden = F.group_norm(F.relu(hidden), 8, gain, shift)
    return F.linear(hidden.mean(dim=(2, 3)), head, bias)


def domainbed_erm(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
    images = torch.cat([images for images, _ in environments])
    return F.cross_entropy(mnist_cnn(weights, images), torch.cat([y for _, y in environments]))


def domainbed_irm(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
    all_logits = mnist_cnn(weights, torch.cat([images for images, _ in environments]))
    nll = penalty = torch.zeros((), dtype=all_logits.dtype)
    start = 0
    for images, targets in environments:
        logits = all_logits[start : start + len(images)]
        start += len(images)
        nll = nll + F.cross_entropy(logits, targets)
        scale = torch.ones((), dtype=logits.dtype, requires_grad=True)
        halves = [F.cross_entropy(logits[h::2] * scale, targets[h::2]) for h in (0, 1)]
        g1, g2 = (torch.autograd.grad(h, [scale], create_graph=True)[0] for h in halves)
        penalty = penalty + torch.sum(g1 * g2)
    count = len(environments)
    return nll / count + switched(DOMAINBED["irm"], step) * penalty / count


def domainbed_vrex(weights: list[Tensor], environments: Environments, step: int) -> Tensor:
    logits = mnist_cnn(weights, torch.cat([images for images, _ in environments]))
    parts = logits.split([len(images) for images, _ in environments])
    pairs = zip(parts, environments, strict=True)
    losses = torch.stack([F.cross_entropy(part, targets) for part, (_, targets) in pairs])
    penalty = ((losses - losses.mean()) ** 2).mean()
    return losses.mean() + switched(DOMAINBED["vrex"], step) * penalty


# Side by side


def published(
    dataset: str,
    protocol: str,
    algo: str,
    *,
    data: dict[str, Any] | None = None,
    network: dict[str, Any] | None = None,
    **options: Any,
) -> Settings:
    config: dict[str, Any] = {"dataset": dataset, "protocol": protocol, "test_env": [2]}
    config["data"] = data or {}
    if algo != "erm":
        options["anneal_steps"] = SWITCH
    if protocol == "domainbed":
        config["network"] = {"width": 16, **(network or {})}
    return resolve({**config, "algo": {"name": algo, **options}})


def full(data: EnvironmentDataModule, step: int) -> Environments:
    """All images of each training environment, as the papers' loops have them."""
    found: list[EnvironmentData] = [data.environment(index) for index in data.train_environments]
    return [(environment.inputs, environment.targets) for environment in found]


def minibatches(data: EnvironmentDataModule, step: int, size: int = 64) -> Environments:
    """As many images of each, drawn as ours are."""
    batch = data.train_dataloader().batch(step)
    sizes = [size] * len(data.train_environments)
    return list(zip(batch.inputs.split(sizes), batch.targets.split(sizes), strict=True))


class Witness(pl.Callback):
    """Keeps what each step minimised."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())


def their_steps(
    network: torch.nn.Module,
    loss: Callable[..., Tensor],
    batches: list[Environments],
    dtype: torch.dtype,
    *,
    learning_rate: float,
    restarts: bool,
) -> tuple[list[float], list[Tensor]]:
    """Losses and weights of a peer's steps from our initial weights."""
    weights = [w.detach().to(dtype, copy=True).requires_grad_() for w in network.parameters()]
    optimizer = torch.optim.Adam(weights, lr=learning_rate)
    losses = []
    for step, batch in enumerate(batches):
        environments = [(images.to(dtype), targets) for images, targets in batch]
        value = loss(weights, environments, step)
        if restarts and step == SWITCH:
            optimizer = torch.optim.Adam(weights, lr=learning_rate)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses, weights


PAPER_CASES: dict[str, tuple[str, Callable[..., Tensor], dict[str, float], dict[str, Any]]] = {
    "erm": ("erm", erm_paper, ERM_PAPER, {}),
    "irm": ("irm", irm_paper, IRM_PAPER, {}),
    "vrex": ("vrex", rex_paper(torch.square), IRM_PAPER, {}),
    "mm_rex": ("mm_rex", rex_paper(torch.abs), IRM_PAPER, {}),
    "ri": ("mm_rex", rex_paper(torch.abs, 1.0), IRM_PAPER, {"lambda_min": 0.0}),
}
COLOURED = {"grayscale": False}
DOMAINBED_CASES = {"erm": domainbed_erm, "irm": domainbed_irm, "vrex": domainbed_vrex}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", PAPER_CASES)
def test_the_papers_steps(case, dtype, monkeypatch):
    stand_in_for_mnist(monkeypatch)
    algo, loss, settings, options = PAPER_CASES[case]
    assert_same_steps(
        published("colored_mnist", "irm-paper", algo, **options),
        loss,
        full,
        dtype,
        learning_rate=settings["lr"],
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_papers_grayscale_steps(dtype, monkeypatch):
    """The settings are the row's of the table to reproduce."""
    stand_in_for_mnist(monkeypatch)
    table = reproductions.read("irm-colored-mnist")
    (planned,) = plan(table, table.chosen(["grayscale"]), 1, "runs", [])
    coloured = build_data(
        replace(planned.run.settings, data={**planned.run.settings.data, **COLOURED})
    )
    assert_same_steps(
        planned.run.settings,
        grayscale_paper,
        lambda _, step: full(coloured, step),
        dtype,
        learning_rate=GRAYSCALE["lr"],
    )


@pytest.mark.parametrize(
    ("dataset", "dtype"),
    [
        ("colored_mnist", torch.float64),
        ("colored_mnist", torch.float32),
        ("rotated_mnist", torch.float64),
    ],
)
@pytest.mark.parametrize("algo", DOMAINBED_CASES)
def test_domainbeds_steps(algo, dataset, dtype, monkeypatch):
    stand_in_for_mnist(monkeypatch)
    assert_same_steps(
        published(dataset, "domainbed", algo),
        DOMAINBED_CASES[algo],
        minibatches,
        dtype,
        learning_rate=1e-3,
        restarts=algo != "erm",
    )


@pytest.mark.parametrize("algo", DOMAINBED_CASES)
def test_domainbeds_steps_on_a_folder(algo):
    """Its options of PACS; a small network in place of the ResNet-50, whose batches are small."""
    data = {**folder_options("pacs", PACS), "batch_size": 4}
    network = {"backbone": "mnist_cnn", "weights": "none", "batch_norm": "train"}
    settings = published("pacs", "domainbed", algo, data=data, network=network)
    assert_same_steps(
        settings,
        DOMAINBED_CASES[algo],
        partial(minibatches, size=4),
        torch.float64,
        learning_rate=5e-5,
        restarts=algo != "erm",
        steps=8,
    )


@needs_mnist
def test_the_irm_papers_first_steps_on_full_mnist():
    """25,000 images an environment: float32's sums must not lose digits there either."""
    assert_same_steps(
        published("colored_mnist", "irm-paper", "irm"),
        irm_paper,
        full,
        torch.float32,
        learning_rate=IRM_PAPER["lr"],
        steps=2,
    )


def assert_same_steps(
    settings: Settings,
    loss: Callable[..., Tensor],
    batches: Callable[[EnvironmentDataModule, int], Environments],
    dtype: torch.dtype,
    *,
    learning_rate: float,
    restarts: bool = False,
    steps: int | None = None,
) -> None:
    steps = steps or STEPS[dtype]
    data = build_data(settings)
    algorithm = build_algorithm(settings, data)
    losses, weights = their_steps(
        algorithm.network,
        loss,
        [batches(data, step) for step in range(steps)],
        dtype,
        learning_rate=learning_rate,
        restarts=restarts,
    )
    witness = Witness()
    double = dtype == torch.float64
    precision = "64-true" if double else "32-true"
    train(algorithm, data, steps, callbacks=[witness], precision=precision)

    assert witness.losses[0] == pytest.approx(losses[0], rel=1e-12 if double else 1e-6)
    # In float32 a stiff penalty multiplies what rounding leaves of the difference of two risks, and
    # MM-REx's loss, divided by its weight, *is* that difference: some 1e-7 of risks around 1.
    relative, absolute = (1e-12, 0.0) if double else (1e-3, 1e-6)
    assert witness.losses == pytest.approx(losses, rel=relative, abs=absolute)
    assert len(losses) == steps
    for ours, theirs in zip(algorithm.network.parameters(), weights, strict=True):
        assert ours.dtype == dtype
        difference = (ours - theirs).detach().abs()
        assert difference.max() < (1e-9 if double else steps * learning_rate)
        assert difference.mean() < (1e-10 if double else 0.01 * steps * learning_rate)
