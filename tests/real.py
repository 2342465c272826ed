"""Real data, where DGBENCH_DATA says that they are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

NAMED = os.environ.get("DGBENCH_DATA", "")
HAS_MNIST = bool(NAMED) and (Path(NAMED) / "MNIST" / "raw").is_dir()

needs_mnist = pytest.mark.skipif(
    not HAS_MNIST, reason="full MNIST: set DGBENCH_DATA to a folder that holds MNIST/raw"
)
