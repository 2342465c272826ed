"""``python -m dgbench``."""

from __future__ import annotations

import io
import os
import sys


def main() -> int:
    """Runs the command line of this process; returns its exit code."""
    # `python -m` puts the current folder first, where a user's own `datamodules` would shadow ours,
    # and a `timm.py` that came along with a checkpoint would be imported for a missing package.
    # `--algo my_package.Mine` looks there all the same: the registry sees to it.
    # In our own checkout they are ours; behind an installed copy, a sweep's workers would run that.
    here = {"", os.getcwd()}
    if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) not in here:
        sys.path[:] = [path for path in sys.path if path not in here]
    # Names of files may be no text at all: shown as bytes, they end no command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    from dgbench.cli import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
