"""When a run is checked: behind multiples of `check_every`, or where DomainBed is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dgbench import registry
from dgbench.algorithms.erm import ERM
from dgbench.errors import UsageError
from dgbench.protocols import protocols
from dgbench.settings import recorded_config, resolve, resolve_arguments
from dgbench.stacked.training import run_stacked
from dgbench.sweep.measuring import measure
from leaderboard import records
from leaderboard.commands import fit_command
from leaderboard.derived import contradictions
from leaderboard.frame import Trial, from_run
from leaderboard.schedule import check_steps
from tests.dgbench.test_configs import small_options
from tests.dgbench.tiny import TINY, checks, command, fit
from tests.real import stand_in_for_mnist

ROLES = (["-90%"], ["+90%", "+80%"])
# DomainBed's CHECKPOINT_FREQ (datasets.py); folders of one's own are treated as PACS is.
FREQUENCIES = {
    "colored_mnist": 100,
    "rotated_mnist": 100,
    "vlcs": 300,
    "pacs": 300,
    "office_home": 300,
    "terra_incognita": 300,
    "domain_net": 1000,
    "image_folder": 300,
    "manifest": 300,
}
PACS = (
    "fit", "--algo", "erm", "--dataset", "pacs", "--protocol", "domainbed", "--test-env", "sketch",
    "--check-every", "3", "--network.width", "8",
)  # fmt: skip


def domainbed(frequency: int, steps: int = 5001) -> list[int]:
    """Updates behind which its train.py measures: it counts them from 0."""
    return [step + 1 for step in range(steps) if step % frequency == 0 or step == steps - 1]


def decided(**config: Any) -> dict[str, Any]:
    return resolve({"algo": "erm", "test_env": 0, **config}).deciding(*ROLES)


def steps_of(settings: Mapping[str, Any]) -> list[int]:
    names = ("steps", "check_every", "first_check")
    return sorted(check_steps(**{name: settings[name] for name in names if name in settings}))


def measured(folder: Path) -> list[int]:
    return [check["step"] for check in checks(folder)]


# Which steps they are


def test_every_domainbed_protocol_is_checked_where_domainbed_is():
    data_sets = [name for name in registry.entries("data set") if "domainbed" in protocols(name)]
    found = {name: steps_of(decided(dataset=name, protocol="domainbed")) for name in data_sets}
    assert found == {name: domainbed(frequency) for name, frequency in FREQUENCIES.items()}
    assert found["pacs"] == [1, *range(301, 4802, 300), 5001]
    assert found["colored_mnist"] == [1, *range(101, 5002, 100)]
    assert [len(found[name]) for name in ("pacs", "rotated_mnist", "domain_net")] == [18, 51, 6]


def test_all_other_protocols_are_checked_behind_multiples():
    for dataset in registry.entries("data set"):
        for protocol in set(protocols(dataset)) - {"domainbed"}:
            settings = decided(dataset=dataset, protocol=protocol)
            steps, every = settings["steps"], settings["check_every"]
            multiples = {step for step in range(1, steps + 1) if step % every == 0}
            assert steps_of(settings) == sorted({*multiples, steps})


# What it has to do with the run id


def test_the_usual_first_check_is_no_setting_of_its_own():
    """Runs of before there was this option keep their ids."""
    plain = decided()
    assert "first_check" not in plain
    assert decided(first_check=plain["check_every"]) == plain
    assert decided(first_check=None) == plain
    assert decided(first_check=1) == {**plain, "first_check": 1}


def test_a_record_without_a_first_check_resolves_as_it_was_made():
    """Those of protocol `domainbed` were checked behind multiples once."""
    other = decided(protocol="domainbed")
    assert other.pop("first_check") == 1
    assert resolve(recorded_config(other)).deciding(*ROLES) == other
    assert steps_of(other)[:2] == [100, 200]


@pytest.mark.parametrize("own", [{}, {"first_check": 40}, {"first_check": 100}])
def test_the_command_of_a_run_says_where_its_checks_begin(own, tmp_path, monkeypatch):
    stand_in_for_mnist(monkeypatch)
    made = fit(tmp_path, "--protocol", "domainbed", *_flags(own), "--network.width", "16")
    record = from_run(records.read_run(made))
    line = fit_command(record, ["-90%"], Trial(0, 0))
    assert line is not None
    again = resolve_arguments(shlex.split(line)[2:])
    assert again.deciding(*ROLES) == record.run["settings"]


def _flags(options: Mapping[str, int]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


@pytest.mark.parametrize("flag", ["--first-check", "--check-every", "--steps"])
def test_a_check_before_the_first_step_is_refused(flag):
    with pytest.raises(UsageError, match=f"{flag} is 0; it must be at least 1"):
        resolve_arguments(["--algo", "erm", "--test-env", "0", flag, "0"])


# Runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return pacs(tmp_path_factory.mktemp("whole"), "--steps", 11)


def pacs(out: Path, *options: object) -> Path:
    code, _, errors = command(*PACS, *small_options("pacs"), "--out", out, *options)
    assert code == 0, errors
    return max(records.find_runs([out]), key=lambda folder: folder.stat().st_mtime)


def test_a_run_is_measured_there_and_its_record_is_consistent(whole):
    assert measured(whole) == domainbed(3, 11) == [1, 4, 7, 10, 11]
    record = from_run(records.read_run(whole))
    assert not list(contradictions(record))


def test_a_check_that_is_missing_is_found(whole):
    run = records.read_run(whole)
    gap = from_run(records.Run(run.folder, run.run, run.checks[1:], run.done, run.status))
    (found,) = [line for line in contradictions(gap) if line.startswith("checks.jsonl: checks")]
    assert "every 3 of 11 steps from 1 on ask for 1, 4, 7, 10, 11" in found


def test_an_interrupted_run_is_measured_there(whole, tmp_path, monkeypatch):
    objective, taken = ERM.objective, 0

    def failing(algorithm: ERM, batch: Any) -> Any:
        nonlocal taken
        taken += 1
        if taken == 6:
            raise OSError("the disk is gone")
        return objective(algorithm, batch)

    monkeypatch.setattr(ERM, "objective", failing)
    call = (*PACS, *small_options("pacs"), "--steps", 11, "--out", tmp_path)
    assert command(*call)[0] == 2
    (folder,) = records.find_runs([tmp_path])
    assert measured(folder) == [1, 4]
    code, _, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert checks(folder) == checks(whole)


def test_a_run_that_grows_is_measured_as_a_longer_one(tmp_path):
    long = pacs(tmp_path / "long", "--steps", 11, "--selection", "last")
    short = pacs(tmp_path / "short", "--steps", 5, "--selection", "last")
    assert measured(short) == [1, 4, 5]
    code, _, errors = command("fit", "--resume", short, "--steps", 11)
    assert code == 0, errors
    (grown,) = (folder for folder in records.find_runs([short.parents[2]]) if folder != short)
    assert grown.name == long.name
    assert [c["splits"] for c in checks(grown)] == [c["splits"] for c in checks(long)]


@pytest.mark.parametrize("steps", [(), ("--steps", "20")])
def test_a_resumed_or_repeated_run_keeps_its_checks(steps, whole, tmp_path):
    """`--first-check 3` is what its `--check-every` would do without the option."""
    code, _, errors = command("fit", "--resume", whole, "--first-check", 3, *steps)
    assert code == 2
    assert "first_check was 1 and is None" in errors
    call = ("reproduce", whole, "--out", tmp_path, "--first-check", 3)
    code, _, errors = command(*call)
    assert code == 2
    assert "differ from the record in first_check" in errors


def test_a_record_is_reproduced_with_its_checks(whole, tmp_path):
    code, shown, errors = command("reproduce", whole, "--out", tmp_path)
    assert (code, errors) == (0, "")
    assert "Equal: every number of every check." in shown


def test_stacked_runs_are_measured_there(tmp_path):
    config = {"test_env": 2, "algo": "erm", "steps": 6, "check_every": 2, "out": str(tmp_path)}
    config["data"] = {"batch_size": 8, "draws": 60, "holdout_draws": 30}
    config["network"] = {"width": 8}
    found = run_stacked([resolve({**config, "first_check": 1, "trial_seed": t}) for t in (0, 1)])
    assert [[check["step"] for check in run.checks] for run in found] == [[1, 3, 5, 6]] * 2
    with pytest.raises(UsageError, match="differ in first_check"):
        run_stacked([resolve({**config, "first_check": first}) for first in (1, 3)])


def test_a_sweep_counts_them(tmp_path):
    flags = ["--algo", "erm", "--test-env", "2", *TINY]
    usual, earlier = (
        measure(resolve_arguments([*flags, *more])).bytes for more in ([], ["--first-check", "1"])
    )
    splits = len(checks(fit(tmp_path))[0]["splits"])
    assert earlier - usual == 150 * splits, "one more check, of 150 bytes a split"


def test_without_a_terminal_each_check_has_a_line(tmp_path):
    code, shown, errors = command(*PACS, *small_options("pacs"), "--steps", 6, "--out", tmp_path)
    assert code == 0, errors
    lines = [line.split()[1] for line in shown.splitlines() if line.startswith("step ")]
    assert lines == ["1/6", "4/6", "6/6"]
