"""Random draws as pure functions of their names, equal on every machine and NumPy version.

Every draw is made of raw PCG64 integers: NumPy promises that bit generators and ``SeedSequence``
never change, which it does not promise for the distributions of ``Generator``. Nothing here reads
or moves a global random state.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt


def derive_seed(*parts: int | str) -> int:
    """Make one seed of the names of a draw.

    Args:
        *parts: What the draw is for, from the widest to the narrowest, such as
            ``(data_seed, "colored_mnist", "colour", 2)``. ``1`` and ``"1"`` differ.

    Returns:
        An integer in [0, 2**63): the first 8 bytes of the SHA-256 of the parts' JSON list, halved
        so that it fits a signed 64-bit integer.
    """
    text = json.dumps(parts, separators=(",", ":"), ensure_ascii=True)
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1


def raw_integers(count: int, *parts: int | str) -> npt.NDArray[np.uint64]:
    """Draw integers uniformly from [0, 2**64).

    Args:
        count: How many.
        *parts: The names of the draw, see `derive_seed`.

    Returns:
        (count,) uint64. A smaller count gives the beginning of a larger one.
    """
    return np.random.PCG64(derive_seed(*parts)).random_raw(count)


def permutation(count: int, *parts: int | str) -> npt.NDArray[np.int64]:
    """Shuffle the integers 0 to ``count - 1``.

    Args:
        count: How many.
        *parts: The names of the draw, see `derive_seed`.

    Returns:
        (count,) int64, the stable order of as many raw integers.
    """
    return np.argsort(raw_integers(count, *parts), kind="stable").astype(np.int64, copy=False)


def uniforms(count: int, *parts: int | str) -> npt.NDArray[np.float64]:
    """Draw numbers uniformly from (0, 1), whose ends they never reach.

    Args:
        count: How many.
        *parts: The names of the draw, see `derive_seed`.

    Returns:
        (count,) float64, the middles of the 2**53 equal parts of the interval.
    """
    leading = raw_integers(count, *parts) >> np.uint64(11)
    return (leading.astype(np.float64) + 0.5) * 2.0**-53


def bernoulli(count: int, probability: float, *parts: int | str) -> npt.NDArray[np.bool_]:
    """Toss coins.

    Args:
        count: How many.
        probability: Of True, in [0, 1]. A float times 2**64 is exact, so the threshold is an
            integer that no rounding can move.
        *parts: The names of the draw, see `derive_seed`.

    Returns:
        (count,) bool.
    """
    return raw_integers(count, *parts) < int(probability * 2**64)


def integers(count: int, bound: int, *parts: int | str) -> npt.NDArray[np.int64]:
    """Draw integers uniformly from [0, bound).

    The remainder favours small values, since ``bound`` does not divide 2**64: the total variation
    distance to the uniform law is at most ``bound / 2**66``, below 2**-50 for every bound up to
    65,536 and far beyond what any number of draws could show.

    Args:
        count: How many.
        bound: The first integer that is too large, at least 1.
        *parts: The names of the draw, see `derive_seed`.

    Returns:
        (count,) int64.
    """
    return (raw_integers(count, *parts) % np.uint64(bound)).astype(np.int64)
