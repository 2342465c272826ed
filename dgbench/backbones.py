"""Backbones with published weights: torchvision's ResNets and any model of timm."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dgbench.contents import by_content, is_recorded
from dgbench.errors import UsageError

TIMM = "timm/"
# The published numbers of the field rest on torchvision's first weights, so "default" means these
# by name and not whatever a later torchvision calls its default.
TORCHVISION = {"resnet18": "ResNet18_Weights", "resnet50": "ResNet50_Weights"}
_FIRST_WEIGHTS = "IMAGENET1K_V1"
# What stands in a record for a file of weights; also the length of the hash behind it.
_NAMED = 4


class Normalization(nn.Module):
    """Takes from inputs in [0, 1] the mean and deviation that published weights were trained with.

    Args:
        mean: one number a channel.
        std: one number a channel.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        means, stds = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
        self.register_buffer("shift", -means / stds)
        self.register_buffer("scale", 1 / stds)

    def forward(self, inputs: Tensor) -> Tensor:
        """Maps inputs ``(n, channels, height, width)`` to the same shape."""
        return torch.addcmul(self.shift, inputs, self.scale)


def is_published(backbone: str) -> bool:
    """Whether there are published weights of a backbone."""
    return backbone in TORCHVISION or backbone.startswith(TIMM)


def recorded_name(backbone: str, weights: str) -> str:
    """A backbone as a record names it: of timm's weights, with the tag that tells them apart.

    Args:
        backbone: a published one.
        weights: ``default``, ``none`` or a file.
    """
    if not backbone.startswith(TIMM) or weights != "default":
        return backbone
    tag = _timm().get_pretrained_cfg(backbone.removeprefix(TIMM), allow_unregistered=False)
    name = backbone.removeprefix(TIMM).partition(".")[0]
    return f"{TIMM}{name}.{tag.tag}" if tag is not None and tag.tag else backbone


def recorded_weights(weights: str) -> str:
    """Weights as a record names them: a file by what is in it.

    Args:
        weights: ``default``, ``none``, a file, or what this returned for one.

    Raises:
        UsageError: when the file cannot be read.
    """
    if weights in ("default", "none"):
        return weights
    return by_content("network.weights", weights, "default, none or a file with a state dict")


def build_trunk(
    backbone: str, weights: str, input_shape: tuple[int, ...]
) -> tuple[nn.Sequential, int]:
    """Builds a backbone without its classifier, behind the normalisation of its weights.

    Args:
        backbone: a published one.
        weights: ``default``, ``none`` or a file.
        input_shape: ``(3, height, width)``.

    Returns:
        What maps inputs in [0, 1] to features, and the number of features.

    Raises:
        UsageError: for an unknown model, inputs that it does not take, weights that are not on the
            disk and cannot be fetched, and files that do not fit.
    """
    if len(input_shape) != 3 or input_shape[0] != 3:
        raise UsageError(
            f"network.backbone {backbone} takes images (3, height, width), but an input has shape "
            f"{input_shape}; use --network.backbone small_cnn or mlp."
        )
    if backbone.startswith(TIMM):
        model, head, normalization = _timm_model(backbone.removeprefix(TIMM), weights)
    else:
        model, head, normalization = _torchvision_model(backbone, weights)
    if weights not in ("default", "none"):
        _load_file(model, weights, head)
    trunk = nn.Sequential(normalization, model)
    return trunk, _features(trunk, backbone, input_shape)


def _torchvision_model(backbone: str, weights: str) -> tuple[nn.Module, str, Normalization]:
    from torchvision import models  # type: ignore[import-untyped]

    known = getattr(models, TORCHVISION[backbone])[_FIRST_WEIGHTS]
    model: Any = getattr(models, backbone)(weights=None)
    if weights == "default":
        try:
            state = known.get_state_dict(progress=False, check_hash=True)
        except Exception as error:
            # Whatever a network or a disk leads to: URLError, timeouts, OSError, a wrong hash.
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            raise _not_there(
                backbone, f"{folder / Path(known.url).name}, from {known.url}", error
            ) from error
        model.load_state_dict(state)
    model.fc = nn.Identity()
    statistics = known.transforms()
    return model, "fc", Normalization(tuple(statistics.mean), tuple(statistics.std))


