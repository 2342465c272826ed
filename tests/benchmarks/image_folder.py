"""What input and a step cost on a folder of images, beside DomainBed's PIL pipeline, in CPU time.

    python tests/benchmarks/image_folder.py [--root FOLDER]

Without a folder of ROOT/<environment>/<class>/ it makes one: 227x227 JPEG files, PACS's size. The
peer's side restates the transforms of DomainBed's datasets.py on torchvision, image by image from
the file; ours is what a training stream and an evaluation hand out, of a cache that was filled
before, then normalised as a network does it. Sides take turns in one process on one thread; ratios
are medians over rounds of theirs to ours. Then a ResNet-18's step in four settings, what opening a
data set costs the second time, and how much faster than one process the first time is.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms  # type: ignore[import-untyped]

from datamodules.decoding import Decoder
from datamodules.image_folder import ImageFolder
from dgbench.networks import NetworkOptions, build_network
from dgbench.runtime import quiet_lightning
from dgbench.settings import Settings, resolve
from dgbench.training import build_algorithm, build_data, build_trainer

SIZE, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILES = 10_000
STEP_ROWS = 4  # of an environment: a ResNet's step is long

_END = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
TRAINING = transforms.Compose(
    [
        transforms.RandomResizedCrop(SIZE, scale=(0.7, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ColorJitter(0.3, 0.3, 0.3, 0.3),
        transforms.RandomGrayscale(),
        *_END,
    ]
)
EVALUATION = transforms.Compose([transforms.Resize((SIZE, SIZE)), *_END])


def timed(call: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def shown(name: str, theirs: list[float], ours: list[float], demand: str) -> None:
    """Prints CPU milliseconds an image, the ratio with its spread, and what is demanded."""
    ratios = [t / o for t, o in zip(theirs, ours, strict=True)]
    print(
        f"{name}: theirs {1000 * statistics.median(theirs):.2f} CPU-ms an image, ours "
        f"{1000 * statistics.median(ours):.2f}: {statistics.median(ratios):.2f} times less "
        f"({min(ratios):.2f} to {max(ratios):.2f}; demand: {demand})"
    )


def make_folder(root: Path, images: int, size: int) -> Path:
    """Writes images with edges and some noise, as compressible as photos, into 3 x 2 classes."""
    random = np.random.default_rng(0)
    for number in range(images):
        coarse = Image.fromarray(random.integers(256, size=(9, 9, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)).astype(int)
        pixels = pixels + random.integers(-9, 10, size=pixels.shape)
        pixels[size // 3 : size // 2, size // 4 :] //= 2
        folder = root / f"environment{number % 3}x" / f"class{number // 3 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
    return root


def settings_of(root: Path, cache: str, *, rows: int = BATCH, precision: str = "32-true"):
    """DomainBed's protocol on a folder, with a ResNet-18 from random weights."""
    data = {"name": "image_folder", "root": str(root), "cache": cache, "batch_size": rows}
    network = {"backbone": "resnet18", "weights": "none", "batch_norm": "train"}
    trainer = {"precision": precision, "accelerator": "cpu"}
    return resolve(
        {"algo": "erm", "protocol": "domainbed", "test_env": 0}
        | {"data": data, "network": network, "trainer": trainer}
    )


def folder_of(settings: Settings) -> ImageFolder:
    """The data set of a run, loaded."""
    data = build_data(settings)
    assert isinstance(data, ImageFolder)
    data.setup()
    return data


