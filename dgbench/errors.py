"""The one error that a user can cause and mend, and the one stop that is no error."""

from __future__ import annotations


class UsageError(ValueError):
    """What was given, what is allowed, what to do next; the command line exits with 2."""


class Interrupted(Exception):  # noqa: N818 - it is no error of anybody's
    """A signal asked the run to stop; everything up to the last step is on the disk."""


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
