"""Every protocol trains with every algorithm, and every file under configs/ is applied."""

from __future__ import annotations

import pytest

from dgbench import registry
from dgbench.protocols import configs, protocols
from leaderboard import records
from tests.dgbench.tiny import command

ALGORITHMS = tuple(registry.entries("algorithm"))
PROTOCOLS = [
    (dataset, protocol)
    for dataset in registry.entries("data set")
    for protocol in protocols(dataset)
]


@pytest.mark.parametrize(("dataset", "protocol"), PROTOCOLS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_it_trains(dataset, protocol, algo, tmp_path):
    call = ["fit", "--algo", algo, "--dataset", dataset, "--protocol", protocol]
    code, shown, errors = command(*call, "--test-env", 0, "--steps", 2, "--out", tmp_path)
    assert code == 0, errors
    own = configs() / dataset / protocol / f"{algo}.yaml"
    assert (f"Settings of configs/{dataset}/{protocol}/{algo}.yaml" in shown) == own.exists()
    (folder,) = records.find_runs([tmp_path])
    assert records.read_run(folder).run["settings"]["protocol"] == protocol


def test_no_file_is_left_over():
    expected = {
        configs() / dataset / protocol / f"{name}.yaml"
        for dataset, protocol in PROTOCOLS
        for name in ("protocol", *ALGORITHMS)
    }
    assert set(configs().rglob("*.yaml")) <= expected
