"""Published structural causal models: the linear unit tests and the IRM paper's synthetic models.

Both know which inputs an invariant predictor may use, so that every algorithm's claim can be
checked in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from datamodules.errors import DataError
from datamodules.scm import (
    SCM,
    Categorical,
    ChangeNoise,
    Do,
    FloatArray,
    Interventions,
    Mechanism,
    Normal,
    Table,
    Uniform,
)
from datamodules.seeds import derive_seed, uniforms

Split = Literal["train", "validation", "test"]
EXAMPLES = ("1", "2", "3", "1s", "2s", "3s")
SETTINGS = ("FOU", "FOS", "FEU", "FES", "POU", "POS", "PEU", "PES")


@dataclass(frozen=True)
class Problem:
    """A model whose vector `x` predicts the target invariantly and whose vector `z` tempts.

    Args:
        name: what its publication calls it.
        model: the model, with variables `x`, `z` and `target`.
        environments: what each environment does.
        rotation: an orthogonal matrix that mixes the inputs: they are ``[x, z] @ rotation``. None
            shows them as they are.
        causal: whether `x` holds the target's causes; in Example 3 it holds effects.
        weights: coefficients of `x` that make the target, where it is a number.
        seed: decides the rows.
    """

    name: str
    model: SCM
    environments: Mapping[str, Interventions]
    rotation: FloatArray | None
    causal: bool
    weights: FloatArray | None
    seed: int

    @property
    def is_regression(self) -> bool:
        """Whether the target is a number."""
        return self.weights is not None

    def sample(self, split: Split, count: int = 10_000, *, shuffled: bool | None = None) -> Table:
        """Draws rows of every environment.

        Args:
            split: which draws.
            count: rows of each environment.
            shuffled: whether `z` is shuffled within each environment, jointly, so that it keeps its
                law and says nothing about the target; by default in the split "test". Trained on
                shuffled rows, a predictor is the oracle.

        Returns:
            Columns are `x1`, `x2`, ... and `z1`, `z2`, ..., or `input1`, `input2`, ... where they
            are mixed: none of those is a cause.
        """
        seed = derive_seed(self.seed, split)
        table = self.model.table(
            self.environments, count, target="target", variables=["x", "z"], seed=seed
        )
        inputs, size = table.inputs, self.model.mechanisms["x"].size
        if split == "test" if shuffled is None else shuffled:
            orders = [
                start * count + np.argsort(uniforms(count, seed, "shuffle", name))
                for start, name in enumerate(self.environments)
            ]
            inputs = np.hstack([inputs[:, :size], inputs[np.concatenate(orders), size:]])
        if self.rotation is not None:
            names = tuple(f"input{i + 1}" for i in range(inputs.shape[1]))
            return table._replace(inputs=inputs @ self.rotation, variables=names, parents=())
        causes = tuple(name for name in table.variables if name.startswith("x"))
        return table._replace(inputs=inputs, parents=causes if self.causal else ())

    def weight_errors(self, line: FloatArray) -> tuple[float, float]:
        """How far a line is from the one that makes the target.

        Args:
            line: its weights on the inputs, mixed or not.

        Returns:
            Mean squared errors of its weights on `x` and on `z`, whose true ones are 0.
        """
        assert self.weights is not None, "the target is no number"
        own = line if self.rotation is None else self.rotation @ line
        size = len(self.weights)
        causal, other = own[:size] - self.weights, own[size:]
        return float(np.square(causal).mean()), float(np.square(other).mean())


def linear_unit_test(
    example: str,
    *,
    environments: int = 3,
    invariant: int = 5,
    spurious: int = 5,
    seed: int = 0,
) -> Problem:
    """One of the linear unit tests (Aubin et al., 2021, https://arxiv.org/abs/2102.10867).

    Example 1 is a regression from causes `x` and effects `z`, all noises growing with the
    environment. Example 2, cows and camels: the label is the sign of a quiet foreground `x`, a loud
    background `z` agrees with it in 95 to 99 %. Example 3: the label moves all of `x` by 0.1 either
    way, and `z` much further, in another direction in each environment. An `s` mixes the inputs by
    a random orthogonal matrix, drawn by torch.linalg.qr; weights, environments and rows are those
    of the example without it.

    Deviations: none from its code but the random numbers, which are raw PCG64 draws here. The
    labels of Example 3 are halves exactly, as there, in random order.

    Args:
        example: which one of `EXAMPLES`.
        environments: how many, at least 1. The first three are published; further ones are drawn.
        invariant: columns of `x`, at least 1.
        spurious: columns of `z`, at least 1.
        seed: decides weights, environments, the mixing and rows.

    Raises:
        DataError: If there is no such example, or a number is below 1.
    """
    _check_name("example", example, EXAMPLES)
    for option, number in (
        ("environments", environments),
        ("invariant", invariant),
        ("spurious", spurious),
    ):
        if number < 1:
            raise DataError(f"{option} is {number}; give 1 or more")
    build, causal = _EXAMPLES[example[0]]
    model, interventions, weights = build(environments, invariant, spurious, seed)
    size = invariant + spurious
    return Problem(
        name=example,
        model=model,
        environments={f"E{number}": done for number, done in enumerate(interventions)},
        rotation=_rotation(size, seed, "example", example[0]) if example.endswith("s") else None,
        causal=causal,
        weights=weights,
        seed=derive_seed(seed, "example", example[0]),
    )


def irm_paper_sem(
    setting: str, *, scales: Sequence[float] = (0.2, 2.0, 5.0), size: int = 10, seed: int = 0
) -> Problem:
    """A synthetic model of the IRM paper (Arjovsky et al., 2019, section 5.1).

    https://arxiv.org/abs/1907.02893. Causes `x` make `y` with weights 1, `y` makes effects `z`, and
    the target is the sum of `y`. A setting's letters say: F, all is observed, or P, a hidden `h`
    moves all three; O, the noise of `y` is the same everywhere (and that of `z` is not), or E, it
    has the environment's scale (and that of `z` is 1); U, inputs as they are, or S, mixed.

    Args:
        setting: which of the eight `SETTINGS`.
        scales: the environments' noise scales.
        size: columns of the inputs, half `x`, half `z`; even.
        seed: decides the hidden variable's weights, the mixing and rows.

    Raises:
        DataError: If there is no such setting, or the size is odd.
    """
    _check_name("setting", setting, SETTINGS)
    if size < 2 or size % 2:
        raise DataError(f"size is {size}; give an even number, half causes and half effects")
    hidden, heteroskedastic, mixed = (
        letter == which for letter, which in zip(setting, "PES", strict=True)
    )
    half = size // 2
    to_x, to_y, to_z = (
        _normal((half, half), seed, "synthetic chain", f"h to {name}") / size
        if hidden
        else unhidden
        for name, unhidden in (
            ("x", np.eye(half)),
            ("y", 0 * np.eye(half)),
            ("z", 0 * np.eye(half)),
        )
    )
    model = SCM(
        {
            "h": Mechanism(0.0, Normal(), size=half),
            "x": Mechanism(lambda h: h @ to_x, Normal(), size=half),
            "y": Mechanism(lambda x, h: x + h @ to_y, Normal(), size=half),
            "z": Mechanism(lambda y, h: y + h @ to_z, Normal(), size=half),
            "target": Mechanism(lambda y: y.sum(axis=1)),
        }
    )
    moved = ("h", "x", "y" if heteroskedastic else "z")
    return Problem(
        name=setting,
        model=model,
        environments={
            f"{scale:g}": {name: ChangeNoise(Normal(scale)) for name in moved} for scale in scales
        },
        rotation=_rotation(size, seed, "synthetic chain") if mixed else None,
        causal=True,
        weights=np.ones(half),
        seed=derive_seed(seed, "synthetic chain", setting[:2]),
    )


# The examples

_Parts = tuple[SCM, list[Interventions], FloatArray | None]


def _example_1(environments: int, invariant: int, spurious: int, seed: int) -> _Parts:
    to_y = _normal((invariant, invariant), seed, "example 1", "x to y") / invariant
    to_z = _normal((invariant, spurious), seed, "example 1", "y to z") / spurious
    model = SCM(
        {
            "x": Mechanism(0.0, Normal(), size=invariant),
            "y": Mechanism(lambda x: x @ to_y, Normal(), size=invariant),
            "z": Mechanism(lambda y: y @ to_z, Normal(), size=spurious),
            "target": Mechanism(lambda y: y.sum(axis=1)),
        }
    )
    drawn = 10 ** Uniform(-2, 1)(uniforms(environments, seed, "example 1", "scale"))
    scales = [0.1, 1.5, 2.0, *drawn[3:].tolist()][:environments]
    changed = [ChangeNoise(Normal(scale)) for scale in scales]
    return model, [{"x": change, "y": change} for change in changed], to_y.sum(axis=1)


def _example_2(environments: int, invariant: int, spurious: int, seed: int) -> _Parts:
    # Cow on grass, cow on sand, camel on sand, camel on grass.
    animal, ground = np.array([1.0, 1, -1, -1]), np.array([1.0, -1, -1, 1])
    quiet, noise = 0.01, 10**-0.5
    model = SCM(
        {
            "scene": Mechanism(0, Categorical((1, 1, 1, 1))),
            "x": Mechanism(
                lambda scene: quiet * animal[scene][:, None], Normal(quiet * noise), invariant
            ),
            "z": Mechanism(lambda scene: ground[scene][:, None], Normal(noise), spurious),
            "target": Mechanism(lambda x: x.sum(axis=1) > 0),
        }
    )
    agreement = Uniform(0.9, 1)(uniforms(environments, seed, "example 2", "agreement"))
    share = Uniform(0.3, 0.7)(uniforms(environments, seed, "example 2", "share"))
    published = [(0.95, 0.3), (0.97, 0.5), (0.99, 0.7)]
    drawn = list(zip(agreement[3:].tolist(), share[3:].tolist(), strict=True))
    laws = [
        Categorical((p * s, (1 - p) * s, p * (1 - s), (1 - p) * (1 - s)))
        for p, s in [*published, *drawn][:environments]
    ]
    return model, [{"scene": ChangeNoise(law)} for law in laws], None


def _example_3(environments: int, invariant: int, spurious: int, seed: int) -> _Parts:
    margin = 0.1
    model = SCM(
        {
            "target": Mechanism(0, _halves),
            "direction": Mechanism(0.0, size=spurious),
            "x": Mechanism(lambda target: margin * _sign(target), Normal(margin), invariant),
            "z": Mechanism(
                lambda target, direction: _sign(target) * direction, Normal(margin), spurious
            ),
        }
    )
    directions = _normal((environments, spurious), seed, "example 3", "direction")
    return model, [{"direction": Do(direction)} for direction in directions], None


def _halves(uniform: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """0 for one half of the rows and 1 for the other, exactly, in random order."""
    ranks = np.argsort(np.argsort(uniform))
    return (ranks >= len(ranks) // 2).astype(np.int64)


def _sign(target: FloatArray) -> FloatArray:
    """1 for class 0 and -1 for class 1, in a column."""
    return 1.0 - 2.0 * target[:, None]


_Build = Callable[[int, int, int, int], _Parts]
_EXAMPLES: Mapping[str, tuple[_Build, bool]] = {
    "1": (_example_1, True),
    "2": (_example_2, True),
    "3": (_example_3, False),
}


def _normal(shape: tuple[int, int], *parts: int | str) -> FloatArray:
    return Normal()(uniforms(shape[0] * shape[1], *parts).reshape(shape))


def _rotation(size: int, *parts: int | str) -> FloatArray:
    """A random orthogonal matrix, the Q of a matrix of normal numbers."""
    orthogonal, _ = torch.linalg.qr(torch.from_numpy(_normal((size, size), *parts, "mixing")))
    rotation: FloatArray = orthogonal.numpy()
    return rotation


def _check_name(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise DataError(f"there is no {what} {given!r}; choose one of {', '.join(known)}")
