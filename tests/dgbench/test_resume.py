"""Killed anywhere, a run goes on to the same bits; what it needs on the disk is always whole."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from dgbench.cli import main
from leaderboard import records
from tests.dgbench.tiny import checks, command, fit
from tests.folders import make_tree

pytestmark = pytest.mark.distributed

NOISY = """
import torch
from torch.nn import functional as F
from dgbench.algorithms.irm import IRM

class Noisy(IRM):
    '''IRM behind dropout and noise, whose draws a resumed run must repeat.

    Args:
        **base: options of IRM.
    '''

    def objective(self, batch):
        noisy = F.dropout(batch.inputs + 0.1 * torch.randn_like(batch.inputs), 0.3)
        batch.inputs = noisy
        return super().objective(batch)
"""
RUN = (
    "fit", "--algo", "noisy_package.Noisy", "--test-env", "2", "--steps", "24",
    "--check-every", "6", "--data.batch_size", "32", "--data.draws", "200",
    "--data.holdout_draws", "50", "--network.width", "8", "--algo.anneal_steps", "9",
    "--selection", "train_val",
)  # fmt: skip

# Each replaces something of the recorder by itself and then, at the given call, by death.
MOMENTS = {
    "before the check is written": ("leaderboard.records", "append_check", 2, "before"),
    "between check and checkpoint": ("leaderboard.records", "append_check", 2, "after"),
    "while the checkpoint is half written": (
        "pytorch_lightning.Trainer",
        "save_checkpoint",
        4,
        "torn",
    ),
    "before the checkpoint takes its place": ("os", "replace", 12, "before"),
    "behind the last checkpoint": ("dgbench.recorder.Recorder", "close", 1, "before"),
    "before the last file": ("leaderboard.records", "write_done", 1, "before"),
    "in the middle of a step": ("dgbench.algorithms.irm.IRM", "objective", 15, "before"),
}
KILLER = """
import importlib, os, signal, sys
place, name, call, when = sys.argv[1:5]
module, _, owner = place.rpartition(".")
try:
    owner = importlib.import_module(place)
except ImportError:
    owner = getattr(importlib.import_module(module), owner)
original, calls = getattr(owner, name), 0

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == int(call) and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if calls == int(call) and when == "torn":
        path = arguments[1]
        os.truncate(path, os.path.getsize(path) // 2)
    if calls == int(call):
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, deadly)
from dgbench.cli import main
sys.exit(main(sys.argv[5:]))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    (folder / "noisy_package.py").write_text(NOISY)
    sys.path.append(str(folder))
    return folder


@pytest.fixture(scope="module")
def whole(package, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    code, _, errors = command(*RUN, "--out", out)
    assert code == 0, errors
    return records.find_runs([out])[0]


def assert_identical(first: Path, second: Path) -> None:
    one, two = (
        torch.load(f / "last.ckpt", weights_only=True)["state_dict"] for f in (first, second)
    )
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert checks(first) == checks(second)
    assert records.read_run(second, verify_checkpoints=True).state == "finished"


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_ends_in_the_same_bits(moment, package, whole, tmp_path):
    place, name, call, when = MOMENTS[moment]
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, place, name, str(call), when, *RUN, "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (folder,) = records.find_runs([tmp_path])
    assert not (folder / "done.json").exists()
    code, _, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert_identical(whole, folder)
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp")], "litter was left behind"


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed"])
def test_every_precision_resumes_in_the_same_bits(precision, package, tmp_path):
    flags = (*RUN, "--trainer.precision", precision, "--out")
    assert command(*flags, tmp_path / "whole")[0] == 0
    moment = ("leaderboard.records", "append_check", "3", "before")
    subprocess.run(
        [sys.executable, "-c", KILLER, *moment, *flags, str(tmp_path / "broken")],
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
    )
    (whole,), (broken,) = (records.find_runs([tmp_path / name]) for name in ("whole", "broken"))
    assert not (broken / "done.json").exists()
    code, _, errors = command("fit", "--resume", broken)
    assert code == 0, errors
    assert_identical(whole, broken)


def test_augmented_images_resume_in_the_same_bits(tmp_path):
    make_tree(tmp_path / "images", images=4)
    flags = (
        "fit", "--algo", "irm", "--dataset", "image_folder", "--test-env", "sea",
        "--data.root", str(tmp_path / "images"), "--data.cache", str(tmp_path / "cache"),
        "--data.image_size", "16", "--data.batch_size", "3", "--network.backbone", "small_cnn",
        "--network.width", "8", "--steps", "9", "--check-every", "3", "--out",
    )  # fmt: skip
    assert command(*flags, tmp_path / "whole")[0] == 0
    moment = ("dgbench.algorithms.irm.IRM", "objective", "5", "before")
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, *moment, *flags, str(tmp_path / "broken")],
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL
    (whole,), (broken,) = (records.find_runs([tmp_path / name]) for name in ("whole", "broken"))
    code, _, errors = command("fit", "--resume", broken)
    assert code == 0, errors
    assert_identical(whole, broken)


