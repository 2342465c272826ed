"""What stops a run leaves it ready to go on, and says so by its exit code."""

from __future__ import annotations

import os
import pty
import signal
import sys
from typing import Any

import pytest
import torch

from dgbench.algorithms.erm import ERM
from leaderboard import records
from tests.dgbench.tiny import TINY, command

STEPS = ("--steps", "6", "--check-every", "4")
RUN = ("fit", "--algo", "erm", "--test-env", "2", *TINY, *STEPS, "--out")


def signalling(monkeypatch: pytest.MonkeyPatch, *signals: signal.Signals) -> None:
    """Lets a run get signals while it takes its third step."""
    objective, calls = ERM.objective, iter(range(1, 100))

    def signalled(algorithm: ERM, batch: Any) -> dict[str, torch.Tensor]:
        if next(calls) == 3:
            for number in signals:
                os.kill(os.getpid(), number)
        return objective(algorithm, batch)

    monkeypatch.setattr(ERM, "objective", signalled)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_stops_a_run_behind_its_step_with_a_checkpoint(number, tmp_path, monkeypatch):
    before = signal.getsignal(number)
    signalling(monkeypatch, number)
    code, _, errors = command(*RUN, tmp_path)
    assert code == 130
    assert f"stopped by {number.name} after step 3" in errors
    (folder,) = records.find_runs([tmp_path])
    assert records.read_run(folder).state == "interrupted"
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 3
    assert signal.getsignal(number) == before


def test_who_is_started_to_outlive_the_terminal_does(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        signalling(monkeypatch, signal.SIGHUP)
        code, _, errors = command(*RUN, tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert code == 0, errors


def test_the_second_ctrl_c_ends_it_at_once_with_the_code_of_the_first(tmp_path, monkeypatch):
    signalling(monkeypatch, signal.SIGINT, signal.SIGINT)
    code, _, errors = command(*RUN, tmp_path)
    assert code == 130
    assert errors.endswith("dgbench: interrupted\n")
    (folder,) = records.find_runs([tmp_path])
    assert records.read_run(folder).state == "interrupted"
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_terminal_that_is_closed_stops_a_run_behind_its_step(tmp_path):
    child, terminal = pty.fork()
    if not child:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "dgbench", *RUN, str(tmp_path), "--steps", "1000000"],
        )
    seen = b""
    while b"risk" not in seen:
        seen += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 130
    (folder,) = records.find_runs([tmp_path])
    run = records.read_run(folder)
    assert (run.state, run.status and run.status["error"]) == ("interrupted", None)
    step = torch.load(folder / "last.ckpt", weights_only=True)["global_step"]
    assert run.status is not None
    assert run.status["step"] == step > 0
