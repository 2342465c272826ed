"""Files as a record names them: by what is in them, since a path says nothing elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dgbench.errors import UsageError

_HASH, _DIGITS = "sha256:", 16


def is_recorded(file: str) -> bool:
    """Whether this is what a record says of a file, which was left behind."""
    return file.startswith(_HASH)


def by_content(option: str, file: str, allowed: str) -> str:
    """A file by its content: ``sha256:`` and 16 digits; what this returned stays as it is.

    Args:
        option: what names the file, for the message.
        file: its path.
        allowed: what may be given, for the message.

    Raises:
        UsageError: when the file cannot be read.
    """
    if is_recorded(file):
        return file
    try:
        content = Path(file).expanduser().read_bytes()
    except OSError as error:
        raise UsageError(
            f"{option} {file} cannot be read ({error.strerror}). Give {allowed}."
        ) from error
    return hashed(content)


def hashed(content: bytes) -> str:
    """What stands for a content: ``sha256:`` and 16 digits.

    Args:
        content: of a file, or of several.
    """
    return _HASH + hashlib.sha256(content).hexdigest()[:_DIGITS]