def _timm_model(name: str, weights: str) -> tuple[nn.Module, str, Normalization]:
    timm = _timm()
    if not timm.is_model(name):
        architecture = name.partition(".")[0]
        close = get_close_matches(architecture, timm.list_models(), n=3)
        hint = f" Did you mean {' or '.join(TIMM + match for match in close)}?" if close else ""
        raise UsageError(f"timm has no model {name!r}.{hint} timm.list_models() names all.")
    try:
        model = timm.create_model(name, pretrained=weights == "default", num_classes=0)
    except Exception as error:
        # Whatever the hub's client raises without a network, or timm for a model without weights.
        folder = importlib.import_module("huggingface_hub.constants").HF_HUB_CACHE
        raise _not_there(TIMM + name, f"{folder}, from huggingface.co", error) from error
    config: Mapping[str, Any] = model.pretrained_cfg
    normalization = Normalization(tuple(config["mean"]), tuple(config["std"]))
    return model, str(config.get("classifier") or "head"), normalization


def _timm() -> Any:
    if importlib.util.find_spec("timm") is None:
        raise UsageError(
            "network.backbone timm/... needs the package timm: pip install 'dgbench[timm]'. "
            f"Without it there are {', '.join(TORCHVISION)}."
        )
    return importlib.import_module("timm")


def _not_there(backbone: str, place: str, error: Exception) -> UsageError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UsageError(
        f"The weights of {backbone} are not on this machine and could not be fetched ({reason}). "
        f"They belong in {place}: put them there, give a file with --network.weights FILE, or "
        "start from random ones with --network.weights none."
    )


def _load_file(model: nn.Module, weights: str, head: str) -> None:
    """Loads a state dict, strictly but for the classifier, which is the data set's."""
    if is_recorded(weights):
        raise UsageError(
            f"The record names its weights by their hash, {weights}; give the file they were read "
            "from with --network.weights."
        )
    given = _read_state(weights)
    own = model.state_dict()
    given = {name: value for name, value in given.items() if not name.startswith(f"{head}.")}
    lacking, unknown = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    shapes = [
        f"{name} {tuple(given[name].shape)} where {tuple(own[name].shape)} is needed"
        for name in own.keys() & given.keys()
        if given[name].shape != own[name].shape
    ]
    problems = (("lacks", lacking), ("has unknown", unknown), ("has other shapes:", sorted(shapes)))
    if any(names for _, names in problems):
        listed = "; ".join(f"it {what} {_some(names)}" for what, names in problems if names)
        raise UsageError(
            f"network.weights {weights} does not fit {type(model).__name__}: {listed}. Give a "
            "state dict of this backbone; only its classifier may differ or be absent."
        )
    model.load_state_dict(given)


def _read_state(weights: str) -> dict[str, Tensor]:
    try:
        content = torch.load(Path(weights).expanduser(), map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises whatever the damage leads to, and speaks of its own options.
        reason = "it is no file of torch.save, is damaged, or holds more than tensors"
        raise UsageError(
            f"network.weights {weights} cannot be read as a state dict ({reason}). Give a file "
            "that torch.save wrote of one."
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(
            f"network.weights {weights} holds no state dict; give a file that torch.save wrote of "
            "one, or of a dictionary with one under 'state_dict'."
        )
    # What DistributedDataParallel puts before every name.
    return {name.removeprefix("module."): value for name, value in state.items()}


@torch.no_grad()
def _features(trunk: nn.Module, backbone: str, input_shape: tuple[int, ...]) -> int:
    """Number of features, by a look at those of a black image."""
    trunk.eval()
    try:
        features: Tensor = trunk(torch.zeros(1, *input_shape))
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"network.backbone {backbone} does not take images of {input_shape[1]}x"
            f"{input_shape[2]} pixels ({reason}). Choose another size with --data.image_size."
        ) from error
    trunk.train()
    return features.shape[-1]


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
