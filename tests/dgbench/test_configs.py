"""Every protocol trains with every algorithm, and every file under configs/ is applied."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from datamodules.image_folder import ImageFolder
from dgbench import registry, reproductions, search_spaces
from dgbench.arguments import as_flags
from dgbench.protocols import configs, protocols
from dgbench.sweep import design as designs
from leaderboard import records
from tests.dgbench.tiny import command
from tests.folders import folder_options
from tests.real import needs_mnist, stand_in_for_mnist

ALGORITHMS = tuple(registry.entries("algorithm"))
PROTOCOLS = [
    (dataset, protocol)
    for dataset in registry.entries("data set")
    for protocol in protocols(dataset)
]


def small_options(dataset: str) -> list[str]:
    """What makes a data set of folders small enough to train on here; nothing for the others."""
    data_set = registry.load("data set", dataset)
    if not issubclass(data_set, ImageFolder):
        return []
    data = {**folder_options(dataset, data_set), "batch_size": 4}
    network = {"backbone": "small_cnn", "weights": "none", "batch_norm": "train"}
    return as_flags({"data": data, "network": network})


def folders(dataset: str, protocol: str) -> list[str]:
    """Where a protocol's files lie, what is common to several data sets first."""
    found = [f"{dataset}/{protocol}"]
    while extended := read(found[0], "protocol").get("extends"):
        found.insert(0, extended)
    return found


def read(folder: str, stem: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((configs() / folder / f"{stem}.yaml").read_text())
    return content


def applied(dataset: str, protocol: str, algo: str) -> list[str]:
    """The files of a pair: all of the protocol before any of the algorithm."""
    named = [f"{f}/{stem}.yaml" for stem in ("protocol", algo) for f in folders(dataset, protocol)]
    return [file for file in named if (configs() / file).exists()]


@pytest.mark.parametrize(("dataset", "protocol"), PROTOCOLS)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_it_trains(dataset, protocol, algo, tmp_path, monkeypatch):
    stand_in_for_mnist(monkeypatch)
    call = ["fit", "--algo", algo, "--dataset", dataset, "--protocol", protocol]
    call += ["--steps", 2, "--network.width", 16, "--out", tmp_path, *small_options(dataset)]
    code, shown, errors = command(*call, "--test-env", 0)
    assert code == 0, errors
    said = [line for line in shown.splitlines() if line.startswith("Settings of ")]
    assert said == [f"Settings of configs/{file}" for file in applied(dataset, protocol, algo)]
    (folder,) = records.find_runs([tmp_path])
    assert records.read_run(folder).run["settings"]["protocol"] == protocol


@needs_mnist
def test_the_irm_papers_protocol_trains_on_full_mnist(tmp_path):
    call = ["fit", "--algo", "irm", "--protocol", "irm-paper", "--test-env", "minus90"]
    code, _, errors = command(*call, "--steps", 1, "--out", tmp_path)
    assert code == 0, errors
    (folder,) = records.find_runs([tmp_path])
    run = records.read_run(folder).run
    sizes = [environment["splits"]["main"]["n"] for environment in run["environments"]]
    assert sizes == [25_000, 25_000, 10_000]
    assert run["settings"]["matmul_precision"] == "highest"
    assert "root" not in run["settings"]["data"]


def test_without_full_mnist_a_protocol_of_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DGBENCH_DATA", raising=False)
    call = ["fit", "--algo", "erm", "--protocol", "irm-paper", "--test-env", 2, "--out", tmp_path]
    code, _, errors = command(*call)
    assert code == 2
    assert "MNIST is not there" in errors
    assert not records.find_runs([tmp_path])


def test_no_file_is_left_over():
    expected = {
        configs() / folder / f"{name}.yaml"
        for dataset, protocol in PROTOCOLS
        for folder in folders(dataset, protocol)
        for name in ("protocol", *ALGORITHMS)
    }
    expected |= {configs() / "reproductions" / f"{name}.yaml" for name in reproductions.names()}
    expected |= {configs() / "search_spaces" / f"{name}.yaml" for name in search_spaces.names()}
    expected |= {configs() / "sweeps" / f"{name}.yaml" for name in designs.names()}
    expected |= {
        configs() / "screen" / f"{name}.yaml"
        for name in ("published", "published_sem", *ALGORITHMS)
    }
    expected |= {configs() / "shifts" / "published.yaml"}
    assert set(configs().rglob("*.yaml")) <= expected
