"""Published numbers: where they stand, and what is flagged."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from dgbench import registry, reproductions
from leaderboard import domainbed, published
from leaderboard.board import SectionKey
from leaderboard.records import SelectionRule
from leaderboard.statistics import summarize

INDEX = {
    "colored_mnist": ("+90%", "+80%", "-90%"),
    "rotated_mnist": ("0deg", "15deg", "30deg", "45deg", "60deg", "75deg"),
}


COLOURS = '{"data":{"grayscale":false}}'


def key(dataset: str, protocol: str, rule: SelectionRule, data: str = "{}") -> SectionKey:
    return SectionKey(
        dataset, protocol, "", "", "generalization", data, "{}", "", False, 1, "dgbench", rule
    )


KINDS = ("average", "test", "train")


@pytest.mark.parametrize("name", published.names())
def test_every_publication_has_a_source_and_percentages(name: str) -> None:
    publication = published.read(name)
    assert publication.sources
    for table in publication.tables:
        for row in table["rows"].values():
            printed = [*row.get("environments", []), *(row[k] for k in KINDS if k in row)]
            assert printed
            assert all(0 <= number <= 100 for each in printed for number in each)


def test_averages_are_those_of_their_environments() -> None:
    compared = 0
    for table in published.read("domainbed").tables:
        for row in table["rows"].values():
            if "environments" in row:
                mean = np.mean([each[0] for each in row["environments"]])
                assert row["average"][0] == pytest.approx(mean, abs=0.11)
                compared += 1
    assert compared == 7 * 3 * 14


@pytest.mark.parametrize("name", reproductions.names())
def test_every_row_to_reproduce_has_figures(name: str) -> None:
    table = reproductions.read(name)
    for row in table.rows:
        assert row.test
        for rule, theirs in row.test.items():
            algo = row.config["algo"]
            algo = algo if isinstance(algo, dict) else {"name": algo}
            data = {"grayscale": False, **row.config.get("data", {})}
            found = published.beside(
                key(table.dataset, table.protocol, rule),
                algo["name"],
                json.dumps({"algo": algo, "data": data}),
                INDEX[table.dataset].index(row.config["test_env"]),
                None,
            )
            assert f"{theirs.mean:.1f} ± {theirs.spread:.1f}" in {each.printed for each in found}


def test_risk_interpolation_has_its_own_number_and_not_that_of_mm_rex() -> None:
    def printed(lambda_min: float) -> list[str]:
        settings = {"algo": {"lambda_min": lambda_min}, "data": {"grayscale": False}}
        section = key("colored_mnist", "irm-paper", "last")
        found = published.beside(section, "mm_rex", json.dumps(settings), 2, None)
        return [each.printed for each in found]

    # Table 2 of the REx paper: RI is MM-REx with a least weight of 0.
    assert printed(0.0) == ["22.3 ± 4.6"]
    assert printed(-1.0) == printed(-45628.09) == ["66.1 ± 1.5"]


def test_names_of_data_sets_are_those_of_the_suite() -> None:
    known = {*registry.entries("data set"), *domainbed.ENVIRONMENTS}
    for name in published.names():
        for table in published.read(name).tables:
            assert set(table["datasets"]) <= known


def test_a_publication_that_does_not_count_its_runs_flags_nothing() -> None:
    found = published.beside(
        key("colored_mnist", "irm-paper", "last"), "fishr", COLOURS, 2, summarize([0.1, 0.2, 0.3])
    )
    assert [(each.printed, each.flagged) for each in found] == [("69.5 ± 1.0", None)]


def test_a_table_of_one_backbone_stands_beside_no_other() -> None:
    def printed(backbone: str) -> list[str]:
        settings = json.dumps({"network": {"backbone": backbone}, "data": {"grayscale": False}})
        found = published.beside(
            key("pacs", "domainbed", "train_val"),
            "vrex",
            settings,
            None,
            summarize([0.8, 0.9, 0.9]),
        )
        return [each.printed for each in found if each.title.startswith("DeepDG")]

    assert (printed("resnet18"), printed("resnet50")) == (["83.85"], ["87.75"])
    assert printed("timm/resnet50.ram_in1k") == []


def test_a_difference_is_flagged_beyond_two_standard_errors() -> None:
    # Theirs: 66.9 ± 2.5 over ten runs with ddof 0, so the error is 2.5 / sqrt(9) points.
    section = key("colored_mnist", "irm-paper", "last")
    for ours, flagged in (([0.66, 0.67, 0.68], False), ([0.60, 0.61, 0.62], True)):
        summary = summarize(ours)
        _, found = published.beside(section, "irm", COLOURS, 2, summary)
        assert found.standard_error == pytest.approx(0.025 / 3)
        assert found.difference == pytest.approx(summary.mean - 0.669)
        assert summary.standard_error is not None
        bound = 2 * math.hypot(summary.standard_error, 0.025 / 3)
        assert found.flagged is (abs(summary.mean - 0.669) > bound) is flagged
    _, single = published.beside(section, "irm", COLOURS, 2, summarize([0.5]))
    assert single.flagged is None


def test_other_settings_have_nothing_beside_them() -> None:
    section = key("colored_mnist", "irm-paper", "last")
    assert published.beside(section, "irm", COLOURS, 2, None)
    for other in (
        replace(section, rule="train_val"),
        replace(section, protocol="digits"),
        replace(section, held_out=2),
    ):
        assert published.beside(other, "irm", COLOURS, 2, None) == ()
    assert published.beside(section, "irm", '{"data":{"grayscale":true}}', 2, None) == ()
    assert published.beside(section, "irm", COLOURS, 0, None) == ()
