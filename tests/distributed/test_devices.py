"""One process or two: the same steps, the same metrics, every sample once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from dgbench.devices import require_exact
from dgbench.errors import UsageError
from leaderboard import records
from leaderboard.predictions import read_predictions
from tests.dgbench.tiny import checks, command
from tests.distributed.table import deviation, launch
from tests.distributed.train_all import cases
from tests.synthetic import make_algorithm, make_data

pytestmark = pytest.mark.distributed

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
RUN = (
    "fit", "--algo", "irm", "--test-env", "2", "--steps", "20", "--check-every", "10",
    "--data.batch_size", "127", "--data.draws", "1025", "--data.holdout_draws", "101",
    "--network.width", "16", "--algo.anneal_steps", "8", "--selection", "train_val",
    "--trainer.precision", "64-true", "--trainer.accelerator", "cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, dict]:
    folder = tmp_path_factory.mktemp("trained")
    return {
        "one": launch(folder / "one.pt", processes=1),
        "two": launch(folder / "two.pt", processes=2),
        "naive": launch(folder / "naive.pt", "--naive", processes=2),
    }


@pytest.mark.parametrize("case", cases())
def test_two_processes_take_one_process_s_steps(case, trained):
    assert deviation(trained["one"][case], trained["two"][case]) < 1e-9
    one, two = (trained[side][case]["metrics"] for side in ("one", "two"))
    for split, metrics in one.items():
        assert two[split]["n"] == metrics["n"]
        assert two[split] == pytest.approx(metrics, abs=1e-12)


@pytest.mark.parametrize("case", [case for case in cases() if case not in ("erm", "icp")])
def test_penalties_of_shards_would_be_other_penalties(case, trained):
    assert deviation(trained["one"][case], trained["naive"][case]) > 1e-4


def start(out: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "dgbench", *arguments, "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]


def assert_same_run(first: Path, second: Path) -> None:
    assert first.name == second.name
    for name, value in weights(first).items():
        torch.testing.assert_close(weights(second)[name], value, rtol=0, atol=1e-9)
    for one, two in zip(checks(first), checks(second), strict=True):
        assert one["step"] == two["step"]
        assert one["splits"].keys() == two["splits"].keys()
        for split, metrics in one["splits"].items():
            assert two["splits"][split] == pytest.approx(metrics, abs=1e-9)
            assert two["splits"][split]["n"] == metrics["n"]


def test_the_command_line_trains_on_two_and_records_once(tmp_path):
    together = start(tmp_path / "two", *RUN, *TWO, "--save-predictions")
    shown, errors = together.communicate(timeout=120)
    assert together.returncode == 0, errors
    assert shown.count("Record: ") == 1
    code, _, errors = command(*RUN, "--out", tmp_path / "one", "--save-predictions")
    assert code == 0, errors
    (one,), (two,) = (records.find_runs([tmp_path / name]) for name in ("one", "two"))
    assert_same_run(one, two)
    last = records.read_run(two, verify_checkpoints=True)
    assert last.checks[-1]["splits"]["-90%/main"]["n"] == 1025
    assert last.run["hardware"]["devices"] == 2
    pairs = zip(*(read_predictions(each / "predictions.npz") for each in (one, two)), strict=True)
    for alone, shared in pairs:
        assert (shared.split, shared.step) == (alone.split, alone.step)
        np.testing.assert_array_equal(shared.indices, alone.indices)
        np.testing.assert_array_equal(shared.targets, alone.targets)
        np.testing.assert_allclose(shared.logits, alone.logits, rtol=0, atol=1e-8)


SIGNALLED = """
import os, signal
from dgbench.algorithms.irm import IRM

class Signalled(IRM):
    '''IRM that gets a signal at its seventh step, where the environment asks for one.

    Args:
        **base: options of IRM.
    '''

    def objective(self, batch):
        ranks, _, name = os.environ.get("SIGNAL", "").partition(" ")
        if int(self.steps_taken) == 7 and os.environ.get("LOCAL_RANK", "0") in ranks:
            os.kill(os.getpid(), getattr(signal, name))
        return super().objective(batch)
