"""What a sweep leaves beside its records: its design, its search spaces and its runs by name.

It lies in ``<out>/sweeps/<name>.json``, so that anybody can see how far a sweep is without knowing
its command, and without importing torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dgbench import BENCHMARK_VERSION
from dgbench.errors import UsageError
from dgbench.sweep.design import Sweep
from leaderboard import records

if TYPE_CHECKING:
    from dgbench.sweep.plan import Plan, PlannedRun

_FOLDER = "sweeps"


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
    """
    content = json.loads((Path(out) / _FOLDER / f"{name}.json").read_bytes())
    return [
        Entry(
            **{
                **found,
                "folder": Path(out) / found["folder"],
                "test_env": tuple(found["test_env"]),
            }
        )
        for found in content["runs"]
    ]
