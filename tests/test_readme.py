"""The README's commands and code are run, its tables compared with the code and the records.

`python -m tests.test_readme` writes the tables anew.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dgbench import catalogue
from dgbench.sweep import cost
from dgbench.sweep.measuring import measure
from leaderboard.board import Cell
from leaderboard.build import load_board
from tests.dgbench.tiny import DATA, TINY, command
from tests.folders import make_tree, write_manifest

README = Path(__file__).parent.parent / "README.md"
RECORDS = README.parent / "leaderboard" / "results" / "records"


@functools.cache
def flipped(protocol: str) -> list[tuple[str, Cell]]:
    """The published rows of Colored MNIST by the last check, with the cell where colour flips."""
    return [
        (
            row.label + ", grayscale" * json.loads(section.key.data)["grayscale"],
            row.cells[[column.name for column in section.columns].index("-90%")],
        )
        for section in load_board([RECORDS]).sections
        if (section.key.dataset, section.key.protocol) == ("colored_mnist", protocol)
        and section.key.rule == "last"
        for row in section.rows
    ]


def percent(cell: Cell) -> str:
    assert cell.accuracy is not None
    assert cell.accuracy.standard_error is not None
    return f"{100 * cell.accuracy.mean:.1f} ± {100 * cell.accuracy.standard_error:.1f} %"


def headline() -> str:
    rows = [
        (label.upper(), percent(cell))
        for label, cell in flipped("digits")
        if label in ("erm", "irm")
    ]
    return catalogue.markdown(("algorithm", "accuracy in -90%, held out"), iter(rows))


def papers() -> str:
    rows = [
        (label, percent(cell), str(cell.n), f"{published.printed} %")
        for label, cell in flipped("irm-paper")
        for published in cell.published
        if published.title.startswith("IRM paper")
    ]
    return catalogue.markdown(("row", "ours", "trials", "the papers'"), iter(rows))


TABLES = {
    "headline": headline,
    "the papers' Colored MNIST": papers,
    "algorithms": lambda: catalogue.markdown(
        catalogue.ALGORITHM_COLUMNS, catalogue.algorithm_rows()
    ),
    "data sets": lambda: catalogue.markdown(catalogue.DATASET_COLUMNS, catalogue.dataset_rows()),
}


BUDGET = TINY[: -len(DATA)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.S)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    return [shlex.split(line)[3:] for line in lines if line.startswith("python -m dgbench")]


def with_tables(text: str) -> str:
    """The README with its generated tables as they must be."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end -->)"
        place = re.search(pattern, text, re.S)
        assert place, f"the README has no place for the table of {name}"
        text = f"{text[: place.start()]}{place[1]}{table()}\n{place[2]}{text[place.end() :]}"
    return text


def test_the_two_commands_stand_at_the_top():
    first, second = blocks("bash")[:2]
    assert first == "pip install -e .\npython -m dgbench fit --algo irm --test-env 2\n"
    assert second.strip() == "pip install -e '.[dev]' && pytest"


def test_generated_tables_are_those_of_the_code_and_the_records():
    assert README.read_text() == with_tables(README.read_text())


def is_table(arguments: list[str]) -> bool:
    return arguments[0] == "reproduce" and "/" not in arguments[1]


def tiny(arguments: list[str]) -> list[str]:
    if is_table(arguments):
        return [*arguments, "--trials", "1", "--row", "grayscale", "--protocol", "digits", *TINY]
    if arguments[0] == "sweep" and arguments[1] != "status":
        return [*arguments, "--trials", "1", "--test-envs", "2", "--jobs", "1", *BUDGET]
    if arguments[0] != "fit":
        return arguments
    return [*arguments, *(BUDGET if "--dataset" in arguments else TINY)]


