"""Networks: a featurizer, then a linear classifier, then logits of shape ``(n, classes)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

from datamodules.seeds import derive_seed

Backbone = Literal["mlp", "small_cnn", "mnist_cnn"]
_GROUPS = 8
# Numbers of the largest activation of a pass through a network on a CPU: 4 MiB, which a core's
# cache holds or nearly does. Far larger ones are asked of the system anew at every step.
_ACTIVATION = 2**20


class OneLogitClassifier(nn.Linear):
    """A linear head with one output z for two classes, returned as the logits ``(0, z)``.

    This is the head of the IRM paper's network: the cross-entropy of ``(0, z)`` is the binary
    cross-entropy of z, and so is its derivative by a scale, on which IRMv1 is built.
    """

    def __init__(self, in_features: int) -> None:
        super().__init__(in_features, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Maps features ``(n, in_features)`` to logits ``(n, 2)``."""
        score = super().forward(features)
        return torch.cat([torch.zeros_like(score), score], dim=-1)


class Network(nn.Module):
    """A featurizer and a classifier on top of it.

    Attributes:
        featurizer: maps inputs ``(n, ...)`` to features ``(n, features)``.
        classifier: maps features to logits ``(n, classes)``.
        rows: most inputs of one pass on a CPU; more go through in parts. None where a sample's
            logits depend on the others, as with batch normalisation.
    """

    def __init__(
        self, featurizer: nn.Module, classifier: nn.Module, rows: int | None = None
    ) -> None:
        super().__init__()
        self.featurizer = featurizer
        self.classifier = classifier
        self.rows = rows

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps inputs ``(n, ...)`` to logits ``(n, classes)``."""
        if self.rows is None or len(inputs) <= self.rows or inputs.device.type != "cpu":
            return self._logits(inputs)
        return torch.cat([self._logits(part) for part in torch.split(inputs, self.rows)])

    def _logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.featurizer(inputs))
        return logits


@dataclass(frozen=True)
class NetworkOptions:
    """What the network of a run is.

    Args:
        backbone: ``mlp`` (two hidden layers, Xavier initialisation: the IRM paper's network),
            ``small_cnn`` (three convolutions for 28x28 images, in well under a millisecond an
            image on one core) or ``mnist_cnn`` (DomainBed's four convolutions for 28x28 images,
            at width 128).
        width: units of a hidden layer of the ``mlp``; channels of the last convolution of the
            others. At least 1; for the ``mnist_cnn`` a multiple of 16.
        logits: ``all``, one for each class, or ``one`` for two classes, as the IRM paper has it.
    """

    backbone: Backbone = "mlp"
    width: int = 128
    logits: Literal["all", "one"] = "all"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"network.width is {self.width}; it must be at least 1.")
        if self.backbone == "mnist_cnn" and self.width % (2 * _GROUPS):
            raise ValueError(
                f"network.width is {self.width}; for the mnist_cnn it must be a multiple of "
                f"{2 * _GROUPS}."
            )


def build_network(
    options: NetworkOptions, input_shape: tuple[int, ...], classes: int, seed: int
) -> Network:
    """Builds and initialises a network from a seed, leaving global random state as it was.

    Args:
        options: what to build.
        input_shape: shape of one input, ``(channels, height, width)`` for images.
        classes: number of classes, at least 2.
        seed: decides the initial weights, whatever was drawn before.

    Returns:
        The network, on the CPU, in float32.

    Raises:
        ValueError: for a head with one logit where there are more than two classes, or a
            convolutional backbone on something that is no image.
    """
    if options.logits == "one" and classes != 2:
        raise ValueError(
            f"network.logits is 'one', which tells two classes apart, but there are {classes}; "
            "use --network.logits all."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "network"))
        featurizer = _FEATURIZERS[options.backbone](input_shape, options.width)
        classifier = (
            OneLogitClassifier(options.width)
            if options.logits == "one"
            else nn.Linear(options.width, classes)
        )
        if options.backbone == "mlp":
            _initialise_like_the_irm_paper(nn.ModuleList([featurizer, classifier]))
    largest = _LARGEST[options.backbone](input_shape, options.width)
    return Network(featurizer, classifier, rows=max(1, _ACTIVATION // largest))


def _mlp(input_shape: tuple[int, ...], width: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(prod(input_shape), width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.ReLU(inplace=True),
    )


def _small_cnn(input_shape: tuple[int, ...], width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(_channels("small_cnn", input_shape), 16, kernel_size=5, stride=2, padding=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, width, kernel_size=3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * width, width),
        nn.ReLU(),
    )


def _mnist_cnn(input_shape: tuple[int, ...], width: int) -> nn.Module:
    """``MNIST_CNN`` of DomainBed's networks.py: normalised behind the activation, mean-pooled."""
    channels = (_channels("mnist_cnn", input_shape), width // 2, width, width, width)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(channels)):
        stride = 2 if number == 1 else 1
        layers += [
            nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1),
            nn.ReLU(),
            nn.GroupNorm(_GROUPS, after),
        ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _channels(backbone: str, input_shape: tuple[int, ...]) -> int:
    """Channels of an input that must be an image."""
    if len(input_shape) != 3:
        raise ValueError(
            f"network.backbone {backbone} needs images (channels, height, width), but an input has "
            f"shape {input_shape}; use --network.backbone mlp."
        )
    return input_shape[0]


def _initialise_like_the_irm_paper(modules: nn.Module) -> None:
    for module in modules.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


# Numbers of the largest activation of one input.
_LARGEST: dict[Backbone, Callable[[tuple[int, ...], int], int]] = {
    "mlp": lambda shape, width: width,
    "small_cnn": lambda shape, width: 4 * prod(shape[1:]),
    "mnist_cnn": lambda shape, width: width // 2 * prod(shape[1:]),
}
_FEATURIZERS = {"mlp": _mlp, "small_cnn": _small_cnn, "mnist_cnn": _mnist_cnn}
