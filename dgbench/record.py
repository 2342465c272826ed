"""The record of one run while it is being written, by whichever loop trains it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.environments import Split
from dgbench.evaluation import all_splits, splits_for_selection
from dgbench.networks import Network
from leaderboard import records
from leaderboard.selection import selected_steps


class Record:
    """A run's folder, what belongs into it at which step, and when it is closed.

    Attributes:
        folder: the run's folder.
        run: content of ``run.json``.
        data: what is measured on.
        description: plain values that a checkpoint carries, to be of use on its own.
    """

    def __init__(
        self,
        folder: Path,
        run: records.RunJson,
        data: EnvironmentDataModule,
        description: dict[str, Any],
        *,
        check_all: bool = False,
    ) -> None:
        """Prepares to record into a folder.

        Args:
            folder: the run's folder; it exists when the record is opened.
            run: content of ``run.json``.
            data: what is measured on.
            description: plain values that a checkpoint carries.
            check_all: measure every split of every environment at every check.
        """
        self.folder = folder
        self.run = run
        self.data = data
        self.description = description
        self.check_all = check_all

    @property
    def settings(self) -> records.Settings:
        """All that decides the run's numbers."""
        return self.run["settings"]

    @property
    def roles(self) -> tuple[list[str], list[str]]:
        """Names of the training environments and of those held out."""
        return self.settings["train_env"], self.settings["test_env"]

    def open(self, step: int) -> None:
        """Begins the record, or reopens it at a checkpoint's step and drops what follows it.

        Args:
            step: optimiser steps taken.
        """
        if not (self.folder / records.RUN_FILE).exists():
            records.write_json_atomic(self.folder / records.RUN_FILE, self.run)
        (self.folder / records.CHECKS_FILE).touch()
        records.truncate_checks(self.folder / records.CHECKS_FILE, step)

    def is_check(self, step: int) -> bool:
        """Whether the run is measured after this step."""
        return step % self.settings["check_every"] == 0 or step == self.settings["steps"]

    def splits_at(self, step: int) -> list[tuple[int, Split]]:
        """What a check measures: all at the last one, before it what selection rules read."""
        last = step == self.settings["steps"]
        return (all_splits if last or self.check_all else splits_for_selection)(self.data)

    def names_of(self, outputs: Mapping[str, Tensor]) -> list[str]:
        """Names of all numbers that an objective returned, in order.

        Args:
            outputs: the objective's values.
        """
        names: list[str] = []
        for name, value in outputs.items():
            if name == "risks":
                names += [f"risk/{environment}" for environment in self.roles[0]]
            elif value.numel() == 1:
                names.append(name)
            else:
                names += [f"{name}/{position}" for position in range(value.numel())]
        return names

    def add(self, line: records.CheckLine) -> None:
        """Appends a check."""
        records.append_check(self.folder / records.CHECKS_FILE, line)

    def checks(self) -> list[records.CheckLine]:
        """The checks so far."""
        return records.read_checks(self.folder / records.CHECKS_FILE)

    @property
    def keeps_selected(self) -> bool:
        """Whether the run's rule may choose a check before the last, whose weights must be kept."""
        return self.settings["selection"] == "train_val"

    def is_selected(self, checks: Sequence[records.CheckLine]) -> bool:
        """Whether the newest of the checks so far is the one that ``train_val`` would choose."""
        return selected_steps(checks, *self.roles)["train_val"] == checks[-1]["step"]

    def unmeasured(
        self, checks: Sequence[records.CheckLine]
    ) -> tuple[records.CheckLine, list[tuple[int, Split]]] | None:
        """The check that the run's rule chose and the splits that it lacks, None if it lacks none.

        Args:
            checks: all checks of the run.
        """
        chosen = selected_steps(checks, *self.roles).get(self.settings["selection"])
        names = self.data.environment_names
        for check in checks:
            if check["step"] == chosen:
                missing = [
                    (index, split)
                    for index, split in all_splits(self.data)
                    if f"{names[index]}/{split}" not in check["splits"]
                ]
                return (check, missing) if missing else None
        return None

    def selected_network(self, like: Network) -> Network:
        """The network of ``selected.ckpt``.

        Args:
            like: one of the same architecture, which stays as it is.
        """
        network = copy.deepcopy(like)
        state = torch.load(self.folder / records.SELECTED_CHECKPOINT, weights_only=True)
        own = {name: state["state_dict"][f"network.{name}"] for name in network.state_dict()}
        network.load_state_dict(own)
        return network

    def write_status(self, status: str, step: int, error: str | None = None) -> None:
        """Leaves a sign of life.

        Args:
            status: ``running``, ``interrupted``, ``failed`` or ``finished``.
            step: optimiser steps taken.
            error: what went wrong, if something did.
        """
        content = {"status": status, "step": step, "error": error}
        records.write_json_atomic(self.folder / records.STATUS_FILE, content)

    def close(self, checks: Sequence[records.CheckLine], last_step: int, seconds: float) -> None:
        """Writes the final checks, and last of all what makes the record finished.

        Args:
            checks: all checks of the run.
            last_step: optimiser steps taken.
            seconds: wall time of the whole run.
        """
        records.rewrite_checks(self.folder / records.CHECKS_FILE, checks)
        self.write_status("finished", last_step)
        records.write_done(
            self.folder,
            status="diverged" if "diverged" in checks[-1] else "finished",
            last_step=last_step,
            selected=selected_steps(checks, *self.roles),
            seconds=seconds,
        )
