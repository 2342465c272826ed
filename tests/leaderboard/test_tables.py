"""Markdown tables of the frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leaderboard.errors import RecordError
from leaderboard.frame import Skipped, load_runs, run_frame
from leaderboard.records import SelectionRule
from leaderboard.tables import DAGGER_LEGEND, escape, markdown_table, skipped_list
from tests.leaderboard.make_golden import (
    colored_run,
    make_check,
    make_settings,
    write_golden_runs,
    write_run,
)


def table(folder: Path, rule: SelectionRule = "last") -> str:
    return markdown_table(run_frame(load_runs([folder])[0])[0], rule)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def write_colored(out: Path, trial: int = 0, accuracy: float = 0.5, **options: Any) -> None:
    """A run whose settings take any change, held out on -90%."""
    settings = make_settings(trial=trial)
    settings.update(options)  # type: ignore[typeddict-item]
    write_run(out, settings, [make_check(100, {"-90%/main": accuracy})])


def test_header_names_rule_runs_version_and_hash(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    header = table(tmp_path).splitlines()[:4]
    assert header[0] == "<!-- selection rule: last -->"
    assert header[1] == "<!-- runs: 8, of them with a number: 7 -->"
    assert header[2] == "<!-- benchmark version: 1 -->"
    assert header[3].startswith("<!-- sha256 of the records: ")


def test_the_hash_changes_with_any_record(tmp_path: Path) -> None:
    write_colored(tmp_path / "a", accuracy=0.5)
    write_colored(tmp_path / "b", accuracy=0.5001)
    first, second = table(tmp_path / "a"), table(tmp_path / "b")
    assert lines(first) == lines(second)
    assert first.splitlines()[3] != second.splitlines()[3]


def test_one_environment_has_no_average_column(tmp_path: Path) -> None:
    write_colored(tmp_path)
    assert lines(table(tmp_path)) == [
        "| Algorithm | -90% |",
        "| --- | ---: |",
        "| erm | 50.0 (1) |",
    ]
    assert DAGGER_LEGEND not in table(tmp_path)


def test_the_average_is_taken_inside_each_trial(tmp_path: Path) -> None:
    for trial, (first, second) in enumerate([(0.1, 0.9), (0.3, 0.7), (0.5, 0.5)]):
        colored_run(tmp_path, "erm", "+90%", trial, first)
        colored_run(tmp_path, "erm", "-90%", trial, second)
    # Standard deviation of 10, 30, 50 is 20 (ddof=1), over sqrt(3) it is 11.5; each trial averages
    # to 50 exactly, where averaged standard errors would say 11.5.
    assert lines(table(tmp_path))[2] == (
        "| erm | 30.0 ± 11.5 (3) | 70.0 ± 11.5 (3) | 50.0 ± 0.0 (3) |"
    )


def test_a_missing_run_gives_a_dagger_and_no_average(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "+90%", 0, 0.5)
    colored_run(tmp_path, "erm", "+90%", 1, 0.5)
    colored_run(tmp_path, "erm", "-90%", 0, 0.5)
    assert lines(table(tmp_path))[2] == "| erm | 50.0 ± 0.0 (2) | 50.0 (1) † | — |"
    assert DAGGER_LEGEND in table(tmp_path)


def test_an_environment_never_held_out_gives_a_dagger(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "+90%", 0, 0.5)
    colored_run(tmp_path, "irm", "-90%", 0, 0.5)
    assert lines(table(tmp_path))[2:] == [
        "| erm | 50.0 (1) | — (0) † | — |",
        "| irm | — (0) † | 50.0 (1) | — |",
    ]


def test_a_trial_that_diverged_everywhere_is_still_a_missing_trial(tmp_path: Path) -> None:
    write_colored(tmp_path, trial=0)
    colored_run(tmp_path, "erm", "-90%", 1, 0.5, status="diverged")
    assert lines(table(tmp_path))[2] == "| erm | 50.0 (1) † |"


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ({"steps": 200}, "steps=100", "steps=200"),
        ({"hparams_seed": 3}, "hparams\\_seed=0", "hparams\\_seed=3"),
        ({"precision": "bf16-mixed"}, 'precision="32-true"', 'precision="bf16-mixed"'),
        (
            {"data": {"name": "colored_mnist", "source": "digits", "draws": 5}},
            "data.draws=5",
            "data.draws=unset",
        ),
        ({"train_env": ["+90%"]}, "train\\_env=unset", 'train\\_env=\\["+90%"\\]'),
    ],
)
def test_other_settings_are_other_rows(
    tmp_path: Path, change: dict[str, Any], first: str, second: str
) -> None:
    write_colored(tmp_path, trial=0)
    write_colored(tmp_path, trial=1, **change)
    labels = {line.split(" | ")[0] for line in lines(table(tmp_path))[2:]}
    assert labels == {f"| erm ({first})", f"| erm ({second})"}


def test_trials_with_other_data_seeds_stand_apart(tmp_path: Path) -> None:
    write_colored(tmp_path, accuracy=0.4)
    write_colored(tmp_path, accuracy=0.6, data_seed=1)
    assert lines(table(tmp_path))[2] == "| erm | 50.0 ± 10.0 (2) |"


def test_held_out_pairs_have_a_table_of_their_own(tmp_path: Path) -> None:
    colored_run(tmp_path, "erm", "-90%", 0, 0.1)
    pair = make_settings(test_env=("+90%", "-90%"))
    write_run(tmp_path, pair, [make_check(100, {"+90%/main": 0.7, "-90%/main": 0.3})])
    text = table(tmp_path)
    assert "2 environments held out together" in text
    assert "| erm | 10.0 (1) |" in lines(text)
    assert "| Algorithm | +90% (with -90%) | -90% (with +90%) | Average |" in lines(text)
    assert "| erm | 70.0 (1) | 30.0 (1) | 50.0 (1) |" in lines(text)


def test_order_of_rows_changes_nothing(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    frame, _ = run_frame(load_runs([tmp_path])[0])
    expected = markdown_table(frame, "last")
    for seed in range(5):
        shuffled: pd.DataFrame = frame.sample(frac=1, random_state=seed)
        assert markdown_table(shuffled, "last") == expected


def test_names_are_escaped(tmp_path: Path) -> None:
    settings = make_settings(algorithm="a|b*c", names=("x", "<y>"), test_env=("<y>",))
    write_run(tmp_path, settings, [make_check(100, {"<y>/main": 0.5})], names=("x", "<y>"))
    assert lines(table(tmp_path))[0] == r"| Algorithm | \<y\> |"
    assert lines(table(tmp_path))[2] == r"| a\|b\*c | 50.0 (1) |"
    assert escape("a\nb_c`[d]") == r"a b\_c\`\[d\]"


def test_a_rule_without_runs_is_refused(tmp_path: Path) -> None:
    write_golden_runs(tmp_path)
    with pytest.raises(RecordError, match=r"no run is selected by 'oracle'.*'last', 'train_val'"):
        table(tmp_path, "oracle")


def test_skipped_list_is_sorted_and_may_be_empty() -> None:
    entries = [Skipped(Path("/x/d/b/2"), "late | cut"), Skipped(Path("/x/d/a/1"), "early")]
    assert skipped_list(entries).splitlines()[2:] == ["- d/a/1: early", r"- d/b/2: late \| cut"]
    assert skipped_list([]).splitlines()[2:] == ["None."]
