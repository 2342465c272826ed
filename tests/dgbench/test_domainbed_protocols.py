"""Protocol `domainbed` has DomainBed's defaults and ranges, of every data set and algorithm.

The tables are those of its hparams_registry.py and datasets.py at commit b93c22a, with the backbone
of its published numbers. What an algorithm has there is asserted to the last option; those that
DomainBed has not (`irmv2`, `mm_rex`, `icp`) have what is common to all.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from dgbench import registry
from dgbench.protocols import protocols
from dgbench.search_space import Choice, LogInt, LogUniform, Range, hyperparameters
from dgbench.settings import Settings, resolve
from leaderboard import records
from tests.dgbench.test_configs import small_options
from tests.dgbench.tiny import command


class Searched(NamedTuple):
    """An option's default and, if it is searched, what from."""

    default: Any
    range: Range | Choice | None = None


COMMON = {
    28: {
        "algo.learning_rate": Searched(1e-3, LogUniform(10**-4.5, 10**-2.5)),
        "data.batch_size": Searched(64, LogInt(2**3, 2**9)),
        "algo.weight_decay": Searched(0.0),
        "network.dropout": Searched(0.0),
    },
    224: {
        "algo.learning_rate": Searched(5e-5, LogUniform(1e-5, 10**-3.5)),
        "data.batch_size": Searched(32, LogInt(2**3, 2**5.5)),
        "algo.weight_decay": Searched(0.0, LogUniform(1e-6, 1e-2)),
        "network.dropout": Searched(0.0, Choice((0.0, 0.1, 0.5))),
    },
}
OF_A_DATA_SET = {"domain_net": {"data.batch_size": Searched(32, LogInt(2**3, 2**5))}}
SIZES = {"colored_mnist": 28, "rotated_mnist": 28} | dict.fromkeys(
    ("vlcs", "pacs", "office_home", "terra_incognita", "domain_net", "image_folder", "manifest"),
    224,
)
OF_AN_ALGORITHM: dict[str, dict[str, Searched]] = {
    "erm": {},
    "irm": {
        "algo.penalty_weight": Searched(1e2, LogUniform(1e-1, 1e5)),
        "algo.anneal_steps": Searched(500, LogInt(1, 10_000)),
        "algo.estimator": Searched("split"),
        "algo.restart_optimizer": Searched(True),
    },
    "vrex": {
        "algo.penalty_weight": Searched(10.0, LogUniform(1e-1, 1e5)),
        "algo.anneal_steps": Searched(500, LogInt(1, 10_000)),
        "algo.initial_weight": Searched(1.0),
        "algo.restart_optimizer": Searched(True),
    },
}
# The network of the published numbers: commit 7df6f06, networks.py.
NETWORKS: dict[int, dict[str, Any]] = {
    28: {"backbone": "mnist_cnn", "width": 128, "logits": "all"},
    224: {"backbone": "resnet50", "weights": "default", "batch_norm": "frozen", "logits": "all"},
}
# Of every algorithm: neither in the loss, nor divided by the penalty's weight.
FIXED = {"algo.l2": 0.0, "algo.rescale_loss": False}
DATA: dict[int, dict[str, Any]] = {
    28: {"source": "mnist"},
    224: {"augmentation": "domainbed"},
}
PAIRS = [(data_set, algo) for data_set in SIZES for algo in registry.entries("algorithm")]


def resolved(data_set: str, algo: str | dict[str, Any], **config: Any) -> Settings:
    return resolve(
        {"dataset": data_set, "protocol": "domainbed", "algo": algo, "test_env": 0, **config}
    )


def value(settings: Settings, name: str) -> Any:
    section, _, option = name.partition(".")
    return getattr(settings, section)[option]


def expected(data_set: str, algo: str) -> dict[str, Searched]:
    common = {**COMMON[SIZES[data_set]], **OF_A_DATA_SET.get(data_set, {})}
    return {**common, **OF_AN_ALGORITHM.get(algo, {})}


