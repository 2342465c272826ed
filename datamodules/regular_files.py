"""Opens files that anybody may have put where files of a data set are."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, most: int | None = None) -> BinaryIO:
    """Open a file for reading, if it is one: a pipe would be waited for, and a device has no end.

    Args:
        path: The file.
        most: Bytes that it may have; None for any number.

    Raises:
        OSError: If it is not there, cannot be read, is no regular file, or is larger than that.
    """
    # Not to wait for whoever writes into a pipe; regular files do not know the flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    state = os.fstat(descriptor)
    reason = ""
    if not stat.S_ISREG(state.st_mode):
        reason = "it is no regular file"
    elif most is not None and state.st_size > most:
        reason = f"it has {state.st_size:,} bytes, more than {most:,}"
    if reason:
        os.close(descriptor)
        raise OSError(errno.EINVAL, reason, str(path))
    return open(descriptor, "rb")
