"""What can be asked of variables alone, without looking at the target."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import special

from dgbench.icp.sample import FloatArray

_SMALLEST_SPREAD = 1e-6  # of a component's standard deviation, relative to the largest


def principal_components(values: npt.ArrayLike, most: int) -> FloatArray:
    """The directions in which rows differ most.

    Args:
        values: ``(n, p)``.
        most: how many components, at most; ones without spread are left out.

    Returns:
        ``(n, k)`` with ``k <= most``, uncorrelated, with mean 0 and standard deviation 1.
    """
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    spreads, directions = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(-spreads)[:most]
    scale = np.sqrt(np.maximum(spreads[order], 0))
    kept = scale > _SMALLEST_SPREAD * scale.max(initial=0)
    components: FloatArray = centred @ directions[:, order[kept]] / scale[kept]
    return components


def shift_p_value(values: npt.ArrayLike, environment: npt.ArrayLike) -> float:
    """Does the mean of a variable move between environments?

    Wilks' test of equal means (one-way multivariate analysis of variance) with Bartlett's
    chi-squared law, p (K - 1) degrees of freedom for p columns and K environments.

    Args:
        values: ``(n, p)``, independent rows.
        environment: ``(n,)``, numbers of the environments, 0..K-1.

    Returns:
        The p-value of "it does not move"; 1 for values without spread.
    """
    components = principal_components(values, np.shape(values)[1])
    groups = np.asarray(environment)
    counts = np.bincount(groups)
    count, columns = components.shape
    if not columns:
        return 1.0
    sums = np.stack([np.bincount(groups, column) for column in components.T], axis=1)
    between = (sums.T / counts) @ sums / count
    # Components are uncorrelated and of variance 1: their total scatter is the identity.
    _, log_ratio = np.linalg.slogdet(np.eye(columns) - between)
    statistic = -(count - 1 - (columns + len(counts)) / 2) * log_ratio
    return float(special.chdtrc(columns * (len(counts) - 1), max(0.0, statistic)))
