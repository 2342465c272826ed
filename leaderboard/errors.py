"""The one error of this package that a user can cause."""

from __future__ import annotations


class RecordError(ValueError):
    """A record, or a request about records, that the leaderboard refuses."""


class NewerSchemaError(RecordError):
    """A record of a later version of the format: to leave it out would change the tables."""


class DamagedError(RecordError):
    """A file of many records that is damaged, or something else: tables name it and do without."""
