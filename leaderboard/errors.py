"""The one error of this package that a user can cause."""

from __future__ import annotations


class RecordError(ValueError):
    """A record, or a request about records, that the leaderboard refuses."""


class NewerSchemaError(RecordError):
    """A record of a later version of the format: to leave it out would change the tables."""
