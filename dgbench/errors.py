"""The one error that a user can cause and mend."""

from __future__ import annotations


class UsageError(ValueError):
    """What was given, what is allowed, what to do next; the command line exits with 2."""
