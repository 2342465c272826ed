"""``python -m dgbench``."""

from __future__ import annotations

import os
import sys


def main() -> int:
    """Runs the command line of this process; returns its exit code."""
    from dgbench.cli import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    # `python -m` puts the current folder first, where a user's own `datamodules` would shadow ours.
    here = {"", os.getcwd()}
    sys.path[:] = [p for p in sys.path if p not in here] + [p for p in sys.path if p in here]
    sys.exit(main())
