"""The smallest run that is a run: seconds, on the real digits."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from dgbench.cli import main

DATA = ("--data.draws", "200", "--data.holdout_draws", "50")
TINY = ("--steps", "4", "--check-every", "2", "--network.width", "8", *DATA)


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def fit(out: Path, *arguments: object, algo: str = "erm", test_env: object = 2) -> Path:
    """Trains a tiny run that must succeed, and returns its folder."""
    code, shown, errors = command(
        "fit", "--algo", algo, "--test-env", test_env, *TINY, "--out", out, *arguments
    )
    assert code == 0, errors
    (record,) = [line for line in shown.splitlines() if line.startswith("Record: ")]
    return Path(record.removeprefix("Record: "))


def checks(folder: Path) -> list[dict]:
    """The checks of a run without the time they took."""
    lines = [json.loads(line) for line in (folder / "checks.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
