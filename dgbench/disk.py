"""What to say where the disk takes nothing any more."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
# Bytes below which a disk counts as full, where an error does not say which one it was.
_LITTLE = 2**20


def complaint(error: OSError, out: str) -> str:
    """What a file system refused, and in which of the folders that the user named.

    Args:
        error: what it raised.
        out: folder of the records.
    """
    if error.errno not in FULL:
        return str(error)
    temporary = Path(tempfile.gettempdir())
    place = f"TMPDIR, {temporary}," if _is_of(error, temporary, out) else f"--out {out}"
    return f"{place} is full ({error.strerror})"


def _is_of(error: OSError, temporary: Path, out: str) -> bool:
    """Whether it is the folder for temporary files that is full, and not that of the records."""
    if error.filename is not None:
        inside = Path(str(error.filename)).absolute().is_relative_to
        return inside(temporary.absolute()) and not inside(Path(out).absolute())
    return shutil.disk_usage(temporary).free < _LITTLE <= shutil.disk_usage(out).free
