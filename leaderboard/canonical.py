"""The fingerprints that the suite's own data sets have, to know whether a record has their data.

`canonical.json` is written by the suite (`python -m tests.test_canonical`) from the data
themselves: of each data set and each set of options that a protocol has, a fingerprint for each of
the first data seeds.
"""

from __future__ import annotations

import functools
import json
from importlib import resources

from leaderboard.frame import Record
from leaderboard.records import canonical_json

CANONICAL_FILE = "canonical.json"


def fingerprint(record: Record) -> str | None:
    """What the data fingerprint of a record must be; None where nothing is known of its data."""
    known = _known().get((record.dataset, record.data), {})
    return known.get(str(record.trial.data_seed))


@functools.cache
def _known() -> dict[tuple[str, str], dict[str, str]]:
    text = resources.files("leaderboard").joinpath(CANONICAL_FILE).read_text(encoding="utf-8")
    return {
        (each["dataset"], canonical_json(each["data"])): each["fingerprints"]
        for each in json.loads(text)
    }
