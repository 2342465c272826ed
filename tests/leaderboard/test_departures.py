"""A table ranks what is comparable: what a row changes of its protocol is marked and unranks it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import leaderboard
from leaderboard import latex
from leaderboard.board import Board, Row, Section
from leaderboard.build import load_board
from leaderboard.departures import NONE, PROTOCOLS_FILE, departures
from leaderboard.exports import flat_rows, json_text
from leaderboard.filling import make_board
from leaderboard.markdown import escape, markdown
from leaderboard.marks import DEPARTS
from leaderboard.page import page
from leaderboard.records import SearchRecord, Settings
from leaderboard.sources import load
from leaderboard.tables import title
from leaderboard.verify import verify
from tests.leaderboard.make_golden import COLORED, make_check, make_settings, write_run

# What one row may change, as options of `fit` name it, and how a reader has it.
CONDITIONS = [
    ({"steps": 5000}, "5000 steps (not 501)"),
    ({"steps": 20}, "20 of 501 steps"),
    ({"check_every": 10}, "check_every=10 (not 50)"),
    ({"first_check": 1}, "first_check=1 (not null)"),
    ({"network.width": 999}, "network.width=999 (not 128)"),
    ({"network.dropout": 0.5}, "network.dropout=0.5 (not 0.0)"),
    ({"data.batch_size": 4096}, 'data.batch_size=4096 (not "full")'),
    ({"precision": "16-true"}, 'precision="16-true" (not "32-true")'),
    ({"matmul_precision": "medium"}, 'matmul_precision="medium" (not "highest")'),
    ({"gradient_clip_val": 1.0}, "gradient_clip_val=1.0 (not null)"),
    ({"train_env": ["+90%"]}, "trained on +90% alone"),
]


def settings_of(algorithm: str, trial: int = 0, **changes: Any) -> Settings:
    """The settings of the protocol `digits` for an algorithm, with changes by dotted name."""
    file = Path(leaderboard.__file__).parent / PROTOCOLS_FILE
    (known,) = [
        each
        for each in json.loads(file.read_text())["protocols"]
        if (each["dataset"], each["protocol"]) == ("colored_mnist", "digits")
    ]
    found: dict[str, Any] = {**make_settings(algorithm=algorithm, trial=trial), "network": {}}
    found["algo"] = {"name": algorithm}
    for option, value in {
        **known["settings"], **known["algorithms"].get(algorithm, {}), **changes
    }.items():  # fmt: skip
        section, dot, name = option.partition(".")
        if dot:
            found[section][name] = value
        else:
            found[option] = value
    return found  # type: ignore[return-value]


def write(
    out: Path,
    algorithm: str,
    accuracies: Sequence[float],
    changes: Mapping[str, Any] | None = None,
    search: SearchRecord | None = None,
) -> None:
    """A run for each accuracy, with these changes of the protocol."""
    for trial, accuracy in enumerate(accuracies):
        settings = settings_of(algorithm, trial, **(changes or {}))
        holdouts = {f"{name}/holdout": 0.75 for name in settings["train_env"]}
        checks = [
            make_check(settings["steps"] // 2, {**holdouts, "-90%/main": accuracy}),
            make_check(settings["steps"], {**holdouts, "-90%/main": accuracy}),
        ]
        write_run(out, settings, checks, names=COLORED, search=search)


def write_others(out: Path, changes: Mapping[str, Any] | None = None) -> None:
    write(out, "erm", [0.10, 0.12, 0.11], changes)
    write(out, "vrex", [0.60, 0.61, 0.60], changes)


def section(board: Board, rule: str = "train_val") -> Section:
    (found,) = [section for section in board.sections if section.key.rule == rule]
    return found


def rows(board: Board, rule: str = "train_val") -> Mapping[str, Row]:
    return {row.label: row for row in section(board, rule).rows}


@pytest.mark.parametrize(("change", "words"), CONDITIONS)
def test_a_row_under_other_conditions_is_marked_and_compared_with_none(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    write_others(tmp_path)
    without = load_board([tmp_path])
    write(tmp_path, "irm", [0.9, 0.91, 0.9], change)
    board = load_board([tmp_path])
    for rule in ("train_val", "last", "oracle"):
        found = rows(board, rule)
        irm = found["irm"]
        assert (irm.rank, irm.cells[0].bold, irm.cells[0].to_erm) == (None, None, None)
        assert irm.cells[0].accuracy is not None
        # The others are compared as if it were not there.
        assert {label: row for label, row in found.items() if row is not irm} == rows(without, rule)
    assert section(board).key == section(without).key
    note = f"irm departs from the protocol, so it is compared with no other row: {words}."
    text = markdown(board)
    assert f"| irm {DEPARTS} |" in text
    assert escape(note) in text
    tex = "".join(latex.documents(board).values())
    assert r"irm \S{} &" in tex
    assert latex.escape(note) in tex
    shown = page(board).replace("&#34;", '"')
    assert f"<small>{DEPARTS} {words}</small>" in shown
    assert note in shown
    flat = [row["row_departures"] for row in flat_rows(board) if row["label"] == "irm"]
    assert set(flat) == {rows(board)["irm"].departures} != {NONE}


def test_what_all_rows_change_names_the_table_and_they_are_ranked_among_themselves(
    tmp_path: Path,
) -> None:
    write_others(tmp_path / "whole")
    write_others(tmp_path / "short", {"steps": 20})
    whole, short = load_board([tmp_path / "whole"]), load_board([tmp_path / "short"])
    assert title(section(whole)).startswith("colored_mnist, digits, mlp")
    named = "colored_mnist, digits, 20 of 501 steps"
    assert title(section(short)).startswith(f"{named}, mlp")
    assert [row.rank for row in section(short).rows] == [2, 1]
    assert [row.cells[0].bold for row in section(short).rows] == [False, True]
    assert DEPARTS not in markdown(short)
    assert escape(named) in markdown(short)
    assert latex.escape(named) in "".join(latex.documents(short).values())
    assert "<h2>colored_mnist <span>digits, 20 of 501 steps</span></h2>" in page(short)
    assert "<h2>colored_mnist <span>digits</span></h2>" in page(whole)
    (departs,) = {row["departures"] for row in flat_rows(short)}
    assert json.loads(departs) == {"steps": [501, 20]}
    assert json.loads(json_text(short))["sections"][0]["key"]["departures"] == departs


def test_two_budgets_in_one_folder_are_never_ranked_together(tmp_path: Path) -> None:
    write_others(tmp_path)
    write_others(tmp_path, {"steps": 20})
    found = rows(load_board([tmp_path]))
    assert {label: row.rank for label, row in found.items()} == {
        "erm (steps=501)": 2,
        "vrex (steps=501)": 1,
        "erm (steps=20)": None,
        "vrex (steps=20)": None,
    }
    # The only ERM under their conditions is the one to compare with.
    assert found["vrex (steps=501)"].cells[0].to_erm is not None


def test_options_of_the_data_set_name_a_table_with_what_the_protocol_has(tmp_path: Path) -> None:
    write_others(tmp_path, {"data.image_size": 28})
    assert "image_size=28 (not 14), label_noise=0.25, selected" in title(
        section(load_board([tmp_path]))
    )


def test_the_files_of_the_suite_s_algorithms_depart_in_nothing(tmp_path: Path) -> None:
    write_others(tmp_path)
    write(tmp_path, "icp", [0.7, 0.7, 0.7])
    assert settings_of("icp")["data"]["batch_size"] != settings_of("erm")["data"]["batch_size"]
    board = load_board([tmp_path])
    assert {row.departures for row in section(board).rows} == {NONE}
    assert [row.rank for row in section(board).rows] == [3, 1, 2]


def test_other_hyper_parameters_are_marked_and_ranked(tmp_path: Path) -> None:
    write_others(tmp_path)
    write(tmp_path, "vrex", [0.2, 0.21, 0.22], {"algo.penalty_weight": 1.0})
    write(tmp_path, "erm", [0.3, 0.31, 0.32], {"algo.learning_rate": 0.1})
    found = rows(load_board([tmp_path]))
    weight = settings_of("vrex")["algo"]["penalty_weight"]
    assert {label: row.rank for label, row in found.items()} == {
        "erm (algo.learning_rate=0.001)": 4,
        "erm (algo.learning_rate=0.1)": 2,
        "vrex (algo.penalty_weight=1.0)": 3,
        f"vrex (algo.penalty_weight={weight})": 1,
    }
    text = markdown(load_board([tmp_path]))
    assert rf"vrex (algo.penalty\_weight=1.0) {DEPARTS} |" in text
    assert rf"{weight}) |" in text
    assert "has other hyper-parameters than the protocol's: algo.learning" in text
    # Of two ERMs the protocol's is the one to compare with.
    to_erm = found["vrex (algo.penalty_weight=1.0)"].cells[0].to_erm
    assert to_erm is not None
    assert to_erm.mean == pytest.approx(0.21 - 0.11)


def test_what_was_drawn_is_no_departure_and_what_was_fixed_is(tmp_path: Path) -> None:
    search: SearchRecord = {
        "space": "domainbed",
        "version": 1,
        "ranges": {
            "algo.learning_rate": {"LogUniform": [0.0001, 0.1]},
            "data.batch_size": {"Choice": [32, 37]},
        },
    }
    drawn = {"algo.learning_rate": 0.01, "data.batch_size": 37, "hparams_seed": 1}
    for accuracy, fixed in ((0.5, {}), (0.9, {"network.width": 999})):
        write(tmp_path, "irm", [accuracy], fixed)
        write(tmp_path, "irm", [accuracy], drawn | fixed, search)
    board = make_board(load([tmp_path])[0], rule="train_val")
    (found,) = [each for each in board.sections if each.key.search]
    wide, plain = found.rows
    assert plain.departures == NONE
    assert json.loads(wide.departures) == {"network.width": [128, 999]}
    assert wide.label == "irm (best of 2 draws, network.width=999)"
    for row, accuracy in ((plain, 0.5), (wide, 0.9)):
        assert row.draws == 2
        assert row.cells[0].accuracy is not None
        assert row.cells[0].accuracy.mean == accuracy


@pytest.mark.parametrize(
    "changes",
    [
        {"selection": "train_val"},  # every run answers every rule
        {"deterministic": True},
        {"data_seed": 7, "hparams_seed": 0},
        {"algo.of_another_version": 1},
        {"source": "2" * 64},
    ],
)
def test_what_a_protocol_does_not_say_is_no_departure(changes: dict[str, Any]) -> None:
    settings: Any = settings_of("irm", **changes)
    del settings["train_env"]
    assert departures(settings) == NONE


def test_an_algorithm_from_elsewhere_has_its_own_hyper_parameters() -> None:
    for changes, expected in (
        ({"algo.learning_rate": 7.0}, {}),
        ({"steps": 20}, {"steps": [501, 20]}),
    ):
        settings: Any = settings_of("erm", **changes)
        del settings["train_env"]
        settings["algo"]["name"] = "my_package.Mine"
        assert json.loads(departures(settings)) == expected


def test_data_from_elsewhere_have_the_defaults_and_an_unknown_protocol_has_none() -> None:
    settings: Any = {
        "algo": {"name": "erm", "learning_rate": 0.1},
        "data": {"name": "my_package.Data", "batch_size": 64},
        "network": {"backbone": "mlp", "width": 128, "logits": "all"},
        "protocol": "custom",
        "steps": 300,
    }
    assert json.loads(departures(settings)) == {
        "steps": [1000, 300], "algo.learning_rate": [0.001, 0.1]
    }  # fmt: skip
    assert departures({**settings, "data": {"name": "pacs"}}) == NONE


def test_verify_says_what_departs_and_what_it_cannot_tell(tmp_path: Path) -> None:
    write_others(tmp_path)
    write(tmp_path, "irm", [0.9, 0.9, 0.9], {"steps": 20})
    report = verify(tmp_path)
    assert "6 records: all settings are those of their protocol" in report.checked
    (remark,) = report.remarks
    assert remark.endswith("compared with no other row: 20 of 501 steps.")
    write_run(
        tmp_path,
        make_settings(dataset="pacs"),
        [make_check(100, {"-90%/main": 0.5})],
    )
    assert any(
        "settings of pacs, digits: no protocol" in each for each in verify(tmp_path).unchecked
    )
