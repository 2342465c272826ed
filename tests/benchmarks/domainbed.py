"""What the protocols domainbed cost beside DomainBed's own arithmetic, in CPU time.

    DGBENCH_DATA=FOLDER python tests/benchmarks/domainbed.py

First, building Rotated MNIST: image by image through PIL, as DomainBed does, against one tensor
rotation an environment. Second, a run of Colored MNIST with its checks, put together from measured
pieces: DomainBed evaluates all 70,000 images every 100 steps, we what a selection rule reads (the
training environments' holdout and the held-out environment), and everything once at the end and at
the selected check. The peer's sides are restatements on plain torch and torchvision. Sides take
turns in one process on one thread; ratios are medians over rounds of theirs to ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import functional as transforms  # type: ignore[import-untyped]

from datamodules.base import EnvironmentDataModule
from datamodules.environments import Split
from datamodules.full_mnist import load_digits
from dgbench.evaluation import evaluate, splits_for_selection
from dgbench.settings import resolve
from dgbench.training import build_algorithm, build_data, build_trainer

BUILD_DEMAND, RUN_DEMAND = 10.0, 1.4
STEPS, CHECK_EVERY, IMAGES = 5001, 100, 70_000
TIMED_STEPS = 6


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def shown(name: str, theirs: list[float], ours: list[float], demand: float, unit: str) -> None:
    """Prints medians, the ratio with its spread, and what is demanded of it."""
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    print(
        f"{name}: theirs {statistics.median(theirs):.2f} {unit}, ours {statistics.median(ours):.2f}"
        f" {unit}: {statistics.median(ratios):.2f} times less "
        f"({min(ratios):.2f} to {max(ratios):.2f}; demand: at least {demand})"
    )


# Building Rotated MNIST


def build_with_pil(images: Tensor, angles: tuple[int, ...]) -> list[Tensor]:
    """datasets.py of DomainBed: each environment's images turned one by one."""
    environments = []
    for number, angle in enumerate(angles):
        chosen = images[number :: len(angles)]
        turned = torch.zeros(len(chosen), 1, 28, 28)
        for position, image in enumerate(chosen):
            picture = transforms.rotate(
                transforms.to_pil_image(image),
                angle,
                fill=[0],
                interpolation=transforms.InterpolationMode.BILINEAR,
            )
            turned[position] = transforms.to_tensor(picture)
        environments.append(turned)
    return environments


def building(rounds: int) -> None:
    """Times both sides, then compares pixels."""
    config = {"algo": "erm", "dataset": "rotated_mnist", "protocol": "domainbed", "test_env": 0}
    data = build_data(resolve(config))
    images = torch.tensor(load_digits("mnist", None, download=False).images)
    angles: tuple[int, ...] = data.angles_degrees  # type: ignore[attr-defined]
    theirs, ours = [], []
    for _ in range(rounds):
        theirs.append(timed(lambda: build_with_pil(images, angles)))
        ours.append(timed(lambda: [data.load_environment(i) for i in range(len(angles))]))
    shown("building Rotated MNIST", theirs, ours, BUILD_DEMAND, "CPU-s")
    apart = []
    for index, angle in enumerate(angles):
        environment = data.load_environment(index)
        sources = environment.sources[:500]
        expected = build_with_pil(images[sources], (angle,))[0]
        apart.append((environment.inputs[:500] - expected).abs() * 255)
    within = (torch.cat(apart) < 1 + 1e-3).double().mean().item()
    print(f"pixels at most one grey level apart: {100 * within:.3f} %")


# A run of Colored MNIST


def steps_of(data: EnvironmentDataModule, *, restated: bool) -> Callable[[], None]:
    """Some training steps of ERM, through our algorithm or DomainBed's update restated."""
    algorithm = build_algorithm(settings_of(), data)
    network, loader = algorithm.network, iter(data.train_dataloader())
    plain = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=0.0)
    optimizer = plain if restated else algorithm.configure_optimizers()
    network.rows = None if restated else network.rows

    def run() -> None:
        for _ in range(TIMED_STEPS):
            batch = next(loader)
            if restated:
                loss = F.cross_entropy(network(batch.inputs), batch.targets)
            else:
                loss = algorithm.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return run


@torch.no_grad()
def evaluate_like_domainbed(network: nn.Module, images: Tensor, targets: Tensor) -> float:
    """misc.accuracy of DomainBed: batches of 64, logits to one prediction each."""
    network.eval()
    correct = total = 0.0
    for inputs, labels in zip(images.split(64), targets.split(64), strict=True):
        right = network(inputs).argmax(1).eq(labels).float()
        correct += right.sum().item()
        total += len(labels)
    network.train()
    return correct / total


def settings_of():
    """The protocol with its published ERM."""
    return resolve({"algo": "erm", "protocol": "domainbed", "test_env": 2})


def running(rounds: int) -> None:
    """Times steps and evaluation on both sides and adds up a run."""
    data = build_data(settings_of())
    data.steps = (rounds + 1) * TIMED_STEPS
    data.setup()
    read = sum(len(data.split_indices(*split)) for split in splits_for_selection(data))
    network = build_algorithm(settings_of(), data).network
    plugin = build_trainer(settings_of(), logger=False).precision_plugin
    environment = data.environment(0)
    chosen = environment.holdout
    images, targets = environment.inputs[chosen], environment.targets[chosen]
    part: list[tuple[int, Split]] = [(0, "holdout")]
    counted = len(data.split_indices(0, "holdout"))
    peer_steps, our_steps = (steps_of(data, restated=restated) for restated in (True, False))
    names = ("their step", "our step", "their image", "our image")
    pieces: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds + 1):
        pieces["their step"].append(timed(peer_steps) / TIMED_STEPS)
        pieces["our step"].append(timed(our_steps) / TIMED_STEPS)
        theirs = timed(lambda: evaluate_like_domainbed(network, images, targets))
        pieces["their image"].append(theirs / len(targets))
        ours = timed(lambda: evaluate(network, data, part, torch.device("cpu"), plugin))
        pieces["our image"].append(ours / counted)
    for name, values in pieces.items():
        print(f"{name:<12}{1000 * statistics.median(values[1:]):.2f} CPU-ms")
    checks = -(-STEPS // CHECK_EVERY)
    rest = 2 * (IMAGES - read)
    rows = list(zip(*(values[1:] for values in pieces.values()), strict=True))
    shown(
        f"a run of {STEPS} steps (theirs evaluates {checks} x {IMAGES:,} images, ours "
        f"{checks} x {read:,} and {rest:,} more once)",
        [STEPS * step + checks * IMAGES * image for step, _, image, _ in rows],
        [STEPS * step + (checks * read + rest) * image for _, step, _, image in rows],
        RUN_DEMAND,
        "CPU-s",
    )


def main() -> None:
    """Both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    building(rounds)
    running(rounds)


if __name__ == "__main__":
    main()
