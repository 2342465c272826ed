"""Stacked runs are the separate runs: same batches, same weights, same records."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from datamodules.errors import DataError
from datamodules.stacked_streams import StackedRun, StackedStream
from datamodules.streams import EnvironmentBatch
from dgbench import registry
from dgbench.algorithms.base import Algorithm
from dgbench.algorithms.irm import IRM
from dgbench.errors import Interrupted, UsageError
from dgbench.networks import Network
from dgbench.search_space import LogInt, Range, hyperparameters
from dgbench.settings import Settings, resolve
from dgbench.stacked import training
from dgbench.stacked.checkpoints import Part
from dgbench.stacked.model import StackedAlgorithm, overridden_hooks
from dgbench.stacked.plan import why_not
from dgbench.stacked.training import run_stacked
from dgbench.training import run
from leaderboard import records
from tests.dgbench.test_base import GroupDRO
from tests.synthetic import (
    SAMPLES,
    SyntheticData,
    assert_close,
    make_algorithm,
    make_data,
    small_network,
)

ALGORITHMS = tuple(registry.entries("algorithm"))
STACKABLE = [
    name
    for name in ALGORITHMS
    if not overridden_hooks(cast("type[Algorithm]", registry.load("algorithm", name)))
]
STEPS = 6
TOLERANCE = 1e-9


def stream_of(data: Sequence[SyntheticData]) -> StackedStream:
    return StackedStream(
        [each.training_splits() for each in data],
        [StackedRun(n, each.batch_size, each.stream_seed) for n, each in enumerate(data)],
        sampling=data[0].sampling,
    )


# Batches


@pytest.mark.parametrize("sampling", ["permutation", "replacement"])
def test_a_stack_has_each_runs_own_batches_and_rows_beyond_them_belong_to_no_environment(sampling):
    runs = [
        make_data(trial_seed=seed, data_seed=seed % 2, batch_size=size, sampling=sampling)
        for seed, size in enumerate((8, 3, 11))
    ]
    stream = stream_of(runs)
    own = [each.train_dataloader() for each in runs]
    for step in range(9):
        stacked = stream.batch(step)
        assert stacked.targets.shape == (3, 4 * 11)
        for position, separate in enumerate(each.batch(step) for each in own):
            rows = stacked.environment[position] >= 0
            for name in ("inputs", "targets", "environment", "indices", "rows"):
                found = getattr(stacked, name)[position][rows]
                assert torch.equal(found, getattr(separate, name)), name
            assert torch.equal(stacked.counts[position], separate.counts)


def test_full_batches_are_whole_splits_in_order():
    runs = [make_data(trial_seed=seed, batch_size="full") for seed in range(2)]
    stacked = stream_of(runs).batch(3)
    for position, each in enumerate(runs):
        assert torch.equal(stacked.inputs[position], each.train_dataloader().batch(3).inputs)


def test_full_batches_and_others_are_stacked_apart():
    with pytest.raises(DataError, match="stack the two kinds apart"):
        stream_of([make_data(batch_size="full"), make_data(batch_size=4)])


# Steps, in float64, without a Trainer


def drawn(name: str) -> list[dict[str, Any]]:
    """Options of three runs: those that are searched, at both ends of their ranges and between."""
    found: list[dict[str, Any]] = [{}, {}, {}]
    for option in hyperparameters(cast("type[Algorithm]", registry.load("algorithm", name))):
        declared = option.range
        if isinstance(declared, Range) and option.name not in ("anneal_steps", "learning_rate"):
            number = int if isinstance(declared, LogInt) else float
            middle = (max(declared.low, 1e-12) * declared.high) ** 0.5 if declared.low > 0 else -1.0
            values = (declared.low, middle, min(declared.high, 1e3))
            for options, value in zip(found, values, strict=True):
                options[option.name] = number(value)
        if option.name == "anneal_steps":
            for options, value in zip(found, (0, 2, 4), strict=True):
                options["anneal_steps"] = value
    for options, rate in zip(found, (1e-3, 3e-3, 1e-2), strict=True):
        options |= {"learning_rate": rate, "weight_decay": 10 * rate, "l2": rate}
    return found


def separate(
    algorithm: Algorithm, data: SyntheticData, *, clip: float | None = None, steps: int = STEPS
) -> Algorithm:
    """Trains one algorithm by hand, as Lightning would."""
    optimizer, stream = algorithm.configure_optimizers(), data.train_dataloader()
    for step in range(steps):
        if algorithm.restart_optimizer and step == algorithm.anneal_steps > 0:
            optimizer.state.clear()
        optimizer.zero_grad()
        algorithm.training_step(in_precision(stream.batch(step)), step).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(algorithm.parameters(), clip)
        optimizer.step()
    return algorithm


def stacked(
    algorithms: Sequence[Algorithm],
    data: Sequence[SyntheticData],
    *,
    clip: float | None = None,
    steps: int = STEPS,
) -> StackedAlgorithm:
    """Trains several at once by hand."""
    stack = StackedAlgorithm(algorithms)
    optimizer, stream = stack.configure_optimizers(), stream_of(data)
    for step in range(steps):
        stack.restart_where_due(optimizer, step)
        optimizer.zero_grad()
        stack.training_step(in_precision(stream.batch(step)), step).backward()
        if clip is not None:
            stack.configure_gradient_clipping(optimizer, clip, "norm")
        optimizer.step()
    return stack


def in_precision(batch: EnvironmentBatch) -> EnvironmentBatch:
    return EnvironmentBatch(
        batch.inputs.to(torch.get_default_dtype()),
        batch.targets,
        batch.environment,
        batch.indices,
        batch.rows,
        batch.counts,
    )


def assert_same(stack: StackedAlgorithm, algorithms: Sequence[Algorithm]) -> None:
    """Weights, buffers and the last outputs of each are its own."""
    for position, algorithm in enumerate(algorithms):
        for name, value in algorithm.state_dict().items():
            found = stack.algorithm.state_dict()[name][position]
            assert_close(found, value, rtol=TOLERANCE, atol=TOLERANCE)
        for name, value in algorithm.outputs.items():
            found = stack.outputs[name][position].to(value.dtype)
            assert_close(found, value, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", STACKABLE)
@pytest.mark.parametrize("sizes", [(8, 8, 8), (5, 8, 3)], ids=["equal", "masked"])
def test_stacked_is_separate(name, sizes):
    data = [
        make_data(trial_seed=seed, data_seed=seed, batch_size=size)
        for seed, size in enumerate(sizes)
    ]

    def algorithms() -> list[Algorithm]:
        return [
            make_algorithm(name, each, **options).double()
            for each, options in zip(data, drawn(name), strict=True)
        ]

    alone = [separate(a, d) for a, d in zip(algorithms(), data, strict=True)]
    start = algorithms()
    stack = stacked(start, data)
    assert_same(stack, alone)
    for before, after in zip(start, alone, strict=True):
        moved = [
            (b - a).abs().max()
            for b, a in zip(before.parameters(), after.parameters(), strict=True)
        ]
        assert min(moved) > 1e-4


@pytest.mark.parametrize("name", STACKABLE)
def test_in_float32_they_are_as_accurate_within_noise(name):
    data = [
        make_data(trial_seed=seed, data_seed=seed, batch_size=size)
        for seed, size in enumerate((5, 8, 3))
    ]

    def algorithms() -> list[Algorithm]:
        return [make_algorithm(name, d, **o) for d, o in zip(data, drawn(name), strict=True)]

    def accuracy(network: Network, data: SyntheticData) -> float:
        samples = [data.environment(index) for index in range(len(data.environment_names))]
        right = [network(each.inputs).argmax(dim=1) == each.targets for each in samples]
        return float(torch.cat(right).double().mean())

    stack = stacked(algorithms(), data, steps=30)
    for position, (algorithm, each) in enumerate(zip(algorithms(), data, strict=True)):
        expected = accuracy(separate(algorithm, each, steps=30).network, each)
        noise = (expected * (1 - expected) / (SAMPLES * len(each.environment_names))) ** 0.5
        assert accuracy(stack.network(position), each) == pytest.approx(expected, abs=noise)


def group_dro(seed: int) -> Algorithm:
    """An algorithm with a state, on a network with another: batch normalisation."""
    network = small_network(seed=seed)
    featurizer = nn.Sequential(nn.BatchNorm1d(6), network.featurizer, nn.BatchNorm1d(8))
    whole = Network(featurizer, network.classifier).double()
    return GroupDRO(network=whole, n_environments=4, eta=0.1 + seed)


@pytest.mark.usefixtures("float64")
def test_buffers_are_each_runs_own():
    data = [make_data(trial_seed=seed) for seed in range(3)]
    alone = [separate(group_dro(seed), each) for seed, each in enumerate(data)]
    stack = stacked([group_dro(seed) for seed in range(3)], data)
    assert_same(stack, alone)
    assert (stack.algorithm.get_buffer("weights") != 1).all()
    assert (stack.algorithm.get_buffer("network.featurizer.0.running_mean") != 0).all()


@pytest.mark.usefixtures("float64")
def test_the_optimiser_is_restarted_run_by_run_and_gradients_are_clipped_run_by_run():
    data = [make_data(trial_seed=seed) for seed in range(3)]

    def algorithms() -> list[Algorithm]:
        switches = enumerate((2, 0, 4))
        options: dict[str, Any] = {"restart_optimizer": True, "rescale_loss": True}
        return [
            make_algorithm(
                "irm",
                data[n],
                **options,
                penalty_weight=10.0**n,
                loss_scale=n + 1.0,
                anneal_steps=at,
            ).double()
            for n, at in switches
        ]

    alone = [separate(a, d, clip=0.1) for a, d in zip(algorithms(), data, strict=True)]
    assert_same(stacked(algorithms(), data, clip=0.1), alone)


class Drops(Algorithm):
    """Shows what dropout let through."""

    def objective(self, batch: EnvironmentBatch) -> dict[str, Any]:
        features = self.network.featurizer(batch.inputs)
        risks = self.risks(batch, self.network.classifier(features))
        return {"loss": risks.mean(), "kept": (features != 0).double().flatten()}


def test_dropout_drops_other_units_in_each_run_and_the_same_ones_of_the_same_seed():
    def kept() -> Tensor:
        network = Network(nn.Dropout(0.5), nn.Linear(2, 2))
        stack = StackedAlgorithm([Drops(network=network, n_environments=1) for _ in range(3)])
        torch.manual_seed(1)
        ones = torch.ones(3, 40, 2)
        rows = torch.arange(40).expand(3, -1)
        nothing = torch.zeros(3, 40, dtype=torch.int64)
        counts = torch.full((3, 1), 40)
        stack.training_step(EnvironmentBatch(ones, nothing, nothing, rows, rows, counts), 0)
        return stack.outputs["kept"]

    found = kept()
    assert torch.equal(found, kept())
    assert len({tuple(each.tolist()) for each in found}) == 3
    assert 0.3 < found.mean() < 0.7


# What is refused


class OwnSteps(IRM):
    """Steps by hand."""

    def training_step(self, batch: EnvironmentBatch, batch_idx: int) -> Tensor:
        return super().training_step(batch, batch_idx)


def refused(algorithms: Sequence[Algorithm]) -> str:
    with pytest.raises(UsageError, match="cannot be stacked") as caught:
        StackedAlgorithm(algorithms)
    return str(caught.value)


def test_what_cannot_be_stacked_says_why():
    data = make_data()
    network = small_network()
    irm = make_algorithm("irm", data)
    assert "ERM, IRM are different" in refused([irm, make_algorithm("erm", data)])
    own = OwnSteps(network=network, n_environments=4)
    assert "OwnSteps has a training_step of its own" in refused([own, own])
    halved = make_algorithm("irm", data, estimator="split")
    assert "they differ in estimator, which is no number" in refused([irm, halved])
    wide = IRM(network=small_network(width=9), n_environments=4)
    assert "different shapes" in refused([irm, wide])


# Runs and their records


def settings(out: Path, trial: int = 0, **options: Any) -> Settings:
    """One of several tiny runs that differ in everything that may."""
    config: dict[str, Any] = {
        "algo": {
            "name": "irm",
            "l2": 0.001,
            "learning_rate": 1e-3 * (1 + trial),
            "penalty_weight": 10.0**trial,
            "anneal_steps": 3 + trial,
            "restart_optimizer": True,
        },
        "test_env": 2,
        "steps": 8,
        "check_every": 2,
        "trial_seed": trial,
        "data_seed": trial // 2,
        "network": {"width": 8, "logits": "all"},
        "data": {"batch_size": 8 + trial, "draws": 60, "holdout_draws": 30},
        "selection": "train_val",
        "trainer": {"precision": "64-true"},
        "out": str(out),
    }
    for name, value in options.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    return resolve(config)


def three(out: Path, **options: Any) -> list[Settings]:
    return [settings(out, trial, **options) for trial in range(3)]


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / name, weights_only=True)
    return content


def without_time(content: Any) -> Any:
    """Everything but times and how many were stacked, in which runs may differ."""
    if isinstance(content, dict):
        kept = content.keys() - {"seconds", "created", "argv", "stacked"}
        return {key: without_time(content[key]) for key in content if key in kept}
    return [without_time(value) for value in content] if isinstance(content, list) else content


def close(found: Any, expected: Any) -> bool:
    """The same structure with the same numbers, to rounding."""
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(close(found[k], expected[k]) for k in expected)
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(close, found, expected))
    if isinstance(expected, Tensor):
        return torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
    if isinstance(expected, float):
        return found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    return bool(found == expected)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[records.Run]:
    return run_stacked(three(tmp_path_factory.mktemp("whole")))


def test_stacked_records_are_those_of_separate_runs(whole, tmp_path):
    for found, each in zip(whole, three(tmp_path), strict=True):
        alone = run(each)
        assert found.run["hardware"]["stacked"] == 3
        assert without_time(found.run) == without_time(alone.run)
        assert close(without_time(list(found.checks)), without_time(list(alone.checks)))
        assert found.done is not None
        assert alone.done is not None
        assert found.done["selected"] == alone.done["selected"]
        names = [{p.name for p in each.folder.iterdir()} for each in (found, alone)]
        assert names[0] == names[1]
        for name in {"last.ckpt", "selected.ckpt"} & names[0]:
            contents = [without_time(checkpoint(r.folder, name)) for r in (found, alone)]
            assert close(*contents), name


def test_a_stacked_run_goes_on_alone_to_more_steps(tmp_path):
    short, *_ = run_stacked(three(tmp_path, steps=4))
    grown = run(replace(settings(tmp_path), resume=str(short.folder), steps=8))
    alone = run(settings(tmp_path / "alone"))
    assert close(without_time(list(grown.checks)), without_time(list(alone.checks)))


def test_finished_runs_are_not_trained_again(whole, monkeypatch):
    out = whole[0].folder.parents[2]
    monkeypatch.setattr(training, "_train", None)
    again = run_stacked(three(out))
    assert [each.folder for each in again] == [each.folder for each in whole]


class EndError(Exception):
    """Death, as far as a test can play it that lives on."""


def end_at(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """Lets a function end everything in place of its n-th call."""
    original = getattr(owner, name)
    calls = iter(range(1, 10**6))

    def deadly(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise EndError
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, deadly)


# What is called when, with three runs that are checked every second step.
MOMENTS = {
    "before a check is written": (records, "append_check", 5),
    "before a checkpoint is written": (torch, "save", 5),
    "before any checkpoint of a check takes its place": (Part, "put", 4),
    "between two checkpoints of a check": (Part, "put", 5),
    "in the middle of a step": (IRM, "objective", 6),
    "between two records": (records, "write_done", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_ended_at_any_moment_they_go_on_to_the_same_bits(moment, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        end_at(patch, *MOMENTS[moment])
        with pytest.raises(EndError):
            run_stacked(three(tmp_path))
    for expected, found in zip(whole, run_stacked(three(tmp_path)), strict=True):
        assert without_time(list(found.checks)) == without_time(list(expected.checks))
        contents = [checkpoint(each.folder)["state_dict"] for each in (found, expected)]
        assert all(torch.equal(contents[0][name], contents[1][name]) for name in contents[1])
        left = {path.name for path in found.folder.iterdir()}
        assert left == {path.name for path in expected.folder.iterdir()}


def test_a_signal_stops_them_all_with_checkpoints(tmp_path, monkeypatch, whole):
    objective = IRM.objective
    calls = iter(range(100))

    def signalling(algorithm: IRM, batch: EnvironmentBatch) -> dict[str, Tensor]:
        if next(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return objective(algorithm, batch)

    with monkeypatch.context() as patch:
        patch.setattr(IRM, "objective", signalling)
        with pytest.raises(Interrupted, match="3 stacked runs stopped by SIGTERM after step 5"):
            run_stacked(three(tmp_path))
    folders = records.find_runs([tmp_path])
    assert {records.read_run(folder).state for folder in folders} == {"interrupted"}
    assert {checkpoint(folder)["global_step"] for folder in folders} == {5}
    for expected, found in zip(whole, run_stacked(three(tmp_path)), strict=True):
        contents = [checkpoint(each.folder)["state_dict"] for each in (found, expected)]
        assert all(torch.equal(contents[0][name], contents[1][name]) for name in contents[1])


@pytest.mark.parametrize("name", ["last.ckpt", "selected.ckpt"])
def test_a_damaged_checkpoint_is_not_gone_on_from(name, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        end_at(patch, IRM, "objective", 6)
        with pytest.raises(EndError):
            run_stacked(three(tmp_path))
    for folder in records.find_runs([tmp_path])[:2]:
        os.truncate(folder / name, 1000)
    for expected, found in zip(whole, run_stacked(three(tmp_path)), strict=True):
        # Trained apart from those that lost nothing, in other sums.
        assert close(without_time(list(found.checks)), without_time(list(expected.checks)))
        assert close(*(checkpoint(each.folder)["state_dict"] for each in (found, expected)))


def test_of_a_silent_process_s_stack_each_run_goes_on_elsewhere(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        end_at(patch, IRM, "objective", 6)
        with pytest.raises(EndError):
            run_stacked(three(tmp_path))
    folders = records.find_runs([tmp_path])
    for folder in folders:
        claim = folder.with_name(f".{folder.name}.claim-1")
        claim.touch()
        os.utime(claim, (0, 0))
    for expected, found in zip(whole, run_stacked(three(tmp_path)), strict=True):
        assert found.folder.name.endswith("-generation-2")
        assert without_time(list(found.checks)) == without_time(list(expected.checks))
        contents = [checkpoint(each.folder)["state_dict"] for each in (found, expected)]
        assert all(torch.equal(contents[0][name], contents[1][name]) for name in contents[1])
    assert len(records.find_runs([tmp_path])) == 3


def test_a_run_that_diverges_is_closed_and_the_others_go_on(whole, tmp_path):
    runs = three(tmp_path)
    runs[1] = settings(tmp_path, 1, algo={"learning_rate": 1e300})
    found = run_stacked(runs)
    assert [each.state for each in found] == ["finished", "diverged", "finished"]
    assert len(found[1].checks) == 1
    alone = run(settings(tmp_path / "alone", 1, algo={"learning_rate": 1e300}))
    assert alone.done is not None
    assert found[1].done is not None
    assert alone.done["last_step"] == found[1].done["last_step"] == 2
    assert list(alone.checks[0]["splits"]) == list(found[1].checks[0]["splits"])
    for position in (0, 2):
        contents = [checkpoint(each[position].folder)["state_dict"] for each in (found, whole)]
        assert close(*contents)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"algo": {"estimator": "split"}}, "they differ in algo.estimator"),
        ({"steps": 9}, "they differ in steps"),
        ({"test_env": 1}, "they differ in test_env"),
        ({"data": {"batch_size": "full"}}, "they differ in data.batch_size"),
        ({"network": {"width": 9}}, "they differ in network.width"),
    ],
)
def test_runs_of_another_kind_are_refused_with_the_difference(change, reason, tmp_path):
    with pytest.raises(UsageError, match=re.escape(reason)):
        run_stacked([settings(tmp_path), settings(tmp_path, 1, **change)])


@pytest.mark.parametrize(("batch_norm", "refused"), [("train", True), ("frozen", False)])
def test_where_batches_are_normalised_they_are_of_one_size(batch_norm, refused, tmp_path):
    network = {"backbone": "resnet18", "batch_norm": batch_norm}
    runs = [settings(tmp_path, data={"batch_size": size}, network=network) for size in (8, 9)]
    assert (why_not(runs) == "they differ in data.batch_size") == refused
    assert why_not([runs[0], runs[0]]) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logger": ["csv"]}, "a csv logger of its own"),
        ({"trainer": {"precision": "16-mixed"}}, "one factor"),
        ({"algo": {"name": f"{__name__}.OwnSteps"}}, "has steps of its own (training_step)"),
    ],
)
def test_runs_that_no_stack_can_train_are_refused_with_the_reason(change, reason, tmp_path):
    with pytest.raises(UsageError, match=re.escape(reason)):
        run_stacked(three(tmp_path, **change))
