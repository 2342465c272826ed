"""The record of one run while it is being written, by whichever loop trains it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.precision import Precision
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.environments import Split
from dgbench.collectives import rank
from dgbench.errors import UsageError
from dgbench.evaluation import Keep, all_splits, evaluate, splits_for_selection
from dgbench.networks import Network
from leaderboard import records
from leaderboard.predictions import Predictions, PredictionsWriter
from leaderboard.schedule import check_steps
from leaderboard.selection import diverged, selected_steps


class Record:
    """A run's folder, what belongs into it at which step, and when it is closed.

    Attributes:
        folder: the run's folder.
        run: content of ``run.json``.
        data: what is measured on.
        description: plain values that a checkpoint carries, to be of use on its own.
        check_steps: the steps behind which the run is measured.
    """

    def __init__(
        self,
        folder: Path,
        run: records.RunJson,
        data: EnvironmentDataModule,
        description: dict[str, Any],
        *,
        check_all: bool = False,
        save_predictions: bool = False,
    ) -> None:
        """Prepares to record into a folder.

        Args:
            folder: the run's folder; it exists when the record is opened.
            run: content of ``run.json``.
            data: what is measured on.
            description: plain values that a checkpoint carries.
            check_all: measure every split of every environment at every check.
            save_predictions: keep the logits of the last and of the selected check.
        """
        self.folder = folder
        self.run = run
        self.data = data
        self.description = description
        self.check_all = check_all
        self.save_predictions = save_predictions
        settings = run["settings"]
        self.check_steps = check_steps(
            settings["steps"], settings["check_every"], settings.get("first_check")
        )

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

        Raises:
            UsageError: when checks before that step are gone, which no training brings back.
        """
        if not (self.folder / records.RUN_FILE).exists():
            records.write_json_atomic(self.folder / records.RUN_FILE, self.run)
        path = self.folder / records.CHECKS_FILE
        path.touch()
        records.truncate_checks(path, step)
        there = {check["step"] for check in records.read_checks(path)}
        lacking = sorted(due for due in self.check_steps if due <= step and due not in there)
        if lacking:
            raise UsageError(
                f"{path} lacks the check of step {lacking[0]}, and the run's checkpoint is of step "
                f"{step}. Restore the file, or start anew with --force."
            )

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

    def has_diverged(self, check: records.CheckLine) -> bool:
        """Whether the run ends at this check because its training has broken down."""
        return diverged(check, self.roles[0])

    def complete(
        self,
        checks: Sequence[records.CheckLine],
        network: Network,
        device: torch.device,
        precision: Precision,
    ) -> None:
        """Measures what the check lacks that the run's rule chose, and saves predictions.

        They are of the checks whose weights are kept: the last one and the chosen one.

        Args:
            checks: all checks of the run; the chosen one is completed in place.
            network: with the weights of the last one.
            device: where it is.
            precision: Lightning's precision plugin of the run.
        """
        chosen = selected_steps(checks, *self.roles).get(self.settings["selection"])
        with contextlib.ExitStack() as stack:
            writer: PredictionsWriter | None = None
            if self.save_predictions and rank() == 0:
                path = self.folder / records.PREDICTIONS_FILE
                writer = stack.enter_context(PredictionsWriter(path))
            for check in checks:
                last = check is checks[-1]
                if not last and check["step"] != chosen:
                    continue
                splits = self._to_measure(check)
                if splits:
                    measured = evaluate(
                        network if last else self.selected_network(network),
                        self.data,
                        splits,
                        device,
                        precision,
                        _saving(writer, check["step"]) if self.save_predictions else None,
                    )
                    check["splits"] = {**measured, **check["splits"]}

    def _to_measure(self, check: records.CheckLine) -> list[tuple[int, Split]]:
        """The splits that a check at the end of the run lacks, or all to save their predictions."""
        names = self.data.environment_names
        return [
            (index, split)
            for index, split in all_splits(self.data)
            if self.save_predictions or f"{names[index]}/{split}" not in check["splits"]
        ]

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
            status="diverged" if self.has_diverged(checks[-1]) else "finished",
            last_step=last_step,
            selected=selected_steps(checks, *self.roles),
            seconds=seconds,
            weights={
                name: _weights_sha256(self.folder / name)
                for name in (records.LAST_CHECKPOINT, records.SELECTED_CHECKPOINT)
                if (self.folder / name).exists()
            },
        )


def _saving(writer: PredictionsWriter | None, step: int) -> Keep:
    """What evaluation gives predictions to; every process takes part in gathering them."""

    def keep(split: str, logits: Tensor, targets: Tensor, indices: Tensor) -> None:
        assert writer is not None
        # Exact: half precisions are floats of fewer digits, and float64 stays what it is.
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        writer.add(Predictions(split, step, *(t.cpu().numpy() for t in (exact, targets, indices))))

    return keep


def _weights_sha256(checkpoint: Path) -> str:
    """Hash of a checkpoint's tensors alone: its file says when and where, too."""
    state: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)[
        "state_dict"
    ]
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