def test_the_table_has_every_data_set_with_the_protocol():
    known = {name for name in registry.entries("data set") if "domainbed" in protocols(name)}
    assert set(SIZES) == known
    assert set(OF_AN_ALGORITHM) <= set(registry.entries("algorithm"))


@pytest.mark.parametrize(("data_set", "algo"), PAIRS)
def test_defaults_are_domainbeds(data_set, algo):
    settings = resolved(data_set, algo)
    wanted = {name: default for name, (default, _) in expected(data_set, algo).items()}
    assert {name: value(settings, name) for name in wanted} == wanted
    assert {name: value(settings, name) for name in FIXED} == FIXED
    size = SIZES[data_set]
    assert {key: settings.network[key] for key in NETWORKS[size]} == NETWORKS[size]
    data = {"image_size": size, "holdout_fraction": 0.2, "sampling": "replacement", **DATA[size]}
    assert {key: settings.data[key] for key in data} == data
    assert (settings.steps, settings.selection) == (5001, "train_val")


@pytest.mark.parametrize(("data_set", "algo"), PAIRS)
def test_ranges_are_domainbeds(data_set, algo):
    wanted = {n: found for n, (_, found) in expected(data_set, algo).items() if found is not None}
    found = resolved(data_set, algo).search.ranges
    if algo not in OF_AN_ALGORITHM:
        options = hyperparameters(registry.load("algorithm", algo))
        own = {f"algo.{option.name}": option.range for option in options if option.range}
        wanted = {**own, **wanted}
    assert found.keys() == wanted.keys()
    for name, wanted_range in wanted.items():
        assert type(found[name]) is type(wanted_range), name
        # To the 16th digit, in which a power and its decimals may differ.
        ends, wanted_ends = (
            r.values if isinstance(r, Choice) else (r.low, r.high)
            for r in (found[name], wanted_range)
        )
        assert ends == pytest.approx(wanted_ends, rel=1e-12), name


@pytest.mark.parametrize(
    ("data_set", "largest"), [("colored_mnist", 511), ("pacs", 45), ("domain_net", 31)]
)
def test_batch_sizes_reach_from_8_to_a_power_rounded_down(data_set, largest):
    found = resolved(data_set, "erm").search.ranges["data.batch_size"]
    assert (found.draw(0.0), found.draw(1 - 2**-53)) == (8, largest)


def test_a_draw_of_a_folder_searches_all_of_them():
    settings = resolved("pacs", "irm")
    drawn = [settings.drawn(seed) for seed in range(1, 21)]
    assert all(1e-5 <= run.algo["learning_rate"] <= 10**-3.5 for run in drawn)
    assert {run.network["dropout"] for run in drawn} == {0.0, 0.1, 0.5}
    assert len({run.algo["weight_decay"] for run in drawn}) == 20
    assert len({run.data["batch_size"] for run in drawn}) > 5


def test_what_a_user_fixes_wins_over_the_common_files():
    """Later wins: common files, the data set's, those of the algorithm, the user's."""
    settings = resolved("domain_net", {"name": "irm", "anneal_steps": 7}, check_every=9)
    assert (settings.algo["anneal_steps"], settings.check_every) == (7, 9)
    assert "algo.anneal_steps" not in settings.search.ranges
    assert resolved("domain_net", "irm").check_every == 1000


def test_a_run_of_a_draw_trains_and_records_what_it_was_drawn_from(tmp_path):
    call = ["fit", "--algo", "irm", "--dataset", "pacs", "--protocol", "domainbed", "--steps", 2]
    call += ["--test-env", 0, "--hparams-seed", 3, "--network.width", 8, "--out", tmp_path]
    code, _, errors = command(*call, *small_options("pacs"))
    assert code == 0, errors
    (folder,) = records.find_runs([tmp_path])
    run = records.read_run(folder).run
    settings = resolved("pacs", "irm").drawn(3)
    assert run["search"]["space"] == "domainbed-224"
    assert run["settings"]["algo"] == settings.algo
    assert run["settings"]["network"]["dropout"] == settings.network["dropout"] == 0.1
