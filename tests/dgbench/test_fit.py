"""A run and its record: the same data for everyone, bit for bit the same when it is resumed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dgbench
from dgbench.checkpoints import read, score
from dgbench.errors import UsageError
from dgbench.evaluation import evaluate
from leaderboard import records
from leaderboard.derived import contradictions
from leaderboard.sources import load
from tests.dgbench.tiny import TINY, checks, command, fit


def weights(folder: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(folder / name, weights_only=True)["state_dict"]


def equal_weights(first: Path, second: Path) -> bool:
    left, right = weights(first), weights(second)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return fit(tmp_path_factory.mktemp("finished"), algo="irm")


def test_the_record_is_complete_and_valid(finished):
    run = records.read_run(finished, verify_checkpoints=True)
    assert run.state == "finished"
    assert finished.parts[-3:] == ("colored_mnist", "irm", run.run["run_id"])
    assert [check["step"] for check in run.checks] == [2, 4]
    # Before the end only what a rule reads; at the end everything.
    assert set(run.checks[0]["splits"]) == {
        "+90%/holdout", "+80%/holdout", "-90%/main", "-90%/holdout",
    }  # fmt: skip
    assert set(run.checks[1]["splits"]) == {
        f"{name}/{split}" for name in ("+90%", "+80%", "-90%") for split in ("main", "holdout")
    }
    assert run.checks[1]["splits"]["-90%/main"]["n"] == 200
    assert set(run.checks[1]["train"]) >= {"loss", "penalty", "risk/+90%", "risk/+80%"}
    assert [environment["role"] for environment in run.run["environments"]] == [
        "train", "train", "test",
    ]  # fmt: skip
    assert run.run["settings"]["algo"]["penalty_weight"] > 9e4  # irm.yaml's


def test_the_table_shows_the_record(finished):
    code, shown, _ = command(
        "fit", "--algo", "irm", "--test-env", 2, *TINY, "--out", finished.parents[2]
    )
    assert code == 0
    last = records.read_run(finished).checks[-1]["splits"]
    accuracy = last["-90%/main"]["accuracy"]
    assert accuracy is not None
    assert f"{100 * accuracy:.1f} %" in shown
    assert f"{last['+80%/main']['nll']:.3f}" in shown
    assert "-90% (held out)" in shown
    assert "Selected by last" in shown
    assert "train_val would have picked step" in shown
    assert str(finished) in shown


def test_typing_it_twice_trains_once_and_force_trains_again(tmp_path):
    folder = fit(tmp_path)
    written = (folder / "last.ckpt").stat().st_mtime_ns
    assert fit(tmp_path) == folder
    assert (folder / "last.ckpt").stat().st_mtime_ns == written
    before = weights(folder)
    assert fit(tmp_path, "--force") == folder
    assert (folder / "last.ckpt").stat().st_mtime_ns > written
    assert all(torch.equal(before[name], value) for name, value in weights(folder).items())


def test_deterministic_is_passed_on_recorded_and_repeats_itself(tmp_path):
    flags = ("--trainer.deterministic", "true", "--data.batch_size", 16)
    first, second = (fit(tmp_path / out, *flags, algo="irm") for out in ("first", "second"))
    assert records.read_run(first).run["settings"]["deterministic"] is True
    assert equal_weights(first, second)
    assert checks(first) == checks(second)


def test_python_and_command_line_make_the_same_run(finished, tmp_path):
    run = dgbench.fit(
        algo="irm",
        test_env="-90%",
        steps=4,
        check_every=2,
        network={"width": 8},
        data={"draws": 200, "holdout_draws": 50},
        out=str(tmp_path),
    )
    assert run.folder.name == finished.name
    assert equal_weights(run.folder, finished)
    assert checks(run.folder) == checks(finished)


def test_seeds_decide_what_they_are_said_to(tmp_path):
    batches = ("--data.batch_size", "16")
    base = fit(tmp_path, *batches)
    trial = fit(tmp_path, *batches, "--trial-seed", 1, "--data-seed", 0)
    data = fit(tmp_path, *batches, "--data-seed", 1)
    assert not equal_weights(base, trial)
    assert not equal_weights(base, data)
    fingerprint = {f: records.read_run(f).run["data_fingerprint"] for f in (base, trial, data)}
    assert fingerprint[base] == fingerprint[trial] != fingerprint[data]
    other = records.read_run(fit(tmp_path, *batches, "--trial-seed", 1)).run
    assert (other["settings"]["trial_seed"], other["settings"]["data_seed"]) == (1, 1)
    assert other["data_fingerprint"] == fingerprint[data]


def test_all_algorithms_and_test_environments_see_the_same_data(tmp_path):
    folders = [fit(tmp_path), fit(tmp_path, algo="vrex"), fit(tmp_path, test_env=0)]
    assert len({records.read_run(folder).run["data_fingerprint"] for folder in folders}) == 1


def test_global_random_state_is_neither_used_nor_changed(finished, tmp_path):
    torch.manual_seed(123)
    folder = fit(tmp_path, algo="irm")
    assert equal_weights(folder, finished)


def test_several_held_out_environments_and_a_single_source(tmp_path):
    several = records.read_run(fit(tmp_path, "--test-env", "0")).run["settings"]
    assert several["test_env"] == ["-90%", "+90%"]
    assert several["train_env"] == ["+80%"]
    single = records.read_run(fit(tmp_path, "--train-env", "plus80"))
    assert [e["role"] for e in single.run["environments"]] == ["unused", "train", "test"]


def test_selected_checkpoint_is_the_check_that_train_val_picks(tmp_path):
    folder = fit(tmp_path, "--selection", "train_val", "--steps", 8)
    run = records.read_run(folder)
    holdouts = [
        sum(check["splits"][f"{name}/holdout"]["accuracy"] for name in ("+90%", "+80%"))
        for check in checks(folder)
    ]
    best = run.checks[holdouts.index(max(holdouts))]["step"]
    assert run.done is not None
    assert run.done["selected"]["train_val"] == best
    chosen = torch.load(folder / "selected.ckpt", weights_only=True)
    assert chosen["global_step"] == best


def test_the_selected_check_has_every_split_like_the_last(tmp_path):
    folder = fit(tmp_path, "--selection", "train_val", "--steps", 40, "--data.batch_size", 16)
    run = records.read_run(folder)
    assert run.done is not None
    selected = run.done["selected"]["train_val"]
    assert selected != 40, "the last check was picked; choose other settings for this test"
    (check,) = [check for check in run.checks if check["step"] == selected]
    assert len(check["splits"]) == 6
    assert score(read(folder / "selected.ckpt")) == check["splits"]


def test_check_all_measures_everything_at_every_check(tmp_path):
    assert all(len(check["splits"]) == 6 for check in checks(fit(tmp_path, "--check-all")))


def test_a_diverged_run_ends_and_says_so(tmp_path):
    folder = fit(tmp_path, "--algo.learning_rate", "1e30", "--steps", 40)
    run = records.read_run(folder)
    assert run.state == "diverged"
    assert run.done is not None
    assert run.done["last_step"] < 40
    assert run.checks[-1]["diverged"]


def test_finite_losses_with_broken_weights_are_no_finished_run(tmp_path):
    folder = fit(tmp_path, "--algo.learning_rate", "1e38", "--steps", 1)
    run = records.read_run(folder)
    assert run.checks[-1]["splits"]["-90%/main"]["accuracy"] is None
    assert run.state == "diverged"


@pytest.mark.parametrize(("broken", "state"), [("-90%", "finished"), ("+90%", "diverged")])
def test_only_training_environments_stop_a_run(broken, state, tmp_path, monkeypatch):
    def without_numbers(*arguments):
        measured = evaluate(*arguments)
        for split in measured:
            if split.startswith(broken):
                measured[split]["accuracy"] = math.nan
        return measured

    monkeypatch.setattr("dgbench.recorder.evaluate", without_numbers)
    run = records.read_run(fit(tmp_path))
    assert run.state == state
    assert [check["step"] for check in run.checks] == ([2, 4] if state == "finished" else [2])
    for check in run.checks:
        assert check["splits"][f"{broken}/holdout"]["accuracy"] is None
        assert check["splits"][f"{broken}/holdout"]["brier"] is not None
    (record,), left_out = load([tmp_path])
    assert [*contradictions(record), *left_out] == []


def test_force_with_a_mistake_leaves_the_finished_record(tmp_path):
    folder = fit(tmp_path, algo="irm")
    call = ["fit", "--algo", "irm", "--test-env", 2, *TINY, "--out", tmp_path, "--force"]
    code, _, errors = command(*call, "--trainer.accelerator", "abacus")
    assert code == 2, errors
    assert records.read_run(folder, verify_checkpoints=True).state == "finished"


def test_a_run_killed_before_its_last_file_is_closed_by_resuming(tmp_path):
    folder = fit(tmp_path, algo="irm")
    before = checks(folder)
    (folder / "done.json").unlink()
    code, shown, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert "Record: " in shown
    assert records.read_run(folder, verify_checkpoints=True).state == "finished"
    assert checks(folder) == before


@pytest.mark.parametrize("logger", ["csv", "tensorboard"])
def test_loggers_are_added_and_change_nothing(logger, finished, tmp_path):
    folder = fit(tmp_path, "--logger", logger, algo="irm")
    assert folder.name == finished.name
    assert equal_weights(folder, finished)
    assert [path for path in (folder / "logs").rglob("*") if path.is_file()]


@pytest.mark.parametrize("mode", [None, "offline", "disabled"])
def test_wandb_needs_no_account(mode, finished, tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "WANDB_SILENT": "true"}
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        environment.pop(name, None)
    if mode is not None:
        environment["WANDB_MODE"] = mode
    call = [sys.executable, "-m", "dgbench", "fit", "--algo", "irm", "--test-env", "2", *TINY]
    call += ["--logger", "wandb", "--out", str(tmp_path / "runs")]
    done = subprocess.run(call, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder,) = records.find_runs([tmp_path / "runs"])
    assert equal_weights(folder, finished)
    assert bool(list(tmp_path.rglob("*.wandb"))) == (mode != "disabled")


def start(out: Path, *arguments: str) -> subprocess.Popen:
    call = [sys.executable, "-m", "dgbench", "fit", "--algo", "irm", "--test-env", "2"]
    return subprocess.Popen(
        [*call, *arguments, "--out", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


LONG = (
    "--steps", "300", "--check-every", "20", "--network.width", "32", "--data.draws", "1000",
    "--data.batch_size", "128", "--algo.anneal_steps", "70",
)  # fmt: skip


def wait_for_step(out: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in out.rglob("checks.jsonl"):
            if f'"step":{step},' in path.read_text():
                return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was never reached")


def test_killed_or_interrupted_and_resumed_it_is_bit_identical(tmp_path):
    code, _, errors = command(
        "fit", "--algo", "irm", "--test-env", 2, *LONG, "--out", tmp_path / "whole"
    )
    assert code == 0, errors
    (whole,) = records.find_runs([tmp_path / "whole"])

    killed = start(tmp_path / "broken", *LONG)
    wait_for_step(tmp_path / "broken", 40)
    killed.kill()
    killed.communicate()
    (broken,) = records.find_runs([tmp_path / "broken"])
    assert not (broken / "done.json").exists()
    code, _, errors = command(
        "fit", "--algo", "irm", "--test-env", 2, *LONG, "--out", tmp_path / "broken"
    )
    assert code == 2
    assert f"--resume {broken}" in errors

    interrupted = subprocess.Popen(
        [sys.executable, "-m", "dgbench", "fit", "--resume", str(broken)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_step(tmp_path / "broken", 120)
    interrupted.send_signal(signal.SIGINT)
    _, errors = interrupted.communicate()
    assert interrupted.returncode == 130
    assert "stopped by SIGINT after step" in errors
    assert records.read_run(broken).state == "interrupted"

    code, _, errors = command("fit", "--resume", "last", "--out", tmp_path / "broken")
    assert code == 0, errors
    assert equal_weights(broken, whole)
    assert checks(broken) == checks(whole)
    assert records.read_run(broken, verify_checkpoints=True).state == "finished"


def test_resuming_with_other_settings_is_refused_with_the_differences(finished):
    code, _, errors = command("fit", "--resume", finished, "--algo.penalty_weight", "2")
    assert code == 2
    assert "penalty_weight" in errors


def test_a_failed_run_says_failed_and_keeps_its_message(tmp_path, monkeypatch):
    from dgbench.algorithms.irm import IRM

    def fail(*_):
        raise RuntimeError("no more memory")

    monkeypatch.setattr(IRM, "objective", fail)
    with pytest.raises(RuntimeError, match="no more memory"):
        dgbench.fit(algo="irm", test_env=2, steps=2, out=str(tmp_path))
    (folder,) = records.find_runs([tmp_path])
    run = records.read_run(folder)
    assert run.state == "failed"
    assert run.status is not None
    assert run.status["error"] == "no more memory"


def test_an_algorithm_from_elsewhere_works_like_ours(tmp_path, monkeypatch):
    (tmp_path / "my_other_package").mkdir()
    (tmp_path / "my_other_package" / "__init__.py").write_text(
        "from dgbench.algorithms.base import Algorithm\n"
        "class Mine(Algorithm):\n"
        "    def __init__(self, *, scale: float = 2.0, **base):\n"
        "        super().__init__(**base)\n"
        "        self.scale = scale\n"
        "    def objective(self, batch):\n"
        "        risks = self.risks(batch)\n"
        '        return {"loss": self.scale * risks.max(), "risks": risks}\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = fit(tmp_path / "runs", "--algo.scale", "3", algo="my_other_package.Mine")
    settings = records.read_run(folder).run["settings"]
    assert settings["algo"]["name"] == "my_other_package.Mine"
    assert settings["algo"]["scale"] == 3.0
    assert folder.parent.name.startswith("my_other_package-mine-")


def test_a_misspelt_python_option_is_refused():
    with pytest.raises(UsageError, match="stepps"):
        dgbench.fit(algo="irm", test_env=2, stepps=4)


def test_status_is_json_that_names_the_step(finished):
    assert json.loads((finished / "status.json").read_text())["step"] == 4
