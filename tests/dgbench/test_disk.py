"""A disk that is full is named, and what was written before is whole."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from dgbench.disk import complaint
from leaderboard import records
from tests.dgbench.tiny import TINY, command, fit


def fill(disk: Path, room: int = 0) -> Path:
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - room)))
    return filler


def test_a_full_disk_of_records_is_named_with_the_command_that_goes_on(small_disk):
    run = ("fit", "--algo", "erm", "--test-env", 2, *TINY, "--out", small_disk)
    said: list[str] = []
    for room in range(0, 400_000, 32_768):
        filler = fill(small_disk, room)
        code, _, errors = command(*run, *(["--resume", "auto"] if said else []))
        filler.unlink()
        if code == 0:
            break
        assert code == 2
        said.append(errors)
    assert len(said) > 2
    assert all("No space left on device" in each for each in said)
    assert all(f"--out {small_disk}" in each or "with --out." in each for each in said)
    assert f"go on with `dgbench fit --resume last --out {small_disk}`" in said[-1]
    (folder,) = records.find_runs([small_disk])
    assert records.read_run(folder, verify_checkpoints=True).state == "finished"


def test_a_run_needs_no_room_for_temporary_files(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    fill(small_disk)
    fit(tmp_path / "runs")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_it_is_said_which_folder_is_full(number, tmp_path, monkeypatch):
    temporary, out = tmp_path / "temporary", str(tmp_path / "temporary" / "runs")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def said(path: Path | None) -> str:
        return complaint(OSError(number, os.strerror(number), path and str(path)), out)

    assert said(temporary / "x").startswith(f"TMPDIR, {temporary}, is full (")
    assert said(Path(out) / "x").startswith(f"--out {out} is full (")
    assert said(tmp_path / "x").startswith(f"--out {out} is full (")


def test_where_an_error_does_not_say_which_folder_the_disks_do(small_disk, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    fill(small_disk)
    assert complaint(error, str(tmp_path)).startswith(f"TMPDIR, {small_disk}, is full")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert complaint(error, str(small_disk)).startswith(f"--out {small_disk} is full")


def test_what_is_no_matter_of_room_is_said_as_it_is():
    error = OSError(errno.EIO, os.strerror(errno.EIO), "/x")
    assert complaint(error, "runs") == str(error)
