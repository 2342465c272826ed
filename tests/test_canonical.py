"""The fingerprints that `leaderboard verify` compares with are those of the data.

`python -m tests.test_canonical` writes them anew; it needs full MNIST.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import leaderboard
from dgbench.protocols import configs
from dgbench.settings import resolve_arguments
from dgbench.training import build_data, deciding_settings
from leaderboard.canonical import CANONICAL_FILE
from leaderboard.records import write_text_atomic
from leaderboard.shared_settings import BATCH_OPTIONS
from tests.real import HAS_MNIST

FILE = Path(leaderboard.__file__).parent / CANONICAL_FILE
DATA_SETS = ("colored_mnist", "rotated_mnist")
SEEDS = 10
PROTOCOLS = [
    (dataset, path.name)
    for dataset in DATA_SETS
    for path in sorted((configs() / dataset).iterdir())
]


def known(dataset: str, protocol: str, data_seed: int) -> tuple[dict[str, Any], str]:
    """The options of a protocol's data as a record's key has them, and the fingerprint."""
    flags = [f"--data.name={dataset}", f"--protocol={protocol}", f"--data-seed={data_seed}"]
    settings = resolve_arguments(["--algo.name=erm", "--test-env=0", *flags])
    data = build_data(settings)
    options = deciding_settings(settings, data)["data"]
    kept = {key: value for key, value in options.items() if key not in {"name", *BATCH_OPTIONS}}
    return kept, data.fingerprint


def table() -> Iterator[dict[str, Any]]:
    for dataset, protocol in PROTOCOLS:
        found = [known(dataset, protocol, seed) for seed in range(SEEDS)]
        fingerprints = {str(seed): fingerprint for seed, (_, fingerprint) in enumerate(found)}
        yield {"dataset": dataset, "data": found[0][0], "fingerprints": fingerprints}


@pytest.mark.parametrize(("dataset", "protocol"), PROTOCOLS)
def test_fingerprints_are_those_of_the_data(dataset, protocol):
    if protocol != "digits" and not HAS_MNIST:
        pytest.skip("full MNIST: set DGBENCH_DATA to a folder that holds MNIST/raw")
    options, fingerprint = known(dataset, protocol, 1)
    (entry,) = [
        each
        for each in json.loads(FILE.read_text())
        if (each["dataset"], each["data"]) == (dataset, options)
    ]
    assert entry["fingerprints"]["1"] == fingerprint
    assert len(set(entry["fingerprints"].values())) == SEEDS


if __name__ == "__main__":
    write_text_atomic(FILE, json.dumps(list(table()), sort_keys=True, indent=1) + "\n")
