"""Trains one run: from settings to a finished record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from rich.console import Console

from datamodules.base import EnvironmentDataModule
from datamodules.environments import SPLITS
from datamodules.seeds import derive_seed
from dgbench import BENCHMARK_VERSION, registry, report
from dgbench.algorithms.base import Algorithm
from dgbench.claim_guard import ClaimGuard
from dgbench.claims import Claim, claimed
from dgbench.collectives import is_of_another, leave_at_exit
from dgbench.devices import require_exact
from dgbench.errors import UsageError
from dgbench.loggers import build_loggers
from dgbench.networks import Network, NetworkOptions, build_network
from dgbench.progress import ProgressBar
from dgbench.provenance import hardware, provenance
from dgbench.record import Record
from dgbench.recorder import CheckpointFile, Recorder
from dgbench.resuming import checkpoint_to_resume, require_same_code
from dgbench.runtime import matmul_precision, quiet_lightning, seeded
from dgbench.settings import Settings
from dgbench.signals import signals_asking
from dgbench.source import require_planned
from leaderboard import generations, records


def run(settings: Settings, console: Console | None = None) -> records.Run:
    """Trains a run and records it, or returns the record that these settings have already.

    Args:
        settings: the resolved run.
        console: where to show progress; None shows nothing.

    Returns:
        The finished record.

    Raises:
        UsageError: for settings that fit no data set or algorithm, an interrupted run that is
            neither resumed nor forced, a finished or resumed one on other data, a resumed one of
            other code, code that is not what was planned with, and a folder that cannot be written.
        ClaimedError: when another process trains it.
        Interrupted: when a signal stopped it; the record is ready to be resumed.
    """
    require_planned(settings.names, settings.source)
    data = build_data(settings)
    deciding = deciding_settings(settings, data)
    folder = folder_of(settings, data)
    require_same_code(settings.resume, deciding)
    if records.is_finished(folder) and not settings.force:
        finished = records.read_run(folder)
        require_same_data(finished, settings, data)
        if settings.save_predictions:
            _require_predictions(finished)
        if console is not None:
            report.show_finished_earlier(console, finished)
        return finished
    with claimed(folder) as claim:
        # Another process may have finished it before this one could claim it.
        if not records.is_finished(folder) or settings.force:
            own = generations.current(folder) if claim is None else claim.folder
            say = _saying(console)
            checkpoint = checkpoint_to_resume(
                settings, own, deciding, writes=claim is not None, say=say
            )
            with matmul_precision(settings.matmul_precision), quiet_lightning():
                algorithm = build_algorithm(settings, data)
                _train(settings, data, algorithm, deciding, own, checkpoint, claim, console)
    return records.read_run(folder)


def require_same_data(
    finished: records.Run, settings: Settings, data: EnvironmentDataModule
) -> None:
    """Refuses a finished run of these settings on a folder that holds other data than this one.

    Args:
        finished: the record that these settings have.
        settings: the resolved run.
        data: its data set, loaded if the record's was elsewhere.

    Raises:
        UsageError: when the fingerprints differ.
    """
    here = settings.locations()
    if not here or finished.run["provenance"].get("locations") == here:
        return
    data.setup()
    if data.fingerprint != finished.run["data_fingerprint"]:
        raise UsageError(
            f"{finished.folder} is a finished run of these settings on other data; its run.json "
            "says where they were, which is no setting. Name another --out for these data, or "
            "--force to replace it."
        )


def _require_same_data_behind(
    folder: Path, settings: Settings, data: EnvironmentDataModule
) -> None:
    """Refuses to go on with a checkpoint that was trained on other data than those loaded."""
    # A longer run begins with the checkpoint of a shorter one, and has no record yet.
    begun = folder if (folder / records.RUN_FILE).exists() else Path(settings.resume or folder)
    if records.read_run(begun, repaired=True).run["data_fingerprint"] != data.fingerprint:
        raise UsageError(
            f"--resume {begun} goes on with a run as it was, but it was trained on other data: its "
            "run.json says where they were. Bring them back, or start anew with --force in place "
            "of --resume."
        )


def _require_predictions(finished: records.Run) -> None:
    """Refuses a finished run that was not asked for its predictions."""
    if finished.done is not None and records.PREDICTIONS_FILE not in finished.done["sha256"]:
        raise UsageError(
            f"--save-predictions: the run {finished.folder} is finished and has saved none. "
            "Train it again with --force, or leave the option out."
        )


def build_data(settings: Settings) -> EnvironmentDataModule:
    """The data set of a run, nothing of it loaded yet.

    Args:
        settings: the resolved run.
    """
    options = {key: value for key, value in settings.data.items() if key != "name"}
    data: EnvironmentDataModule = registry.load("data set", settings.data["name"])(
        **options,
        test_envs=settings.test_env,
        train_envs=settings.train_env,
        data_seed=settings.data_seed,
        trial_seed=settings.trial_seed,
        steps=settings.steps,
    )
    return data


def build_algorithm(settings: Settings, data: EnvironmentDataModule) -> Algorithm:
    """The algorithm of a run with its initialised network.

    Args:
        settings: the resolved run.
        data: its data set.
    """
    network = build_network(
        NetworkOptions(**settings.network),
        data.input_shape,
        len(data.class_names),
        settings.trial_seed,
    )
    environments = len(data.train_environments)
    return make_algorithm(settings.algo, network, environments, data.views, settings.trial_seed)


def make_algorithm(
    algo: Mapping[str, Any],
    network: Network,
    n_environments: int,
    views: Sequence[str],
    trial_seed: int,
) -> Algorithm:
    """An algorithm by its name and options, leaving global random state as it was.

    Args:
        algo: ``name`` and the options.
        network: what it trains, or builds what it trains from.
        n_environments: number of training environments.
        views: those that the data set declares, for algorithms that leave the choice to it.
        trial_seed: decides what the algorithm draws, such as weights of modules of its own.
    """
    options = {key: value for key, value in algo.items() if key != "name"}
    if "views" in options and options["views"] is None:
        options["views"] = list(views)
    kind = registry.load("algorithm", algo["name"])
    with seeded(derive_seed(trial_seed, "algorithm")):
        algorithm: Algorithm = kind(network=network, n_environments=n_environments, **options)
    return algorithm


def build_trainer(settings: Settings, **options: Any) -> pl.Trainer:
    """Lightning's Trainer for a run, without anything that the recorder does.

    Args:
        settings: the resolved run, whose ``trainer`` is passed on.
        **options: what the caller decides.

    Raises:
        UsageError: when Lightning refuses the settings.
    """
    try:
        return pl.Trainer(
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
            **settings.trainer,
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        given = ", ".join(f"--trainer.{key} {value}" for key, value in settings.trainer.items())
        reason = " ".join(str(error).split())
        raise UsageError(f"Lightning refuses {given}: {reason}") from error


def deciding_settings(settings: Settings, data: EnvironmentDataModule) -> dict[str, Any]:
    """All that decides the numbers of a run, with its environments by name.

    Args:
        settings: the resolved run.
        data: its data set, which knows the names.
    """
    names = data.environment_names
    return settings.deciding(
        [names[index] for index in data.test_environments],
        [names[index] for index in data.train_environments],
    )


def folder_of(settings: Settings, data: EnvironmentDataModule) -> Path:
    """Where a run leaves its record.

    Args:
        settings: the resolved run.
        data: its data set.
    """
    identity = records.run_id(BENCHMARK_VERSION, deciding_settings(settings, data))
    return records.run_folder(settings.out, settings.data["name"], settings.algo["name"], identity)


def _train(
    settings: Settings,
    data: EnvironmentDataModule,
    algorithm: Algorithm,
    deciding: dict[str, Any],
    folder: Path,
    checkpoint: Path | None,
    claim: Claim | None,
    console: Console | None,
) -> None:
    _read(data, console)
    if checkpoint is not None:
        _require_same_data_behind(folder, settings, data)
    record = new_record(settings, deciding, data, folder)
    recorder = Recorder(record)
    callbacks: list[pl.Callback] = [recorder]
    if console is not None:
        # Before the recorder, whose checks would count as time spent on training.
        callbacks.insert(0, ProgressBar(console, deciding["train_env"], record.check_steps))
    if claim is not None:
        callbacks.insert(0, ClaimGuard(claim))
    loggers = build_loggers(settings.logger, folder)
    trainer = build_trainer(
        settings,
        max_steps=settings.steps,
        max_epochs=-1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        log_every_n_steps=min(settings.check_every, settings.steps),
        logger=loggers,
        callbacks=callbacks,
        use_distributed_sampler=False,
    )
    trainer.strategy.checkpoint_io = CheckpointFile()
    record.run["hardware"] = hardware(trainer.world_size, trainer.strategy.root_device)
    # Last, when nothing that the user gave can fail any more: --force replaces a finished record.
    require_exact(trainer, algorithm)
    if trainer.is_global_zero:
        prepare(folder, checkpoint)
    for logger in loggers:
        logger.log_hyperparams(deciding)
    # Lightning restores weights before it converts them: 64-true would round those of a resumed
    # run to float32.
    trainer.precision_plugin.convert_module(algorithm)
    leave_at_exit()
    # Steps have seeds of their own; Lightning's hooks before them may build modules, too.
    try:
        with signals_asking(recorder), seeded(derive_seed(settings.trial_seed, "hooks")):
            trainer.fit(algorithm, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        # Not a hook: Lightning calls none where the checkpoint is of the last step.
        recorder.close(trainer, algorithm)
    except RuntimeError as error:
        if not is_of_another(error):
            raise
        raise UsageError(
            "Another process that trained along has ended, for a reason that it said itself or, "
            "killed, could not. The record is whole; go on from its last check with "
            f"`dgbench fit --resume {folder}`."
        ) from error


def _read(data: EnvironmentDataModule, console: Console | None) -> None:
    """Loads the data, and says what takes time and what is wrong with them."""
    data.say = _saying(console)
    data.setup()
    for problem in data.problems():
        data.say(f"Warning: {problem.message}")


def _saying(console: Console | None) -> Callable[[str], None]:
    """Prints a sentence; nothing where there is no console."""

    def say(sentence: str) -> None:
        if console is not None:
            console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    return say


def new_record(
    settings: Settings, deciding: dict[str, Any], data: EnvironmentDataModule, folder: Path
) -> Record:
    """The record of a run before its first check; nothing is written.

    Args:
        settings: the resolved run.
        deciding: all of them that decides its numbers.
        data: its data set, loaded.
        folder: the run's folder.
    """
    return Record(
        folder,
        _run_json(settings, deciding, data),
        data,
        {**description(deciding, data), "locations": settings.locations()},
        check_all=settings.check_all,
        save_predictions=settings.save_predictions,
    )


def _run_json(
    settings: Settings, deciding: dict[str, Any], data: EnvironmentDataModule
) -> records.RunJson:
    fingerprints = data.fingerprints()
    environments: list[records.EnvironmentRecord] = []
    for index, name in enumerate(data.environment_names):
        role: records.Role = "unused"
        if index in data.test_environments:
            role = "test"
        elif index in data.train_environments:
            role = "train"
        splits: dict[str, records.SplitRecord] = {
            split: {
                "n": len(data.split_indices(index, split)),
                "sha256": fingerprints[f"{name}/{split}"],
            }
            for split in SPLITS
        }
        environments.append({"index": index, "name": name, "role": role, "splits": splits})
    content: dict[str, Any] = {
        "schema": records.RUN_SCHEMA,
        "run_id": records.run_id(BENCHMARK_VERSION, deciding),
        "benchmark_version": BENCHMARK_VERSION,
        "settings": deciding,
        "environments": environments,
        "class_names": list(data.class_names),
        "data_fingerprint": data.fingerprint,
        "provenance": {**provenance(settings.names), "locations": settings.locations()},
        "hardware": hardware(1, torch.device("cpu")),
    }
    if problems := data.problems():
        content["data_problems"] = [{"kind": p.kind, "message": p.message} for p in problems]
    if settings.save_predictions:
        content["saves_predictions"] = True
    if settings.hparams_seed:
        content["search"] = settings.search.plain()
    return records.validate_run(content)


def description(deciding: dict[str, Any], data: EnvironmentDataModule) -> dict[str, Any]:
    """What a checkpoint must say of itself to be of use without its record.

    Args:
        deciding: the run's settings.
        data: its data set.
    """
    return {
        "benchmark_version": BENCHMARK_VERSION,
        "settings": deciding,
        "class_names": list(data.class_names),
        "input_shape": list(data.input_shape),
        "views": list(data.views),
        "preprocessing": data.preprocessing.to_dict(),
    }


def prepare(folder: Path, checkpoint: Path | None) -> None:
    """Makes the run's folder, empty unless a checkpoint in it is gone on from.

    Args:
        folder: the run's folder.
        checkpoint: what is gone on from, if anything.

    Raises:
        UsageError: when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if checkpoint is None:
            records.empty(folder)
        else:
            records.remove_temporaries(folder)
            if checkpoint.name != records.LAST_CHECKPOINT:
                # In the place of a damaged one, which no further step would replace at the end.
                records.copy(checkpoint, folder / records.LAST_CHECKPOINT)
    except OSError as error:
        raise UsageError(
            f"--out: the record's folder {folder} cannot be written ({error.strerror}). "
            "Name a folder that can, with --out."
        ) from error
