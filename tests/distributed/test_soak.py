"""A run killed and resumed twenty times at random moments ends like one left alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time

import pytest

from leaderboard import records
from tests.dgbench.test_resume import RUN, assert_identical, package
from tests.dgbench.tiny import command

pytestmark = pytest.mark.soak
__all__ = ["package"]


def test_killed_twenty_times_at_random_it_ends_in_the_same_bits(package, tmp_path):
    long = [*RUN, "--steps", "12000", "--check-every", "50"]
    code, _, errors = command(*long, "--out", tmp_path / "whole")
    assert code == 0, errors
    draw = random.Random(0)
    call = [sys.executable, "-m", "dgbench"]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    arguments = [*long, "--out", str(tmp_path / "broken")]
    killed = 0
    while killed < 20:
        process = subprocess.Popen([*call, *arguments], env=environment)
        time.sleep(6 + draw.random() * 3)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        killed += 1
        broken = records.find_runs([tmp_path / "broken"])
        if broken:
            arguments = ["fit", "--resume", str(broken[0])]
    assert killed == 20, "the run was too short to be killed as often"
    code, _, errors = command(*arguments)
    assert code == 0, errors
    (whole,) = records.find_runs([tmp_path / "whole"])
    assert_identical(whole, records.find_runs([tmp_path / "broken"])[0])
