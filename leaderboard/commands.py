"""The command that makes a run."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from leaderboard.frame import Record, Trial

_TRAINER = ("precision", "deterministic", "gradient_clip_val", "gradient_clip_algorithm")
_OWN = ("protocol", "steps", "check_every", "selection", "matmul_precision")


def fit_command(
    record: Record, test: Sequence[str], trial: Trial, draw: int | None = None
) -> str | None:
    """The command that makes a run of these settings on other test environments or in a trial.

    Args:
        record: A run with the settings.
        test: Names of the test environments.
        trial: The repetition.
        draw: The draw of hyper-parameters; that of the record if None.

    Returns:
        One line for a shell, with every setting spelt out but those that are drawn; None for what
        dgbench did not make, and where the record does not tell what to draw from.
    """
    draw = record.draw if draw is None else draw
    if record.origin != "dgbench" or (draw and not record.search):
        return None
    flags = [*_flags(record.settings_text, record.search)]
    flags += [f"--hparams-seed={draw}"] * bool(draw)
    flags += [f"--test-env={name}" for name in test]
    flags += [f"--trial-seed={trial.trial_seed}", f"--data-seed={trial.data_seed}"]
    return shlex.join(["dgbench", "fit", *flags])


@functools.lru_cache(maxsize=1_000)
def _flags(settings_text: str, search: str) -> tuple[str, ...]:
    """The flags of a run's settings, the same for all trials, test environments and draws."""
    settings: Mapping[str, Any] = json.loads(settings_text)
    drawn: Mapping[str, Any] = json.loads(search or "{}")
    flags = [
        f"--{group}.{key}={_text(value)}"
        for group in ("algo", "data", "network")
        for key, value in settings[group].items()
        if f"{group}.{key}" not in drawn.get("ranges", {})
    ]
    flags += [f"--search-space={drawn['space']}"] if drawn else []
    flags += [f"--{key.replace('_', '-')}={_text(settings[key])}" for key in _OWN]
    # Spelt out where the record leaves it out, too: its protocol may say otherwise.
    flags.append(f"--first-check={settings.get('first_check', settings['check_every'])}")
    flags += [f"--trainer.{key}={_text(settings[key])}" for key in _TRAINER if key in settings]
    return tuple(flags)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
