"""In which way held-out environments differ from training ones: diversity and correlation shift.

Ye et al. (2022, OoD-Bench, https://arxiv.org/abs/2106.03721) take features z that tell two
distributions p and q apart. *Diversity shift* is half the integral of abs(p - q) where one of them
has no mass: what is new. *Correlation shift* is half the integral of
sqrt(p q) sum_y abs(p(y | z) - q(y | z)) where both have some: what means something else. Both lie
in [0, 1]. Environments of training, pooled, are p; those held out are q.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scipy.stats import gaussian_kde
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from datamodules.base import EnvironmentDataModule
from datamodules.seeds import derive_seed
from dgbench.networks import NetworkOptions, build_network
from dgbench.protocols import configs
from dgbench.runtime import seeded

TRIALS = 4
# Features that a network tells environments apart by, and points of the integrals, as published.
DIMENSIONS = 8
POINTS = 10_000
# A distribution is absent where its density is below the first, present above the second: the
# thresholds of the paper's code.
ABSENT, PRESENT = 1e-12, 5e-4
# Rows of either side, at the most, and of how many one is measured and not trained on.
MOST_ROWS, _PARTS = 10_000, 5
# Fewer rows of a class make no density.
_FEWEST = 2 * DIMENSIONS

# The paper's code: SGD, then an average of the weights of as many passes again.
PASSES = 5
_BATCH = 32
_LEARNING_RATE, _LAST_LEARNING_RATE = 0.05, 0.025
_MOMENTUM, _WEIGHT_DECAY = 0.9, 1e-4
# Images with longer sides are shrunk to the first; with sides up to the second the network is the
# IRM paper's MLP, as published for Colored MNIST.
_LARGEST_SIDE, _LARGEST_OF_MLP = 64, 28
_READ_ROWS = 256

FloatArray = npt.NDArray[np.float64]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Densities:
    """Two distributions of features and classes, at points z.

    Attributes:
        first: p(z), ``(points,)``.
        second: q(z), ``(points,)``.
        first_of_class: p(z | y), ``(classes, points)``.
        second_of_class: q(z | y), ``(classes, points)``.
        shares: P(y), ``(classes,)``; the same in both.
        sampling: density that the points were drawn from, ``(points,)``.
    """

    first: FloatArray
    second: FloatArray
    first_of_class: FloatArray
    second_of_class: FloatArray
    shares: FloatArray
    sampling: FloatArray


@dataclass(frozen=True)
class Shift:
    """Diversity and correlation shift, each 0 to 1."""

    diversity: float
    correlation: float


@dataclass(frozen=True)
class ShiftReport:
    """How held-out environments differ from training ones.

    Attributes:
        training: names of the training environments, pooled.
        held_out: names of those held out, pooled.
        network: what the features are of.
        rows: of either side, to train it and to measure.
        trials: one result for each trial.
        alike: what the same estimate says of two random halves of both sides, where nothing
            differs: what is not above it is noise.
        published: name of a figure, mean and deviation; empty where there is none.
    """

    training: tuple[str, ...]
    held_out: tuple[str, ...]
    network: str
    rows: tuple[int, int]
    trials: tuple[Shift, ...]
    alike: tuple[Shift, ...]
    published: dict[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def integrate(densities: Densities) -> Shift:
    """Both shifts, by importance sampling.

    Args:
        densities: the two distributions.
    """
    p, q = densities.first, densities.second
    weights = 1 / (2 * len(p) * densities.sampling)
    new = (p < ABSENT) | (q < ABSENT)
    common = (p > PRESENT) & (q > PRESENT)
    ratio = np.sqrt(q[common] / p[common])
    gaps = np.abs(
        densities.first_of_class[:, common] * ratio - densities.second_of_class[:, common] / ratio
    )
    return Shift(
        float((np.abs(p - q) * weights)[new].sum()),
        float((densities.shares @ gaps * weights[common]).sum()),
    )


def estimate(first: Pair, second: Pair, seed: int) -> Densities:
    """Densities by kernels (Scott's bandwidth) on standardised features, as the paper has it.

    Args:
        first: features ``(n, dimensions)`` and classes ``(n,)`` of a sample.
        second: the same of another, with as many rows of each class.
        seed: decides the points.

    Raises:
        LinAlgError: where features have no density, as one depends on the others.
    """
    both = torch.cat([first[0], second[0]])
    centre, scale = both.mean(dim=0), both.std(dim=0)

    def density(features: Tensor) -> gaussian_kde:
        return gaussian_kde(((features - centre) / scale).double().numpy().T)

    proposal = density(both)
    points = proposal.resample(POINTS, seed=np.random.default_rng(seed))
    classes, counts = np.unique(first[1].numpy(), return_counts=True)

    def of_classes(features: Tensor, labels: Tensor) -> FloatArray:
        return np.stack([density(features[labels == int(y)])(points) for y in classes])

    return Densities(
        density(first[0])(points),
        density(second[0])(points),
        of_classes(*first),
        of_classes(*second),
        counts / counts.sum(),
        proposal(points),
    )


class EnvironmentClassifier(nn.Module):
    """Tells two samples apart by features of an input times a linear map of its class.

    Args:
        options: network of the features.
        input_shape: shape of one input.
        classes: number of classes.
        seed: decides the initial weights.
    """

    def __init__(
        self, options: NetworkOptions, input_shape: tuple[int, ...], classes: int, seed: int
    ) -> None:
        super().__init__()
        self.classes = classes
        self.features = build_network(options, input_shape, DIMENSIONS, seed)
        with seeded(derive_seed(seed, "shifts")):
            self.of_class = nn.Linear(classes, DIMENSIONS)
            self.head = nn.Linear(DIMENSIONS, 2)
            for line in (self.of_class, self.head):
                nn.init.xavier_uniform_(line.weight)
                nn.init.zeros_(line.bias)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Logits of the two samples, ``(n, 2)``."""
        classes = F.one_hot(labels, self.classes).float()
        logits: Tensor = self.head(self.features(inputs) * self.of_class(classes))
        return logits


def train(
    model: EnvironmentClassifier, first: Pair, second: Pair, generator: torch.Generator
) -> nn.Module:
    """Trains the classifier as the paper's code does.

    Args:
        model: what to train, in place.
        first: inputs and classes of one sample.
        second: the same of the other.
        generator: decides the order.

    Returns:
        The network of its features, with averaged weights.
    """
    averaged = AveragedModel(model)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=_LEARNING_RATE, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY
    )
    batches = max(1, len(first[1]) // _BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, T_max=batches * PASSES, eta_min=_LAST_LEARNING_RATE
    )
    for turn in range(2 * PASSES):
        orders = (torch.randperm(len(first[1]), generator=generator) for _ in range(2))
        for rows in zip(*(order.tensor_split(batches) for order in orders), strict=True):
            (inputs, labels), sides = _joined(first, second, *rows)
            loss = F.cross_entropy(model(inputs, labels), sides)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if turn < PASSES:
                schedule.step()
            else:
                averaged.update_parameters(model)
    trained = averaged.module.get_submodule("features")
    return trained.eval()