def measure_input(data: ImageFolder, rounds: int) -> float:
    """Times both pipelines; CPU seconds of an image of our training input."""
    stream, steps = iter(data.train_dataloader()), []
    rows = BATCH * len(data.train_environments)
    paths = [s.path for i in data.train_environments for s in data.samples(i)][:rows]
    network = build_network(NetworkOptions("resnet18"), data.input_shape, 2, 0)
    normalise: Callable[[torch.Tensor], torch.Tensor] = network.featurizer[0]  # type: ignore[index]

    def by_pil(transform: Callable[[Image.Image], torch.Tensor]) -> float:
        def read() -> torch.Tensor:
            return torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])

        return timed(read) / len(paths)

    def training() -> float:
        return timed(lambda: normalise(next(stream).inputs)) / rows

    def loading() -> float:
        return timed(lambda: next(stream)) / rows

    def evaluation() -> float:
        batches = data.evaluation_batches(1, "main")
        seconds = timed(lambda: [normalise(inputs) for inputs, _, _ in batches])
        return seconds / len(data.split_indices(1, "main"))

    pieces = (lambda: by_pil(TRAINING), training, lambda: by_pil(EVALUATION), evaluation, loading)
    for _ in range(rounds + 1):
        steps.append([piece() for piece in pieces])
    theirs, ours, their_evaluation, our_evaluation, loaded = (
        list(column) for column in zip(*steps[1:], strict=True)
    )
    shown("training input", theirs, ours, "at most 1.5 CPU-ms, or 2.6 times less")
    shown("evaluation input", their_evaluation, our_evaluation, "0.5 CPU-ms, or 3.2 times less")
    print(f"the loader alone: {1 / statistics.median(loaded):.0f} images a CPU-s (demand: 600)")
    return statistics.median(ours)


def measure_steps(root: Path, cache: str, rounds: int, input_seconds: float) -> None:
    """Times a ResNet-18's step in float32 and bf16, in both memory layouts."""
    steps: dict[str, Callable[[], float]] = {}
    for precision in ("32-true", "bf16-mixed"):
        for layout in ("contiguous", "channels_last"):
            settings = settings_of(root, cache, rows=STEP_ROWS, precision=precision)
            settings.network["channels_last"] = layout == "channels_last"
            steps[f"{precision} {layout}"] = step_of(settings)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds + 1):
        for name, step in steps.items():
            seconds[name].append(step())
    first = seconds["32-true contiguous"][1:]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, values[1:], strict=True))
        middle = statistics.median(values[1:])
        print(
            f"a ResNet-18's step, {name}: {1000 * middle:.0f} CPU-ms an image, {ratio:.2f} times "
            f"less; input is {100 * input_seconds / middle:.1f} % of it (demand: 3)"
        )


def step_of(settings: Settings) -> Callable[[], float]:
    """A training step on one batch, timed an image."""
    data = folder_of(settings)
    algorithm = build_algorithm(settings, data)
    with quiet_lightning():
        plugin = build_trainer(settings, logger=False).precision_plugin
    optimizer = algorithm.configure_optimizers()
    batch = next(iter(data.train_dataloader()))

    def step() -> None:
        with plugin.train_step_context():
            loss = algorithm.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return lambda: timed(step) / len(batch.inputs)


def measure_opening(folder: Path) -> None:
    """Times the first and the second opening of many files."""
    root = make_folder(folder / "many", FILES, 160)

    def opened(image_size: int) -> tuple[float, float]:
        cpu, wall = time.process_time(), time.perf_counter()
        data = ImageFolder(
            root=str(root), test_envs=[0], image_size=image_size, cache=str(folder / "opening")
        )
        data.setup()
        return time.process_time() - cpu, time.perf_counter() - wall

    few = sorted(root.rglob("*.jpg"))[: FILES // 10]
    started = time.perf_counter()
    Decoder(96, "refuse")(few)
    alone = 10 * (time.perf_counter() - started)
    _, wall = opened(96)
    print(
        f"opening {FILES:,} images: {wall:.1f} s the first time, {alone / wall:.2f} times as "
        f"fast as one process decodes; {os.cpu_count()} cores (others may be busy)"
    )
    cpu, wall = opened(96)
    print(f"the second time: {wall:.2f} s, {cpu:.2f} CPU-s (demand: less than 1 s)")


def main() -> None:
    """All measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="a folder of environments, classes and images")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        root = options.root or make_folder(Path(name) / "images", 600, 227)
        cache = str(Path(name) / "cache")
        seconds = measure_input(folder_of(settings_of(root, cache)), options.rounds)
        measure_steps(root, cache, options.rounds, seconds)
        measure_opening(Path(name))


if __name__ == "__main__":
    main()
