"""A PyTorch Lightning benchmark suite for domain generalization.

Importing it is cheap; torch is loaded by the first function that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dgbench.networks import Network
    from leaderboard.records import Run

__version__ = "0.1.0"

# Rises with every change that can move a number; tables never mix versions.
BENCHMARK_VERSION = "2"


def fit(**config: Any) -> Run:
    """Trains one run, or returns its finished record; what ``dgbench fit`` calls.

    Args:
        **config: options by the names that a configuration file uses, for example
            ``fit(algo="irm", test_env=2)`` or
            ``fit(algo={"name": "irm", "penalty_weight": 1e3}, test_env="-90%", steps=100)``.

    Returns:
        The record: settings, checks and where it lies.

    Raises:
        dgbench.errors.UsageError: for names and values that are not allowed.
    """
    from dgbench.settings import resolve
    from dgbench.training import run

    return run(resolve(config))


def load(checkpoint: str | Path, algo: str | None = None) -> Network:
    """Loads the network of a checkpoint as a plain ``torch.nn.Module`` in evaluation mode.

    Args:
        checkpoint: a ``last.ckpt`` or ``selected.ckpt`` of a run.
        algo: the algorithm, if it is of your own, makes a network of its own and is not imported
            yet: a checkpoint from elsewhere imports nothing that its reader does not name.

    Returns:
        A module that maps inputs of the data set's shape to logits ``(n, classes)``.

    Raises:
        dgbench.errors.UsageError: when the file is no checkpoint of this suite, or names code that
            is neither named here nor imported.
    """
    from dgbench.arguments import as_flags
    from dgbench.checkpoints import read

    return read(Path(checkpoint), as_flags({"algo": algo} if algo else {})).network
