"""Runs of code that is not the suite's: another code is another row, other data another table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from leaderboard import details, verify
from leaderboard.errors import RecordError
from leaderboard.filling import make_board
from leaderboard.frame import Record, from_run
from leaderboard.markdown import markdown
from leaderboard.pack import pack
from leaderboard.records import GitState, Run, SelectionRule, validate_run
from leaderboard.selection import selected_steps
from leaderboard.sources import load
from leaderboard.tables import title
from tests.leaderboard.make_golden import make_check, make_run_json, make_settings

OLD, NEW = "sha256:0123456789abcdef", "sha256:fedcba9876543210"
MINE, SET = "my_package.Mine", "my_data.Stripes"


def own_record(
    algorithm: str,
    accuracy: float,
    *,
    trial: int = 0,
    dataset: str = "colored_mnist",
    source: dict[str, str] | None = None,
    states: dict[str, GitState] | None = None,
    selection: SelectionRule = "last",
) -> Record:
    settings = make_settings(algorithm=algorithm, dataset=dataset, trial=trial, selection=selection)
    if source is not None:
        settings["source"] = source
    run = make_run_json(settings)
    run["provenance"]["git"] = {"commit": "a" * 40, "dirty": False}
    if states is not None:
        run["provenance"]["source"] = states
    splits = {"+90%/holdout": 0.75, "+80%/holdout": 0.75, "-90%/main": accuracy}
    checks = (make_check(50, splits), make_check(100, splits))
    done: Any = {
        "schema": "dgbench.done/1", "status": "finished", "last_step": 100, "seconds": 2.0,
        "selected": selected_steps(checks, settings["train_env"], settings["test_env"]),
        "sha256": {"run.json": "0" * 64, "checks.jsonl": "1" * 64},
    }  # fmt: skip
    folder = Path(dataset, algorithm, run["run_id"])
    return from_run(Run(folder, validate_run(run), checks, done, None))


def trials(algorithm: str, accuracy: float, **options: Any) -> list[Record]:
    return [
        own_record(algorithm, accuracy + trial / 100, trial=trial, **options) for trial in range(3)
    ]


def test_two_versions_of_an_algorithm_are_two_rows_that_a_short_hash_tells_apart():
    found = [
        *trials("erm", 0.1),
        *trials(MINE, 0.3, source={"algo": OLD}),
        *trials(MINE, 0.5, source={"algo": NEW}),
    ]
    (section,) = make_board(found, rule="last").sections
    assert {row.label: row.cells[0].accuracy.mean for row in section.rows} == pytest.approx(  # type: ignore[union-attr]
        {
            "erm": 0.11,
            f"{MINE} (source.algo=01234567)": 0.31,
            f"{MINE} (source.algo=fedcba98)": 0.51,
        }
    )
    assert "Mine (source.algo=fedcba98)" in markdown(make_board(found))


def test_a_single_version_has_the_plain_name_and_is_ranked_beside_the_suites():
    found = [
        *trials("erm", 0.1, selection="train_val"),
        *trials(MINE, 0.3, source={"algo": OLD}, selection="train_val"),
    ]
    section = next(s for s in make_board(found).sections if s.key.rule == "train_val")
    assert {row.label: row.rank for row in section.rows} == {"erm": 2, MINE: 1}


def test_two_versions_of_a_data_set_are_two_data_sets():
    found = [
        *trials("erm", 0.1, dataset=SET, source={"data": OLD}),
        *trials("irm", 0.2, dataset=SET, source={"data": OLD}),
        *trials("erm", 0.3, dataset=SET, source={"data": NEW}),
    ]
    sections = make_board(found, rule="last").sections
    assert sorted((title(s).count("01234567"), len(s.rows)) for s in sections) == [(0, 1), (1, 2)]
    assert [row.label for s in sections for row in s.rows] == ["erm", "irm", "erm"]


def test_records_with_a_source_are_packed_and_read_again(tmp_path):
    found = trials(MINE, 0.3, source={"algo": OLD}, states={"algo": {"commit": "b", "dirty": True}})
    again, _ = load([pack(found, tmp_path / "records.jsonl")])
    assert sorted(record.sha256 for record in again) == sorted(record.sha256 for record in found)
    assert [record.run["settings"]["source"] for record in again] == [{"algo": OLD}] * 3
    assert make_board(again).sections == make_board(found).sections


@pytest.mark.parametrize("source", [{}, {"network": OLD}, {"algo": "sha256:1"}, {"algo": None}])
def test_a_source_is_hashes_of_an_algorithm_or_a_data_set(source):
    with pytest.raises(RecordError, match="settings"):
        own_record(MINE, 0.3, source=source)


@pytest.mark.parametrize(
    ("state", "told", "lacking"),
    [
        ({"commit": "b" * 40, "dirty": False}, "b" * 40, False),
        ({"commit": "b" * 40, "dirty": True}, "b" * 40 + " with uncommitted changes", True),
        ({"commit": None, "dirty": None}, "unknown", True),
    ],
)
def test_the_commit_of_the_users_own_code_is_told_and_asked_for(state, told, lacking):
    record = own_record(MINE, 0.3, source={"algo": OLD}, states={"algo": state})
    facts = details._origin(record)
    assert (facts["commit"], facts[f"commit of {MINE}"]) == ("a" * 40, told)
    assert verify._without_commit(record) is lacking
    assert not verify._without_commit(own_record("erm", 0.3))