def test_its_commands_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # decoded images are kept there
    # In this process: another one would import torch for it.
    monkeypatch.setattr(cost, "measured_here", lambda *_: lambda runs: list(map(measure, runs)))
    assert len(commands()) >= 6
    exec(next(block for block in blocks("python") if "farms.csv" in block), {})
    photos = make_tree(tmp_path / "photos", ("dawn", "day", "night"))
    hospitals = {"dawn": "3", "day": "12", "night": "north"}
    rows = [
        {"path": str(path), "label": path.parts[-2], "hospital": hospitals[path.parts[-3]]}
        for path in photos.glob("*/*/*.png")
    ]
    write_manifest(tmp_path / "scans.csv", rows)
    for arguments in commands():
        if "--trainer.devices" in arguments or "publish" in arguments:
            # Lightning starts the program anew: tested as one, below. W&B's service takes ten
            # seconds: tests/leaderboard/test_publish.py.
            continue
        redirected = arguments[-2:-1] == [">"]
        given = arguments[:-2] if redirected else arguments
        code, shown, errors = command(*tiny(given))
        # Four steps reproduce nothing, and `reproduce` says so.
        assert code == is_table(arguments), f"{arguments}: {errors}"
        if redirected:
            Path(arguments[-1]).write_text(shown)
    assert "vrex" in (tmp_path / "board" / "LEADERBOARD.md").read_text()
    page = (tmp_path / "page" / "index.html").read_text()
    assert all(name in page for name in ("colored_mnist", "rotated_mnist", "erm", "irm", "vrex"))


def test_a_task_of_the_slurm_array_runs_its_line(tmp_path):
    (script,) = blocks("sh")
    lines = ("fit --algo=erm '--test-env=+90%'", "fit --algo=irm '--test-env=a name'")
    (tmp_path / "runs.txt").write_text("".join(f"python -m dgbench {line}\n" for line in lines))
    # What the scheduler and the suite would be, saying what they are asked for.
    for name, content in {"srun": 'exec "$@"', "python": 'printf "%s|" "$@"'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{content}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "2"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "-m|dgbench|fit|--algo=irm|--test-env=a name|"


SEVERAL_DEVICES = [arguments for arguments in commands() if "--trainer.devices" in arguments]


@pytest.mark.parametrize("arguments", [commands()[0], ["list"], *SEVERAL_DEVICES])
def test_some_of_them_run_as_programs(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "dgbench", *tiny(arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_example_of_a_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    example = blocks("python")[0]
    budget = "steps=2, network={'width': 8}, data={'draws': 200, 'holdout_draws': 50}, "
    namespace: dict = {}
    exec(example.replace("dgbench.fit(", f"dgbench.fit({budget}"), namespace)
    assert re.search(r"irm: \d+\.\d % in the flipped", capsys.readouterr().out)
    assert namespace["network"](__import__("torch").zeros(3, 2, 14, 14)).shape == (3, 2)


@pytest.mark.parametrize(
    ("block", "module", "flags"),
    [
        (1, "my_package", ["--algo", "my_package.WorstCase", "--test-env", "2", *TINY]),
        (2, "my_data", ["--algo", "vrex", "--dataset", "my_data.Stripes", "--test-env", "strong"]),
    ],
)
def test_the_worked_examples_run_and_fit_in_25_lines(block, module, flags, tmp_path, monkeypatch):
    example = blocks("python")[block]
    assert example.count("\n") <= 25
    (tmp_path / f"{module}.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.invalidate_caches()
    code, shown, errors = command("fit", *flags, "--steps", "4", "--check-every", "2")
    assert code == 0, errors
    assert "(held out)" in shown


def test_the_structural_causal_model_has_the_figures_beside_it():
    example = next(block for block in blocks("python") if "SCM(" in block)
    found: dict = {}
    exec(example, found)
    told = [
        float(number) for number in re.findall(r"#.*?(-?\d+\.\d+)(?: would.*)?$", example, re.M)
    ]
    means = [found[name]["revenue"].mean() for name in ("seen", "south")]
    assert told == pytest.approx(
        [*means, found["effect"].mean, found["seen"]["revenue"][0]], abs=0.005
    )
    assert f"{found['shaded']['revenue'][0]:.2f}" in example


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