def _joined(first: Pair, second: Pair, *rows: Tensor) -> tuple[Pair, Tensor]:
    """Rows of both samples, and which one each is of."""
    inputs, labels = (
        torch.cat([part[own] for part, own in zip(parts, rows, strict=True)])
        for parts in zip(first, second, strict=True)
    )
    return (inputs, labels), torch.arange(2).repeat_interleave(len(labels) // 2)


def measure(data: EnvironmentDataModule, name: str) -> ShiftReport | str:
    """Both shifts between the training environments and those held out.

    Networks are trained on four fifths of rows of the main splits and measured on the others, with
    as many rows of each class on either side. This reads what is held out: nothing may be chosen
    by it.

    Deviations: fixed thresholds, as in the paper, where the tables of its code are calibrated;
    images above 64 pixels a side are shrunk to them and read by a small network without published
    weights, where the paper takes a ResNet-18 with ImageNet's.

    Args:
        data: the data set; some environments must be held out.
        name: of the data set, for published figures.

    Returns:
        What was found, or why nothing could be.
    """
    sides = (data.train_environments, data.test_environments)
    training_names, held_out_names = (
        tuple(data.environment_names[index] for index in side) for side in sides
    )
    known = published(name, held_out_names)
    options = _network(data.input_shape)
    shifts: list[Shift] = []
    alike: list[Shift] = []
    for trial in range(TRIALS):
        generator = torch.Generator().manual_seed(derive_seed(data.data_seed, "shifts", trial))
        samples = _samples(data, sides, generator)
        if samples is None:
            return _not_measured(_too_few(data, sides), known)
        training, measured = samples
        shape = tuple(training[0][0].shape[1:])
        model = EnvironmentClassifier(options, shape, len(data.class_names), trial)
        features = train(model, *training, generator)
        with torch.no_grad():
            ours, theirs = ((features(inputs), labels) for inputs, labels in measured)
        try:
            shifts.append(integrate(estimate(ours, theirs, trial)))
            alike.append(integrate(estimate(*_halves(ours, theirs, generator), trial)))
        except np.linalg.LinAlgError:
            flat = "the features that tell environments apart have no density"
            return _not_measured(flat, known)
    return ShiftReport(
        training_names,
        held_out_names,
        f"{options.backbone} of width {options.width}",
        (len(training[0][1]), len(measured[0][1])),
        tuple(shifts),
        tuple(alike),
        known,
    )


def _too_few(data: EnvironmentDataModule, sides: tuple[Sequence[int], Sequence[int]]) -> str:
    classes = len(data.class_names)
    training, held_out = (_labels(data, side)[1].bincount(minlength=classes) for side in sides)
    best = int(torch.minimum(training, held_out).argmax())
    return (
        f"that takes a class with {_PARTS * _FEWEST} images in the main splits of the training "
        f"environments and as many in those held out, and {data.class_names[best]}, which has the "
        f"most, has {training[best]} and {held_out[best]}"
    )


def _not_measured(why: str, theirs: Mapping[str, tuple[float, float]]) -> str:
    figures = ", ".join(f"{shift} {_cell(*figure)}" for shift, figure in theirs.items())
    beside = f" Published: {figures}." * bool(theirs)
    return f"Diversity and correlation shift are not measured: {why}.{beside}"


def _network(input_shape: tuple[int, ...]) -> NetworkOptions:
    if len(input_shape) == 3 and max(input_shape[1:]) > _LARGEST_OF_MLP:
        return NetworkOptions("small_cnn")
    return NetworkOptions("mlp", width=390)


def _samples(
    data: EnvironmentDataModule,
    sides: tuple[Sequence[int], Sequence[int]],
    generator: torch.Generator,
) -> tuple[tuple[Pair, Pair], tuple[Pair, Pair]] | None:
    """Random rows of both sides, as many of each class, to train and to measure; None if few."""
    pools = [_labels(data, side) for side in sides]
    classes = len(data.class_names)
    counts = torch.stack([labels.bincount(minlength=classes) for _, labels in pools]).amin(dim=0)
    counts = (counts * min(1.0, MOST_ROWS / max(1, int(counts.sum())))).long()
    parts = (counts // _PARTS).tolist()  # of a class, to measure
    kept = [y for y, part in enumerate(parts) if part >= _FEWEST]
    if not kept:
        return None
    training: list[Pair] = []
    measured: list[Pair] = []
    for places, labels in pools:
        order = torch.randperm(len(labels), generator=generator)
        rows = {y: order[labels[order] == y][: int(counts[y])] for y in kept}
        training.append(_read(data, places[torch.cat([rows[y][parts[y] :] for y in kept])]))
        measured.append(_read(data, places[torch.cat([rows[y][: parts[y]] for y in kept])]))
    return (training[0], training[1]), (measured[0], measured[1])


def _labels(data: EnvironmentDataModule, side: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Environment and index of main splits' rows, ``(n, 2)``, and their classes, ``(n,)``."""
    places, labels = [], []
    for index in side:
        own = data.split_indices(index, "main")
        places.append(torch.stack([torch.full_like(own, index), own], dim=1))
        labels.append(data.environment(index).targets[own])
    return torch.cat(places), torch.cat(labels)


def _read(data: EnvironmentDataModule, places: Tensor) -> Pair:
    """Inputs, shrunk where they are large, and classes."""
    inputs, targets = [], []
    for index in sorted(set(places[:, 0].tolist())):
        environment, own = data.environment(index), places[places[:, 0] == index, 1]
        for start in range(0, len(own), _READ_ROWS):
            part = own[start : start + _READ_ROWS]
            inputs.append(_shrunk(environment.inputs.index_select(0, part)))
            targets.append(environment.targets[part])
    return torch.cat(inputs), torch.cat(targets)


def _shrunk(images: Tensor) -> Tensor:
    if images.dim() != 4 or max(images.shape[2:]) <= _LARGEST_SIDE:
        return images
    return F.interpolate(images, (_LARGEST_SIDE, _LARGEST_SIDE), mode="bilinear", antialias=True)


def _halves(first: Pair, second: Pair, generator: torch.Generator) -> tuple[Pair, Pair]:
    """Both samples mixed and cut in two, each class alike."""
    features, labels = (torch.cat(parts) for parts in zip(first, second, strict=True))
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]
    one, other = ((features[own], labels[own]) for own in (order[::2], order[1::2]))
    return one, other


def published(name: str, held_out: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Published mean and deviation of each shift; empty where there are none.

    Args:
        name: the data set.
        held_out: names of the environments held out.
    """
    content = yaml.safe_load((configs() / "shifts" / "published.yaml").read_text()).get(name)
    if content is None or content["held_out"] not in (list(held_out), "each in turn"):
        return {}
    return {shift: tuple(content[shift]) for shift in ("diversity", "correlation")}


def show(console: Console, found: ShiftReport | str) -> None:
    """Prints both shifts, what they are where nothing differs, and published figures.

    Args:
        console: where to print.
        found: what was measured, or why nothing was.
    """
    if isinstance(found, str):
        console.print(escape(found), highlight=False)
        return
    sides = f"{', '.join(found.training)} to {', '.join(found.held_out)}"
    table = Table(title=escape(f"From {sides}"), title_justify="left")
    table.add_column("shift")
    for column in ("ours", "nothing differs", "published"):
        table.add_column(column, justify="right")
    for shift in ("diversity", "correlation"):
        ours, alike = (
            _cell(*_moments([getattr(one, shift) for one in trials]))
            for trials in (found.trials, found.alike)
        )
        theirs = found.published.get(shift)
        table.add_row(shift, ours, alike, _cell(*theirs) if theirs else "none")
    console.print(table)
    training, measured = found.rows
    console.print(
        f"After Ye et al. (2022): features of the {found.network}, {len(found.trials)} trials, "
        f"{training:,} rows a side to tell the environments apart and {measured:,} to measure. It "
        "reads what is held out: choose nothing by it.",
        highlight=False,
    )


def _moments(values: Sequence[float]) -> tuple[float, float]:
    return float(np.mean(values)), float(np.std(values))


def _cell(mean: float, deviation: float) -> str:
    return f"{mean:.4f} ± {deviation:.4f}"