"""


@pytest.fixture
def signalled(tmp_path, monkeypatch) -> list[str]:
    """A run that gets signals from a variable of the environment."""
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return [*RUN, "--algo", "signalled.Signalled"]


def assert_goes_on_with_one(arguments: list[str], out: Path, monkeypatch) -> None:
    (two,) = records.find_runs([out / "two"])
    monkeypatch.delenv("SIGNAL")
    code, _, errors = command("fit", "--resume", two, "--algo", "signalled.Signalled")
    assert code == 0, errors
    code, _, errors = command(*arguments, "--out", out / "one")
    assert code == 0, errors
    (one,) = records.find_runs([out / "one"])
    assert_same_run(one, two)


def test_interrupted_on_two_it_goes_on_with_one(signalled, tmp_path, monkeypatch):
    monkeypatch.setenv("SIGNAL", "01 SIGINT")
    together = start(tmp_path / "two", *signalled, *TWO)
    _, errors = together.communicate(timeout=120)
    assert together.returncode == 130, errors
    assert "stopped by SIGINT after step 10" in errors  # where all processes ask each other
    (two,) = records.find_runs([tmp_path / "two"])
    assert records.read_run(two).state == "interrupted"
    assert_goes_on_with_one(signalled, tmp_path, monkeypatch)


@pytest.mark.parametrize(("dies", "code"), [(0, -signal.SIGKILL), (1, 2)])
def test_where_one_of_two_dies_the_other_says_so_in_a_sentence(
    dies, code, signalled, tmp_path, monkeypatch
):
    monkeypatch.setenv("SIGNAL", f"{dies} SIGKILL")
    together = start(tmp_path / "two", *signalled, *TWO, "--check-every", "5")
    _, errors = together.communicate(timeout=120)
    assert together.returncode == code, errors
    assert "Traceback" not in errors
    (said,) = (line for line in errors.splitlines() if line.startswith("dgbench: "))
    (two,) = records.find_runs([tmp_path / "two"])
    assert "Another process that trained along has ended" in said
    assert f"`dgbench fit --resume {two}`" in said
    assert records.read_run(two).state == ("interrupted" if dies else "running")
    assert_goes_on_with_one([*signalled, "--check-every", "5"], tmp_path, monkeypatch)


def trainer_of(processes: int, **options: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", devices=processes, logger=False, enable_checkpointing=False, **options
    )


@pytest.mark.parametrize(("processes", "strategy"), [(1, "auto"), (2, "ddp")])
def test_accumulated_gradients_are_refused(processes, strategy):
    trainer = trainer_of(processes, strategy=strategy, accumulate_grad_batches=2)
    with pytest.raises(UsageError, match="accumulate_grad_batches is 2"):
        require_exact(trainer, make_algorithm("irm", make_data()))


def test_strategies_that_do_not_average_one_gradient_are_refused():
    class Sharded:
        """What FSDP and DeepSpeed are to DDP, neither of which can be built without a GPU."""

    trainer = SimpleNamespace(accumulate_grad_batches=1, world_size=2, strategy=Sharded())
    with pytest.raises(UsageError, match="Sharded would not take one device's steps"):
        require_exact(trainer, make_algorithm("irm", make_data()))  # type: ignore[arg-type]


def test_optimising_by_hand_is_refused_on_several_devices_alone():
    algorithm = make_algorithm("irm", make_data())
    algorithm.automatic_optimization = False
    require_exact(trainer_of(1), algorithm)
    with pytest.raises(UsageError, match="optimises by hand"):
        require_exact(trainer_of(2, strategy="ddp"), algorithm)


@pytest.mark.parametrize(
    ("module", "word"),
    [(nn.BatchNorm1d(3), "BatchNorm"), (nn.Dropout(0.1), "Dropout"), (nn.SyncBatchNorm(3), None)],
)
def test_what_cannot_be_exact_is_warned_of_by_name(module, word):
    algorithm = make_algorithm("erm", make_data())
    algorithm.network.extra = module
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        require_exact(trainer_of(2, strategy="ddp"), algorithm)
    messages = [
        str(warning.message) for warning in caught if "steps differ" in str(warning.message)
    ]
    assert [word in message for message in messages] == ([True] if word else [])
