"""A run killed and resumed twenty times at random moments ends like one left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from leaderboard import records
from tests.dgbench.test_resume import NOISY, RUN, assert_identical

pytestmark = pytest.mark.soak
KILLS = 20


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "dgbench", *arguments], env=environment)


def lines(out: Path) -> int:
    return sum(len(path.read_bytes().splitlines()) for path in out.rglob("checks.jsonl"))


def test_killed_twenty_times_at_random_it_ends_in_the_same_bits(tmp_path):
    (tmp_path / "noisy_package.py").write_text(NOISY)
    long = [*RUN, "--steps", "6000", "--check-every", "20"]
    assert start(tmp_path, *long, "--out", str(tmp_path / "whole")).wait() == 0
    draw = random.Random(0)
    arguments = [*long, "--out", str(tmp_path / "broken")]
    for _ in range(KILLS):
        before = lines(tmp_path / "broken")
        process = start(tmp_path, *arguments)
        while lines(tmp_path / "broken") <= before:
            assert process.poll() is None, "the run ended before it could be killed often enough"
            time.sleep(0.01)
        time.sleep(draw.random() / 2)
        process.kill()
        process.wait()
        (broken,) = records.find_runs([tmp_path / "broken"])
        arguments = ["fit", "--resume", str(broken), "--algo", "noisy_package.Noisy"]
    assert not (broken / "done.json").exists()
    assert start(tmp_path, *arguments).wait() == 0
    (whole,) = records.find_runs([tmp_path / "whole"])
    assert_identical(whole, broken)