def test_a_full_disk_leaves_the_last_good_checkpoint(package, whole, tmp_path, monkeypatch):
    import pytorch_lightning as pl

    save, calls = pl.Trainer.save_checkpoint, 0

    def full(trainer, path, *arguments, **options):
        nonlocal calls
        calls += 1
        if calls < 4:
            return save(trainer, path, *arguments, **options)
        Path(path).write_bytes(b"half a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pl.Trainer, "save_checkpoint", full)
    code, _, errors = command(*RUN, "--out", tmp_path)
    assert code == 2
    assert "No space left on device" in errors
    assert "--resume last" in errors
    monkeypatch.setattr(pl.Trainer, "save_checkpoint", save)
    code, _, errors = command("fit", "--resume", "last", "--out", tmp_path)
    assert code == 0, errors
    assert_identical(whole, records.find_runs([tmp_path])[0])


def tear(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change(path: Path) -> None:
    """Changes a weight, as a bad disk would."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        weights = max(archive.infolist(), key=lambda entry: entry.file_size)
    content[weights.header_offset + 1000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        ({"last.ckpt": tear}, "last.ckpt is damaged: .* The run goes on from selected.ckpt"),
        ({"last.ckpt": change}, "last.ckpt is damaged: .* The run goes on from selected.ckpt"),
        ({"selected.ckpt": change}, "selected.ckpt is damaged: .* The run begins anew"),
        ({"last.ckpt": tear, "selected.ckpt": tear}, "last.ckpt is damaged.* The run begins anew"),
    ],
    ids=lambda value: " and ".join(value) if isinstance(value, dict) else "",
)
def test_a_damaged_checkpoint_is_not_gone_on_from(damaged, says, package, whole, tmp_path):
    folder = tmp_path.joinpath(*whole.parts[-3:])
    shutil.copytree(whole, folder)
    (folder / "done.json").unlink()
    kept = (folder / "run.json").read_bytes()
    for name, damage in damaged.items():
        damage(folder / name)
    code, shown, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert re.search(says, " ".join(shown.split()))
    assert_identical(whole, folder)
    assert ((folder / "run.json").read_bytes() == kept) == ("goes on" in says)


def test_a_damaged_last_checkpoint_of_the_last_step_is_replaced(tmp_path):
    """The chosen check may be the last one: no step is left that would write another."""
    folder = fit(tmp_path / "runs", "--selection", "train_val", "--check-every", "1")
    content = torch.load(folder / "last.ckpt", weights_only=True)
    torch.save(content, folder / "selected.ckpt")
    before = checks(folder)
    (folder / "done.json").unlink()
    tear(folder / "last.ckpt")
    code, shown, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert "goes on from selected.ckpt" in shown
    assert checks(folder) == before
    assert records.read_run(folder, verify_checkpoints=True).state == "finished"


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_run_that_has_lost_checks_does_not_end_as_if_it_had_none(kept, tmp_path):
    folder = fit(tmp_path / "runs", "--check-every", "1")
    (folder / "done.json").unlink()
    lines = (folder / "checks.jsonl").read_text().splitlines(keepends=True)
    (folder / "checks.jsonl").write_text("".join(lines[:kept]))
    code, _, errors = command("fit", "--resume", folder)
    assert code == 2
    assert f"lacks the check of step {kept + 1}" in errors
    assert "--force" in errors


def test_a_checkpoint_that_torch_alone_cannot_open_is_damaged(tmp_path):
    """Python's reader of archives passes over much in their list of contents."""
    folder = fit(tmp_path / "runs", "--check-every", "1")
    before = checks(folder)
    (folder / "done.json").unlink()
    content = bytearray((folder / "last.ckpt").read_bytes())
    content[-1490] ^= 1
    (folder / "last.ckpt").write_bytes(content)
    with zipfile.ZipFile(folder / "last.ckpt") as archive:
        assert archive.testzip() is None
    code, shown, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert "The run begins anew" in " ".join(shown.split())
    assert checks(folder) == before


def test_a_damaged_checkpoint_of_a_finished_run_does_not_grow(package, whole, tmp_path):
    folder = tmp_path.joinpath(*whole.parts[-3:])
    shutil.copytree(whole, folder)
    change(folder / "last.ckpt")
    code, _, errors = command("fit", "--resume", folder, "--steps", "30")
    assert code == 2
    assert "last.ckpt is damaged: its record has another sha256" in errors
    assert records.find_runs([tmp_path]) == [folder]


def test_a_longer_run_is_begun_whole_or_not_at_all(package, whole, tmp_path, monkeypatch):
    folder = tmp_path.joinpath(*whole.parts[-3:])
    shutil.copytree(whole, folder)
    copy, copies = records.copy, []

    def killed(source: Path, path: Path) -> None:
        copies.append(path.name)
        if len(copies) == 2:
            path.with_name(f".{path.name}.tmp").write_bytes(b"half of it")
            raise KeyboardInterrupt
        copy(source, path)

    monkeypatch.setattr(records, "copy", killed)
    grow = ("fit", "--resume", folder, "--steps", "30")
    assert command(*grow)[0] == 130
    assert copies == ["selected.ckpt", "last.ckpt"]
    monkeypatch.setattr(records, "copy", copy)
    code, _, errors = command(*grow)
    assert code == 0, errors
    (grown,) = (found for found in records.find_runs([tmp_path]) if found != folder)
    assert [check["step"] for check in records.read_run(grown).checks] == [6, 12, 18, 24, 30]
    assert not list(grown.glob(".*"))
    kept, first = (records.read_run(each).checks[2] for each in (grown, folder))
    assert kept == first  # to the seconds: it went on from there


def test_a_check_that_two_processes_wrote_is_repaired(package, whole, tmp_path):
    folder = tmp_path.joinpath(*whole.parts[-3:])
    shutil.copytree(whole, folder)
    (folder / "done.json").unlink()
    lines = (folder / "checks.jsonl").read_text().splitlines(keepends=True)
    (folder / "checks.jsonl").write_text("".join([*lines, lines[-1]]))
    code, _, errors = command("fit", "--resume", folder)
    assert code == 0, errors
    assert_identical(whole, folder)


@pytest.mark.parametrize("resume", [True, False])
def test_what_a_kill_left_half_written_goes(resume, package, whole, tmp_path):
    folder = tmp_path.joinpath(*whole.parts[-3:])
    shutil.copytree(whole, folder)
    (folder / "done.json").unlink()
    litter = (".last.ckpt.tmp", ".checks.jsonl.0123.tmp", ".predictions.npz.tmp", ".now-x.tmp")
    for name in litter:
        (folder / name).write_bytes(b"half")
    again = ("fit", "--resume", folder) if resume else (*RUN, "--force", "--out", tmp_path)
    code, _, errors = command(*again)
    assert code == 0, errors
    assert not list(folder.glob(".*"))


def test_the_steps_of_a_resumed_run_may_grow(package, whole, tmp_path):
    shorter = [*RUN, "--steps", "12", "--out", str(tmp_path)]
    code, _, errors = command(*shorter)
    assert code == 0, errors
    (short,) = records.find_runs([tmp_path])
    code, _, errors = command("fit", "--resume", short, "--steps", "24")
    assert code == 0, errors
    (grown,) = (folder for folder in records.find_runs([tmp_path]) if folder != short)
    assert grown.name == whole.name
    assert_identical(whole, grown)
    assert records.read_run(short).state == "finished"


def test_a_run_does_not_grow_where_the_weights_of_its_choice_are_gone(tmp_path):
    """Its last check is none of the longer run's, whose best so far it replaced on the disk."""
    options = ("--selection", "train_val", "--steps", "5", "--check-every", "4")
    for seed in range(20):
        short = fit(tmp_path, *options, "--trial-seed", seed)
        done = records.read_run(short).done
        assert done is not None
        code, _, errors = command("fit", "--resume", short, "--steps", "6")
        assert code == (2 if done["selected"]["train_val"] == 5 else 0), errors
        if code == 2:
            assert "chose its last check, at step 5, which a longer run does not have" in errors
            return
    raise AssertionError("no run chose its last check")


@pytest.mark.parametrize("change", ["--steps 12", "--algo.penalty_weight 3", "--trial-seed 4"])
def test_nothing_else_may_change(change, package, whole):
    code, _, errors = command("fit", "--resume", whole, *change.split())
    assert code == 2
    assert "only --steps may grow" in errors
    assert change.split()[0].removeprefix("--").partition(".")[0].replace("-", "_") in errors


def test_loggers_may_change_on_resume(package, whole, tmp_path):
    assert main([*RUN, "--out", str(tmp_path), "--logger", "csv"]) == 0
    (folder,) = records.find_runs([tmp_path])
    (folder / "done.json").unlink()
    code, _, errors = command("fit", "--resume", folder, "--logger", "tensorboard")
    assert code == 0, errors
    assert_identical(whole, folder)
