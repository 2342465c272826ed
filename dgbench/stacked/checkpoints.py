"""One Lightning run, K ordinary checkpoints: each as the run alone would have written it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from dgbench.intact import damage
from dgbench.resuming import intact_checkpoint
from leaderboard import records

# Where a stacked module keeps its algorithm, and what Lightning calls the two recorders.
_PREFIX = "_step.algorithm."
_STACKED, _ALONE = "StackedRecorder", "Recorder"
# The checkpoint that is to replace `last.ckpt`.
WAITING = f".{records.LAST_CHECKPOINT}.tmp"


@dataclass(frozen=True)
class Part:
    """What a run's checkpoint has that the stack's does not know.

    Attributes:
        folder: the run's folder.
        description: plain values that its checkpoints carry.
        param_groups: of the optimiser that it would have alone.
    """

    folder: Path
    description: dict[str, Any]
    param_groups: list[dict[str, Any]]

    @property
    def waiting(self) -> Path:
        """The checkpoint that is to replace ``last.ckpt``."""
        return self.folder / WAITING

    def put(self) -> None:
        """Lets it take its place."""
        records.replace(self.waiting, self.folder / records.LAST_CHECKPOINT)


class PartedCheckpoints(CheckpointIO):
    """Writes a stack's checkpoint as those of its runs, and reads it from theirs.

    All parts are on the disk before the first one takes its place, so that a kill at any moment
    leaves a whole generation: :func:`complete` finishes one that was interrupted in between.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        """Knows where the parts belong.

        Args:
            parts: of the runs, in the order in which they are stacked.
        """
        self.parts = parts

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Writes the parts beside those that they will replace.

        Args:
            checkpoint: the stack's.
            path: nothing; each part has its own.
            storage_options: nothing.
        """
        for position, part in enumerate(self.parts):
            if not (part.folder / records.DONE_FILE).exists():
                # By a file of Python's, which tells when the disk is full; torch's own does not.
                with open(part.waiting, "wb") as file:
                    torch.save(split(checkpoint, position, part), file)
                    file.flush()
                    os.fsync(file.fileno())

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Reads the runs' ``last.ckpt`` as one.

        Args:
            path: nothing; each part has its own.
            map_location: where to put tensors.
            weights_only: executing nothing that they contain.
        """
        paths = [part.folder / records.LAST_CHECKPOINT for part in self.parts]
        return merge([torch.load(p, map_location=map_location, weights_only=True) for p in paths])

    def remove_checkpoint(self, path: Any) -> None:
        """Nothing removes a record's checkpoint."""
        raise NotImplementedError


def split(checkpoint: Mapping[str, Any], position: int, part: Part) -> dict[str, Any]:
    """A run's checkpoint out of a stack's.

    Args:
        checkpoint: the stack's.
        position: the run's place in it.
        part: what only the run knows.
    """
    (optimizer,) = checkpoint["optimizer_states"]
    recorder = checkpoint["callbacks"][_STACKED]
    return {
        **checkpoint,
        "state_dict": {
            # A copy: saving a view saves all that it looks at.
            name.removeprefix(_PREFIX): value[position].clone()
            for name, value in checkpoint["state_dict"].items()
        },
        "optimizer_states": [
            {
                "state": {
                    index: {name: value[position].clone() for name, value in state.items()}
                    for index, state in optimizer["state"].items()
                },
                "param_groups": part.param_groups,
            }
        ],
        "callbacks": {_ALONE: {**recorder, "sums": recorder["sums"][position]}},
        "dgbench": part.description,
    }


def merge(checkpoints: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A stack's checkpoint out of its runs', all of one step: the inverse of :func:`split`.

    Args:
        checkpoints: the runs', in order.
    """
    first = checkpoints[0]
    optimizers = [checkpoint["optimizer_states"][0]["state"] for checkpoint in checkpoints]
    recorders = [checkpoint["callbacks"][_ALONE] for checkpoint in checkpoints]
    return {
        **first,
        "state_dict": {
            _PREFIX + name: torch.stack([each["state_dict"][name] for each in checkpoints])
            for name in first["state_dict"]
        },
        "optimizer_states": [
            {
                "state": {
                    index: {
                        name: torch.stack([each[index][name] for each in optimizers])
                        for name in state
                    }
                    for index, state in optimizers[0].items()
                },
                "param_groups": [{"params": list(optimizers[0])}],
            }
        ],
        "callbacks": {
            _STACKED: {**recorders[0], "sums": [recorder["sums"] for recorder in recorders]}
        },
    }


def step_of(path: Path) -> int:
    """Optimiser steps that a checkpoint has seen, 0 where there is none that can be read."""
    try:
        return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    except Exception:
        # torch.load raises whatever the damage leads to, and FileNotFoundError.
        return 0


def complete(folders: Sequence[Path]) -> list[int]:
    """Finishes a generation of checkpoints that a kill left half in place, without damaged ones.

    Args:
        folders: of the runs of one stack.

    Returns:
        The steps of their checkpoints, 0 where there is none.
    """
    for folder in folders:
        _repair(folder)
    steps = [step_of(folder / records.LAST_CHECKPOINT) for folder in folders]
    for position, folder in enumerate(folders):
        waiting = folder / WAITING
        if steps[position] < max(steps) == step_of(waiting) and not damage(waiting):
            records.replace(waiting, folder / records.LAST_CHECKPOINT)
            steps[position] = max(steps)
    return steps


def _repair(folder: Path) -> None:
    """Puts what a run can go on from in the place of a damaged ``last.ckpt``, or nothing."""
    last = folder / records.LAST_CHECKPOINT
    chosen = intact_checkpoint(folder, lambda sentence: None)
    if chosen is None:
        last.unlink(missing_ok=True)
    elif chosen != last:
        records.copy(chosen, last)
