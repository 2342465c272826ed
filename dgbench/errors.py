"""The one error that a user can cause and mend, and the one stop that is no error."""

from __future__ import annotations

_LONGEST = 8000  # characters of a message


class UsageError(ValueError):
    """What was given, what is allowed, what to do next; the command line exits with 2."""


class Interrupted(Exception):  # noqa: N818 - it is no error of anybody's
    """A signal asked the run to stop; everything up to the last step is on the disk."""


def printable(text: str) -> str:
    """A message for a terminal: no character in it acts there, and it has an end.

    Args:
        text: which may repeat what was given, such as the name of a file.
    """
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def require(allowed: bool, option: str, value: object, what: str) -> None:
    """Refuses an option's value.

    Args:
        allowed: whether it is allowed.
        option: the option's name.
        value: what was given.
        what: what is allowed, as the end of "it must be ...".

    Raises:
        UsageError: when it is not.
    """
    if not allowed:
        raise UsageError(f"{option} is {value}; it must be {what}.")
