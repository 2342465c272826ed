"""Trains several runs as one and leaves the record of each, as :mod:`dgbench.training` does one."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from datamodules.base import EnvironmentDataModule
from datamodules.stacked_streams import StackedRun, StackedStream
from dgbench.algorithms.base import Algorithm
from dgbench.claim_guard import ClaimGuard
from dgbench.claims import Claim, ClaimedError, claimed
from dgbench.errors import UsageError
from dgbench.provenance import hardware
from dgbench.record import Record
from dgbench.runtime import matmul_precision, quiet_lightning
from dgbench.settings import Settings
from dgbench.signals import signals_asking
from dgbench.source import require_planned
from dgbench.stacked.checkpoints import Part, PartedCheckpoints, complete
from dgbench.stacked.model import StackedAlgorithm
from dgbench.stacked.plan import why_not
from dgbench.stacked.recorder import StackedRecorder
from dgbench.training import (
    build_algorithm,
    build_data,
    build_trainer,
    deciding_settings,
    folder_of,
    new_record,
    prepare,
    require_same_data,
)
from leaderboard import records


@dataclass(frozen=True)
class _Trial:
    """One of the runs: its own data module decides batches, the loaded one holds the data."""

    settings: Settings
    own: EnvironmentDataModule
    loaded: EnvironmentDataModule
    folder: Path

    @property
    def finished(self) -> bool:
        return records.is_finished(self.folder) and not self.settings.force


def run_stacked(runs: Sequence[Settings]) -> list[records.Run]:
    """Trains runs as one model and records each as if it had been alone.

    A record says with how many it was stacked and has the ``run_id`` and the numbers of a separate
    run, up to rounding: 1e-9 in the weights in float64. Draws inside a network, such as dropout's,
    are of the same law but not the same. Runs that were interrupted go on where they were, to the
    same bits if the same ones are stacked again; finished ones are left as they are.

    Args:
        runs: resolved runs that differ in seeds and in options that are numbers, see
            :func:`dgbench.stacked.plan.why_not`; on one device.

    Returns:
        The finished records, in order.

    Raises:
        UsageError: when they cannot be stacked, for a reason that is named, one is finished on
            other data, or code is not what they were planned with.
        ClaimedError: when another process trains one of them, after the others are finished.
        Interrupted: when a signal stopped them; the same call goes on from there.
    """
    reason = why_not(runs)
    if reason is not None:
        raise UsageError(f"These runs cannot be stacked: {reason}.")
    for settings in runs:
        require_planned(settings.names, settings.source)
    trials = _trials(runs)
    for trial in trials:
        if trial.finished:
            require_same_data(records.read_run(trial.folder), trial.settings, trial.own)
    with contextlib.ExitStack() as held:
        waiting, claims, elsewhere = _claim([t for t in trials if not t.finished], held)
        fresh = runs[0].force
        steps = [0] * len(waiting) if fresh else complete([trial.folder for trial in waiting])
        for step in sorted(set(steps)):
            stacked = [t for t, reached in zip(waiting, steps, strict=True) if reached == step]
            with matmul_precision(runs[0].matmul_precision), quiet_lightning():
                _train(stacked, claims, resume=step > 0)
    if elsewhere is not None:
        raise elsewhere
    return [records.read_run(trial.folder) for trial in trials]


def _claim(
    trials: Sequence[_Trial], held: contextlib.ExitStack
) -> tuple[list[_Trial], list[Claim], ClaimedError | None]:
    """The runs that are this process's to train, its claims, and who trains another one."""
    mine, claims, elsewhere = [], [], None
    for trial in trials:
        try:
            claim = held.enter_context(claimed(trial.folder))
        except ClaimedError as error:
            elsewhere = error
            continue
        if claim is not None:
            claims.append(claim)
            trial = replace(trial, folder=claim.folder)
        # Another process may have finished it before this one could claim it.
        if not trial.finished:
            mine.append(trial)
    return mine, claims, elsewhere


def _trials(runs: Sequence[Settings]) -> list[_Trial]:
    loaded: dict[int, EnvironmentDataModule] = {}
    trials = []
    for settings in runs:
        own = build_data(settings)
        data = loaded.setdefault(settings.data_seed, own)
        trials.append(_Trial(settings, own, data, folder_of(settings, own)))
    return trials


def _train(trials: Sequence[_Trial], claims: Sequence[Claim], *, resume: bool) -> None:
    settings = trials[0].settings
    algorithms = [build_algorithm(trial.settings, trial.loaded) for trial in trials]
    stack = StackedAlgorithm(algorithms)
    recorded = [_record(trial) for trial in trials]
    parts = [
        Part(record.folder, record.description, _param_groups(algorithm))
        for record, algorithm in zip(recorded, algorithms, strict=True)
    ]
    recorder = StackedRecorder(recorded, parts)
    trainer = build_trainer(
        settings,
        max_steps=settings.steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        callbacks=[ClaimGuard(*claims), recorder],
        plugins=[PartedCheckpoints(parts)],
        use_distributed_sampler=False,
    )
    if trainer.world_size > 1:
        raise UsageError("Stacked runs train on one device; use --trainer.devices 1.")
    for record in recorded:
        record.run["hardware"] = {
            **hardware(1, trainer.strategy.root_device),
            "stacked": len(trials),
        }
    stream = _stream(trials, trainer.strategy.root_device)
    checkpoint = trials[0].folder / records.LAST_CHECKPOINT if resume else None
    for trial in trials:
        prepare(trial.folder, checkpoint)
    # As for one run: what is restored must have the run's precision already.
    trainer.precision_plugin.convert_module(stack)
    with signals_asking(recorder):
        trainer.fit(stack, stream, ckpt_path=checkpoint, weights_only=True)
    recorder.close(trainer, stack)


def _record(trial: _Trial) -> Record:
    trial.loaded.setup()
    deciding = deciding_settings(trial.settings, trial.loaded)
    return new_record(trial.settings, deciding, trial.loaded, trial.folder)


def _param_groups(algorithm: Algorithm) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = algorithm.configure_optimizers().state_dict()["param_groups"]
    return groups


def _stream(trials: Sequence[_Trial], device: torch.device) -> StackedStream:
    loaded = list({id(trial.loaded): trial.loaded for trial in trials}.values())
    return StackedStream(
        [data.training_splits() for data in loaded],
        [
            StackedRun(loaded.index(trial.loaded), trial.own.batch_size, trial.own.stream_seed)
            for trial in trials
        ],
        sampling=trials[0].own.sampling,
        steps=trials[0].settings.steps,
        device=device,
    )
