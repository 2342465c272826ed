"""Networks: a featurizer, then a linear classifier, then logits of shape ``(n, classes)``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import prod
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.seeds import derive_seed
from dgbench import backbones
from dgbench.errors import UsageError
from dgbench.runtime import seeded

BatchNorm = Literal["train", "frozen"]
_GROUPS = 8
_ALWAYS = ("backbone", "width", "logits")
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
        batch_norm: ``frozen`` keeps batch normalisation at its running statistics while training.
        channels_last: whether images are laid out with their channels last.
        recipe: what it was built from, where :func:`build_network` built it.
    """

    def __init__(
        self,
        featurizer: nn.Module,
        classifier: nn.Module,
        rows: int | None = None,
        *,
        batch_norm: BatchNorm = "train",
        channels_last: bool = False,
        recipe: Recipe | None = None,
    ) -> None:
        super().__init__()
        self.featurizer = featurizer
        self.classifier = classifier
        self.rows = rows
        self.batch_norm = batch_norm
        self.channels_last = channels_last
        self.recipe = recipe
        if channels_last:
            self.to(memory_format=torch.channels_last)
        self.train()

    def train(self, mode: bool = True) -> Network:
        """Sets training mode, or evaluation's; frozen batch normalisation stays in the latter."""
        super().train(mode)
        if self.batch_norm == "frozen":
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps inputs ``(n, ...)`` to logits ``(n, classes)``."""
        if self.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
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
            ``small_cnn`` (three convolutions for images of 28x28 to 64x64, in well under a
            millisecond an image on one core), ``mnist_cnn`` (DomainBed's four convolutions for
            28x28 images, at width 128), ``resnet18`` or ``resnet50`` of torchvision, or any model
            of timm as ``timm/NAME``. The last two take inputs in [0, 1] and normalise them as their
            weights need it.
        width: units of a hidden layer of the ``mlp``; channels of the last convolution of the
            other small ones. At least 1; for the ``mnist_cnn`` a multiple of 16.
        logits: ``all``, one for each class, or ``one`` for two classes, as the IRM paper has it.
        weights: what a backbone of torchvision or timm starts from: ``default`` (torchvision's
            IMAGENET1K_V1, on which the field's published numbers rest; timm's for NAME), ``none``
            (random), or a FILE with a state dict.
        batch_norm: ``train`` normalises by each batch; ``frozen`` by the weights' running
            statistics, as DomainBed's published numbers do.
        dropout: share of the features set to zero before the classifier while training, in [0, 1).
        channels_last: lay images out with their channels last, which convolutions in bf16 need
            to be fast; on a CPU its rounding differs.
    """

    backbone: str = "mlp"
    width: int = 128
    logits: Literal["all", "one"] = "all"
    weights: str = "none"
    batch_norm: BatchNorm = "train"
    dropout: float = 0.0
    channels_last: bool = False

    def __post_init__(self) -> None:
        published = backbones.is_published(self.backbone)
        if not published and self.backbone not in _FEATURIZERS:
            known = ", ".join([*_FEATURIZERS, *backbones.TORCHVISION])
            raise UsageError(
                f"There is no network.backbone {self.backbone!r}. There are: {known}, timm/NAME."
            )
        if not published and (self.weights, self.batch_norm) != ("none", "train"):
            raise UsageError(
                f"network.weights is {self.weights!r} and network.batch_norm {self.batch_norm!r}, "
                f"but the {self.backbone} has neither published weights nor batch normalisation; "
                "leave them out, or use --network.backbone resnet18."
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(
                f"network.dropout is {self.dropout}; it must be from 0 up to, not including, 1."
            )
        if self.width < 1:
            raise UsageError(f"network.width is {self.width}; it must be at least 1.")
        if self.backbone == "mnist_cnn" and self.width % (2 * _GROUPS):
            raise UsageError(
                f"network.width is {self.width}; for the mnist_cnn it must be a multiple of "
                f"{2 * _GROUPS}."
            )

    def deciding(self) -> dict[str, Any]:
        """The options that mean something for the backbone, as a record keeps them."""
        options = asdict(self)
        if backbones.is_published(self.backbone):
            del options["width"]
            options["backbone"] = backbones.recorded_name(self.backbone, self.weights)
            options["weights"] = backbones.recorded_weights(self.weights)
            return options
        del options["weights"], options["batch_norm"]
        # Left out where they do nothing: a record from before they were there has the same run_id.
        return {name: value for name, value in options.items() if value or name in _ALWAYS}


class Recipe(NamedTuple):
    """What a network was built from, so that an algorithm can build others like it.

    Attributes:
        options: what was built.
        input_shape: shape of one input.
        classes: number of classes.
        seed: decided the initial weights.
    """

    options: NetworkOptions
    input_shape: tuple[int, ...]
    classes: int
    seed: int


class SideBySide(nn.Module):
    """Featurizers of several inputs; their features are joined."""

    def __init__(self, featurizers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.featurizers = nn.ModuleList(featurizers)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps one input ``(n, ...)`` for each featurizer to features ``(n, features)``."""
        pairs = zip(self.featurizers, inputs, strict=True)
        return torch.cat([featurizer(part) for featurizer, part in pairs], dim=-1)


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
        UsageError: for a head with one logit where there are more than two classes, a
            convolutional backbone on something that is no image, or weights that cannot be had.
    """
    if options.logits == "one" and classes != 2:
        raise UsageError(
            f"network.logits is 'one', which tells two classes apart, but there are {classes}; "
            "use --network.logits all."
        )
    published = backbones.is_published(options.backbone)
    with seeded(derive_seed(seed, "network")):
        featurizer: nn.Module
        if published:
            featurizer, width = backbones.build_trunk(
                options.backbone, options.weights, input_shape
            )
        else:
            width = options.width
            featurizer = _FEATURIZERS[options.backbone](input_shape, width)
        classifier = (
            OneLogitClassifier(width) if options.logits == "one" else nn.Linear(width, classes)
        )
        if options.backbone == "mlp":
            _initialise_like_the_irm_paper(nn.ModuleList([featurizer, classifier]))
    if options.dropout:
        featurizer = nn.Sequential(featurizer, nn.Dropout(options.dropout))
    rows = None
    if not published:
        rows = max(1, _ACTIVATION // _LARGEST[options.backbone](input_shape, width))
    return Network(
        featurizer,
        classifier,
        rows,
        batch_norm=options.batch_norm,
        channels_last=options.channels_last,
        recipe=Recipe(options, input_shape, classes, seed),
    )


def build_joint_network(
    recipe: Recipe, input_shapes: Sequence[tuple[int, ...]], *name: int | str
) -> Network:
    """Builds a network like another one that sees several inputs at once.

    Args:
        recipe: of the other one, whose backbone sees what is an image; numbers go through an
            ``mlp`` of its width, and so do the features of several inputs.
        input_shapes: shape of one of each of the inputs, at least one.
        *name: tells its initial weights from those of others of this recipe.

    Returns:
        The network, on the CPU, in float32; it maps a list of inputs to logits.
    """
    options, _, classes, seed = recipe
    numbers = NetworkOptions(width=options.width, logits=options.logits)
    parts = [
        build_network(
            options if len(shape) == 3 else numbers, shape, classes, derive_seed(seed, *name, part)
        )
        for part, shape in enumerate(input_shapes)
    ]
    featurizer: nn.Module = SideBySide([part.featurizer for part in parts])
    if len(parts) == 1:
        return Network(featurizer, parts[0].classifier)
    width = 0
    for part in parts:
        assert isinstance(part.classifier, nn.Linear)
        width += part.classifier.in_features
    joined = build_network(numbers, (width,), classes, derive_seed(seed, *name, "joined"))
    return Network(nn.Sequential(featurizer, joined.featurizer), joined.classifier)


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
        raise UsageError(
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
_LARGEST: dict[str, Callable[[tuple[int, ...], int], int]] = {
    "mlp": lambda shape, width: width,
    "small_cnn": lambda shape, width: 4 * prod(shape[1:]),
    "mnist_cnn": lambda shape, width: width // 2 * prod(shape[1:]),
}
_FEATURIZERS = {"mlp": _mlp, "small_cnn": _small_cnn, "mnist_cnn": _mnist_cnn}
