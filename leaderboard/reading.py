"""Reads files that anybody may have written: regular ones alone, and JSON with one meaning."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from collections.abc import Sequence
from io import BufferedReader
from typing import Any

import orjson

from leaderboard.errors import RecordError

_ATTEMPTS = 5  # to read a file that others replace, each with a new one
_DEEPEST = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LINE = orjson.OPT_APPEND_NEWLINE
_INDENTED = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE


def open_regular(path: str | os.PathLike[str], most: int | None = None) -> BufferedReader:
    """Open a file for reading, if it is one: a pipe would be waited for, and a device has no end.

    Args:
        path: The file.
        most: Bytes that it may have; None for any number.

    Raises:
        OSError: it is not there, or cannot be read.
        RecordError: it is no regular file, or is larger than that.
    """
    # Not to wait for whoever writes into a pipe; regular files do not know the flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    state = os.fstat(descriptor)
    if stat.S_ISREG(state.st_mode) and (most is None or state.st_size <= most):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISREG(state.st_mode):
        raise RecordError(f"{path}: has {state.st_size:,} bytes, more than {most:,}: leave it out")
    raise RecordError(f"{path}: is no regular file: put the file itself there, or leave it out")


def read_bytes(path: str | os.PathLike[str], most: int) -> bytes | None:
    """Read a file, None if it is not there; one that goes stale under NFS is opened anew.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError, RecordError: as `open_regular`.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with open_regular(path, most) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.ESTALE or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def parse_json(data: bytes) -> Any:
    """Parse JSON in which every name stands once and every number is one.

    Args:
        data: The text, in UTF-8.

    Raises:
        RecordError: it is not JSON, is nested deeply, names something twice, or holds half a
            character or a number that is not finite or has thousands of digits.
    """
    found = _as_written(data)
    if found is None:
        found = _parsed_carefully(data)
    if data.count(b"[") + data.count(b"{") > _DEEPEST:
        refuse_depth(found)
    return found


def _as_written(data: bytes) -> Any:
    """What a text says that is as a writer of ours leaves it, the usual case; None of any other.

    What is written back to the byte holds no name twice and no number that was rounded.
    """
    try:
        found = orjson.loads(data)
        if data.endswith(b"\n"):
            written = (orjson.dumps(found, None, option) for option in (_LINE, _INDENTED))
            return found if data in written else None
        return found if data == orjson.dumps(found) else None
    except (ValueError, TypeError):
        return None


def refuse_depth(value: Any, levels: int = 0) -> None:
    """Refuse parsed JSON that is nested deeply: what goes through it calls itself at each level.

    Raises:
        RecordError: it is.
    """
    if not isinstance(value, dict | list):
        return
    if levels == _DEEPEST:
        raise RecordError(f"is nested deeper than {_DEEPEST} levels, which nobody means")
    for child in value.values() if isinstance(value, dict) else value:
        refuse_depth(child, levels + 1)


def in_text(name: str) -> str:
    r"""A name as text of one line: bytes that are none, and what acts in a terminal, as escapes.

    >>> print(in_text("caf\u00e9\n"))
    café\n
    """
    if name.isprintable():
        return name
    text = name.encode(errors="backslashreplace").decode()
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def _parsed_carefully(data: bytes) -> Any:
    try:
        found = json.loads(
            data.decode(),
            object_pairs_hook=_named_once,
            parse_float=_finite,
            parse_constant=_refuse_constant,
        )
        json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be written
    except RecordError:
        raise
    except RecursionError as error:
        raise RecordError(f"is nested deeper than {_DEEPEST} levels, which nobody means") from error
    except ValueError as error:
        raise RecordError(f"not JSON ({error}): restore it, or run these settings again") from error
    return found


def _named_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RecordError(f"names {twice!r} twice: nobody can tell which one is meant")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise RecordError(f"holds {text}, which no number can be: such numbers are stored as null")
    return number


def _refuse_constant(token: str) -> object:
    raise RecordError(f"holds {token}, which JSON does not have: such numbers are stored as null")
