"""The settings of protocols that the leaderboard compares with are those of the configurations.

`python -m tests.test_protocols` writes them anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import leaderboard
from dgbench import registry
from dgbench.algorithms.erm import ERM
from dgbench.networks import NetworkOptions
from dgbench.protocols import Names, protocols
from dgbench.settings import resolve_arguments
from leaderboard.departures import NOT_COMPARED, PROTOCOLS_FILE, departures
from leaderboard.dotted import dotted
from leaderboard.records import write_text_atomic

FILE = Path(leaderboard.__file__).parent / PROTOCOLS_FILE
OF_A_USER = "tests.synthetic.SyntheticData"
PROTOCOLS = [("", ""), *((d, p) for d in registry.entries("data set") for p in protocols(d))]
ALGORITHMS = tuple(registry.entries("algorithm"))
OF_A_RUN = {
    *("protocol", "test_env", "train_env", "trial_seed", "data_seed", "hparams_seed"),
    *("algo.name", "data.name", "source.algo", "source.data", *NOT_COMPARED),
}


class FromElsewhere(ERM):
    """An algorithm that no configuration file names."""


def settings(dataset: str, protocol: str, algorithm: str) -> dict[str, Any]:
    """What a protocol says to an algorithm, by dotted name, as a record of `fit` has it."""
    named = algorithm or f"tests.test_protocols.{FromElsewhere.__name__}"
    flags = [f"--algo.name={named}", f"--data.name={dataset or OF_A_USER}", "--test-env=0"]
    flags += [f"--protocol={protocol}"] if protocol else []
    found = dotted(resolve_arguments(flags).deciding([], []))
    return {option: value for option, value in found.items() if option not in OF_A_RUN}


def other(common: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What is other for an algorithm than for one from elsewhere."""
    assert common.keys() <= own.keys()
    return {option: value for option, value in own.items() if common.get(option, ...) != value}


def entry(dataset: str, protocol: str) -> dict[str, Any]:
    common = settings(dataset, protocol, "")
    algorithms = {name: other(common, settings(dataset, protocol, name)) for name in ALGORITHMS}
    return {
        "dataset": dataset,
        "protocol": protocol,
        "settings": common,
        "algorithms": algorithms,
    }


def unsaid() -> dict[str, Any]:
    """What a record leaves out where it does nothing."""
    said = settings("", "", "")
    network = dotted({"network": asdict(NetworkOptions())})
    options = {"first_check": None, "gradient_clip_val": None, "gradient_clip_algorithm": None}
    return {o: value for o, value in (options | network).items() if o not in said and not value}


def content() -> dict[str, Any]:
    return {"unsaid": unsaid(), "protocols": [entry(*names) for names in PROTOCOLS]}


def committed() -> dict[tuple[str, str], dict[str, Any]]:
    return {(e["dataset"], e["protocol"]): e for e in json.loads(FILE.read_text())["protocols"]}


def test_it_has_every_protocol_and_algorithm():
    found = json.loads(FILE.read_text())
    assert found["unsaid"] == unsaid()
    assert list(committed()) == PROTOCOLS
    assert all(tuple(e["algorithms"]) == ALGORITHMS for e in committed().values())


def with_files() -> Iterator[tuple[str, str, str]]:
    """Every protocol, for an algorithm from elsewhere and for those that it has a file of."""
    for dataset, protocol in PROTOCOLS:
        yield dataset, protocol, ""
        for name in ALGORITHMS if dataset else ():
            files = Names(name, dataset, protocol).layers()
            if any(file.stem == name for file in files):
                yield dataset, protocol, name


@pytest.mark.parametrize(("dataset", "protocol", "algorithm"), tuple(with_files()))
def test_settings_are_those_of_the_configurations(dataset, protocol, algorithm):
    known = committed()[dataset, protocol]
    found = settings(dataset, protocol, algorithm)
    assert {**known["settings"], **known["algorithms"].get(algorithm, {})} == found


def own(*flags: str) -> dict[str, Any]:
    """What a run of these flags departs in."""
    arguments = ["--algo.name=irm", "--test-env=2", *flags]
    found = resolve_arguments(arguments)
    settings = found.deciding(["-90%"], ["+90%", "+80%"])
    del settings["train_env"]
    drawn = found.search.ranges if found.hparams_seed else ()
    departed: dict[str, Any] = json.loads(departures(settings, drawn))
    return departed


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), {}),
        (("--trial-seed=3", "--selection=train_val", "--trainer.deterministic=true"), {}),
        (("--trainer.precision=32",), {}),
        (("--first-check=50",), {}),
        (("--hparams-seed=3", "--search-space=domainbed"), {}),
        (
            ("--hparams-seed=3", "--search-space=domainbed", "--data.batch_size=32"),
            {"data.batch_size": ["full", 32]},
        ),
        (("--steps=20",), {"steps": [501, 20]}),
        (("--check-every=7",), {"check_every": [50, 7]}),
        (("--first-check=1",), {"first_check": [None, 1]}),
        (("--network.width=999",), {"network.width": [128, 999]}),
        (("--network.dropout=0.5",), {"network.dropout": [0.0, 0.5]}),
        (("--data.batch_size=4096",), {"data.batch_size": ["full", 4096]}),
        (("--data.image_size=28",), {"data.image_size": [14, 28]}),
        (("--trainer.precision=16-true",), {"precision": ["32-true", "16-true"]}),
        (("--trainer.gradient_clip_val=1",), {"gradient_clip_val": [None, 1]}),
        (("--algo.penalty_weight=1",), {"algo.penalty_weight": [91257.18613115903, 1]}),
    ],
)
def test_what_a_user_changes_departs_and_nothing_else(flags, expected):
    assert own(*flags) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "protocol"), PROTOCOLS)
def test_all_settings_are_those_of_the_configurations(dataset, protocol):
    assert committed()[dataset, protocol] == entry(dataset, protocol)


if __name__ == "__main__":
    write_text_atomic(FILE, json.dumps(content(), indent=1) + "\n")
