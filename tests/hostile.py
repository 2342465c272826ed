"""What somebody might put where a value or a file is expected, and what must come of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Texts of JSON that stand for one value. Whether one is allowed depends on where it stands.
VALUES: dict[str, str] = {
    "nothing": "null",
    "true": "true",
    "minus one": "-1",
    "a half": "0.5",
    "2^63": str(2**63),
    "2^64": str(2**64),
    "10^30": str(10**30),
    "5,000 digits": "9" * 5000,
    "10^400": "1e400",
    "10^308": "1e308",
    "not a number": "NaN",
    "infinity": "-Infinity",
    "an empty text": '""',
    "half a character": '"\\ud800"',
    "a NUL": '"\\u0000"',
    "a long text": json.dumps("x" * 100_000),
    "markup": json.dumps("</script><img src=x onerror=alert(1)>\\input{x}=1+1"),
    "an empty list": "[]",
    "an empty mapping": "{}",
    "a name twice": '{"a": 1, "a": 2}',
    "90 levels": "[" * 90 + "]" * 90,
    "200 levels": "[" * 200 + "]" * 200,
    "5,000 levels": "[" * 5000 + "]" * 5000,
    "levels without end": "[" * 100_000,
}
# Contents of a whole file.
CONTENTS: dict[str, bytes] = {
    "an empty file": b"",
    "a bracket": b"{",
    "a list": b"[]\n",
    "no UTF-8": b'{"a": "\xff\xfe"}\n',
    "UTF-16": '{"a": 1}\n'.encode("utf-16"),
    "NULs": bytes(1000),
    **{name: text.encode() + b"\n" for name, text in VALUES.items()},
}


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


# What can stand where a file is expected.
KINDS: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a folder": Path.mkdir,
    "a socket": lambda path: os.mknod(path, stat.S_IFSOCK | 0o600),
    "a terabyte": _sparse,
}


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in what takes longer."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where the parts of parsed JSON are, the whole first."""
    found = [path]
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            found += places(part, (*path, name))
    return found


def with_value(content: Any, place: tuple[str | int, ...], text: str) -> str:
    """JSON in which another text stands at a place, whatever it is."""
    mark = "c0ffee-mark"
    if not place:
        return text
    changed = json.loads(json.dumps(content))
    target = changed
    for name in place[:-1]:
        target = target[name]
    target[place[-1]] = mark
    return json.dumps(changed).replace(f'"{mark}"', text)
