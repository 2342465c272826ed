"""What a sweep leaves beside its records: its design, its search spaces and its runs by name.

It lies in ``<out>/sweeps/<name>.json``, so that anybody can see how far a sweep is without knowing
its command, and without importing torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench import BENCHMARK_VERSION
from dgbench.errors import UsageError
from dgbench.sweep.design import Sweep
from leaderboard import records
from leaderboard.reading import parse_json, read_bytes

if TYPE_CHECKING:
    from dgbench.sweep.plan import Plan, PlannedRun

_FOLDER = "sweeps"
_LARGEST = 2**28  # bytes


@dataclass(frozen=True)
class Entry:
    """A run as the manifest knows it.

    Attributes:
        folder: of its record.
        dataset: name of the data set.
        algo: name of the algorithm.
        test_env: names of the environments held out.
        trial: its trial.
        hparams_seed: its draw.
        steps: its budget.
    """

    folder: Path
    dataset: str
    algo: str
    test_env: tuple[str, ...]
    trial: int
    hparams_seed: int
    steps: int


def entry(run: PlannedRun) -> Entry:
    """A planned run as the manifest knows it.

    Args:
        run: the run.
    """
    settings = run.settings
    return Entry(
        folder=run.folder,
        dataset=settings.data["name"],
        algo=settings.algo["name"],
        test_env=tuple(map(str, settings.test_env)),
        trial=settings.trial_seed,
        hparams_seed=settings.hparams_seed,
        steps=settings.steps,
    )


def name_of(sweep: Sweep, file: str | None) -> str:
    """What a sweep is called: as its file is, and by a hash of what it says.

    Args:
        sweep: the sweep.
        file: the file or name it was given by, if any.
    """
    digest = hashlib.sha256(records.canonical_json(sweep.plain()).encode()).hexdigest()[:8]
    return f"{records.folder_name(Path(file).stem)}-{digest}" if file else digest


def logs(out: str, name: str) -> Path:
    """The folder for what a sweep's workers print, made if need be.

    Args:
        out: folder of the records.
        name: of the sweep.
    """
    folder = Path(out) / _FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(out: str, name: str, sweep: Sweep, plan: Plan) -> None:
    """Writes the manifest.

    Args:
        out: folder of the records.
        name: of the sweep.
        sweep: its design.
        plan: its runs.

    Raises:
        UsageError: when it cannot be written.
    """
    spaces: dict[str, Any] = {}
    for run in plan.runs:
        key = f"{run.settings.algo['name']} on {run.settings.data['name']}"
        if key not in spaces:
            spaces[key] = run.settings.search.plain()
    content = {
        "benchmark_version": BENCHMARK_VERSION,
        "sweep": sweep.plain(),
        "search_spaces": spaces,
        "runs": [
            {**vars(found), "folder": os.path.relpath(found.folder, out)}
            for found in map(entry, plan.runs)
        ],
        "to_come": plan.to_come,
    }
    path = Path(out) / _FOLDER / f"{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        records.write_json_atomic(path, content)
    except OSError as error:
        raise UsageError(
            f"--out: {path} cannot be written ({error.strerror}). Name a folder that can."
        ) from error


def names(out: str) -> list[str]:
    """Names of the sweeps that leave their records in a folder.

    Args:
        out: the folder.
    """
    return sorted(path.stem for path in (Path(out) / _FOLDER).glob("*.json"))


def read(out: str, name: str) -> Sequence[Entry]:
    """The runs of a sweep.

    Args:
        out: folder of the records.
        name: of the sweep.

    Raises:
        UsageError: when the list of its runs is damaged.
    """
    path = Path(out) / _FOLDER / f"{name}.json"
    try:
        content = parse_json(read_bytes(path, _LARGEST) or b"")
        return [_entry(Path(out), found) for found in content["runs"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be read as the list of a sweep's runs ({error}). Take it away: the "
            "command of the sweep writes it anew."
        ) from error


def _entry(out: Path, found: Mapping[str, Any]) -> Entry:
    texts = (found["dataset"], found["algo"], found["folder"], *found["test_env"])
    numbers = (found["trial"], found["hparams_seed"], found["steps"])
    if not all(isinstance(text, str) and text.isprintable() for text in texts):
        raise TypeError("a name is no text of one line")
    if not all(isinstance(number, int) for number in numbers):
        raise TypeError("a trial, a draw or a number of steps is none")
    folder, test_env = out / found["folder"], tuple(found["test_env"])
    return Entry(**{**found, "folder": folder, "test_env": test_env})
