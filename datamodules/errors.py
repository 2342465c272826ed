"""The error of this package that a user can cause."""

from __future__ import annotations


class DataError(ValueError):
    """A data set, environment or option that cannot be used as it was given.

    Its message says what was given, what is allowed and what to do next.
    """
