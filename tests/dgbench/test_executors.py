"""Wherever a sweep's runs are trained, they leave the same records; nodes may die meanwhile."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dgbench.sweep.cluster import Places, places
from dgbench.sweep.plan import PlannedRun, plan
from dgbench.sweep.state import state_of
from dgbench.sweep.worker import train
from tests.dgbench.test_sweep import Here, same_weights, sweep
from tests.dgbench.tiny import TINY, checks, command

SWEEP = ("sweep", "--datasets", "colored_mnist", "--test-envs", "2", "--trials", "1")
LONG = (*TINY, "--steps", "1500", "--check-every", "20")


def arguments(out: Path, *flags: object, algos: str = "erm,irm") -> list[str]:
    return [str(each) for each in (*SWEEP, "--algos", algos, "--out", out, *flags)]


def started(*flags: str) -> subprocess.Popen[str]:
    program = [sys.executable, "-m", "dgbench", *flags]
    return subprocess.Popen(
        program,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"it did not come to that: {process.communicate()[0]}")
        time.sleep(0.05)


def training(runs: list[PlannedRun]) -> int:
    """How many runs are under way and have a checkpoint to go on from."""
    return sum(
        state_of(run.folder) == "running" and (run.folder / "last.ckpt").exists() for run in runs
    )


def same_records(ours: list[PlannedRun], theirs: list[PlannedRun]) -> bool:
    """Settings, every number of every check, and the weights to the last bit."""
    assert [run.folder.name for run in ours] == [run.folder.name for run in theirs]
    return all(
        settings_of(one) == settings_of(two)
        and checks(one) == checks(two)
        and same_weights(one, two)
        for one, two in zip((r.folder for r in ours), (r.folder for r in theirs), strict=True)
    )


def settings_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return {name: content[name] for name in ("settings", "data_fingerprint", "environments")}


# What is refused


def test_without_ray_one_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, _, errors = command(*arguments(tmp_path, "--executor", "ray"))
    assert code == 2
    assert "pip install 'dgbench[ray]'" in errors
    assert "Traceback" not in errors


def test_an_address_is_a_cluster_s(tmp_path):
    code, _, errors = command(*arguments(tmp_path, "--address", "auto"))
    assert code == 2
    assert "add --executor ray" in errors


@pytest.mark.parametrize(
    "flag",
    [
        "--trainer.devices=2",
        "--trainer.devices=0,1",
        "--trainer.devices=[0,1]",
        "--vary=trainer.num_nodes=2",
    ],
)
def test_several_devices_a_run_are_refused_where_workers_have_one(flag, tmp_path):
    code, _, errors = command(*arguments(tmp_path, flag, *TINY))
    assert code == 2
    assert errors.count("trains each run on one device") == 1
    code, shown, errors = command(*arguments(tmp_path, flag, "--executor", "commands", *TINY))
    assert code == 0, errors
    assert "--trainer." in shown


@pytest.mark.parametrize("devices", ["auto", "-1", "0,", "1"])
def test_the_one_device_that_a_worker_sees_may_be_named(devices, tmp_path, monkeypatch):
    monkeypatch.setattr("dgbench.sweep.command._executor", lambda *_: Here())
    flags = (f"--trainer.devices={devices}", "--trainer.num_nodes=1", *TINY)
    # Lightning may still refuse what this machine lacks, in the run's own words.
    _, shown, errors = command(*arguments(tmp_path, *flags, algos="erm"))
    assert "one device" not in shown + errors


# Room on a cluster

CPUS = {"CPU": 4.0}
GPUS = {"CPU": 16.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("nodes", "jobs", "jobs_per_gpu", "room"),
    [
        ([CPUS, CPUS], None, 1, (8, 1, 0)),
        ([CPUS, CPUS], 2, 1, (2, 4, 0)),
        # One run must not wait for a node with eight processors.
        ([CPUS, CPUS], 1, 1, (1, 4, 0)),
        ([CPUS], 8, 1, (8, 0.5, 0)),
        ([GPUS, CPUS], None, 1, (2, 8, 1)),
        ([GPUS, GPUS], None, 4, (16, 2, 0.25)),
        ([{"CPU": 1.0, "GPU": 1.0}], None, 4, (4, 0.25, 0.25)),
        ([{"GPU": 1.0}], None, 2, (2, 0, 0.5)),
        ([{"memory": 1e9}], 3, 1, (0, 0, 0)),
    ],
)
def test_processors_and_gpus_are_shared_out(nodes, jobs, jobs_per_gpu, room):
    assert places(nodes, jobs, jobs_per_gpu) == Places(*room)


# The same records everywhere


def test_printed_commands_and_workers_leave_the_same_records(tmp_path):
    code, _, errors = command(*arguments(tmp_path / "local", "--jobs", 1, *TINY))
    assert code == 0, errors
    code, shown, errors = command(*arguments(tmp_path / "array", "--executor", "commands", *TINY))
    assert code == 0, errors
    for line in shown.splitlines():
        code, _, errors = command(*shlex.split(line)[3:])
        assert code == 0, errors
    local, array = (
        plan(sweep(algos=["erm", "irm"]), str(tmp_path / name)).runs for name in ("local", "array")
    )
    assert same_records(local, array)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with a processor each."""
    pytest.importorskip("ray", reason="Ray is an optional extra: pip install 'dgbench[ray]'")
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    nodes.add_node(num_cpus=1)
    yield nodes
    nodes.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedRun]:
    """The runs of a sweep that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    runs = plan(sweep(algos=["erm", "irm", "vrex"], flags=LONG), str(out)).runs
    for run in runs:
        train([run.settings])
    return runs


def on_ray(cluster: Any, out: Path) -> tuple[list[str], list[PlannedRun]]:
    flags = ("--executor", "ray", "--address", cluster.address, *LONG)
    runs = plan(sweep(algos=["erm", "irm", "vrex"], flags=LONG), str(out)).runs
    return arguments(out, *flags, algos="erm,irm,vrex"), runs


@pytest.mark.slow
def test_a_cluster_trains_stacks_to_the_same_bits_as_this_machine(cluster, tmp_path):
    flags = (*TINY, "--data.batch_size", "8")
    ours, theirs = (
        plan(sweep(algos=["erm", "irm"], trials=2, flags=flags), str(tmp_path / name)).runs
        for name in ("ray", "here")
    )
    for algo in ("erm", "irm"):
        train([run.settings for run in theirs if run.settings.algo["name"] == algo])
    where = ("--executor", "ray", "--address", cluster.address, "--stack", 2, "--trials", 2)
    launcher = started(*arguments(tmp_path / "ray", *flags, *where))
    shown, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, shown
    assert "Stacked: 4 runs as 2 models." in shown
    for run in ours:
        assert json.loads((run.folder / "run.json").read_text())["hardware"]["stacked"] == 2
    assert same_records(ours, theirs)


@pytest.mark.slow
def test_stopped_on_a_cluster_it_goes_on_there_and_ends_in_the_same_bits(cluster, whole, tmp_path):
    call, runs = on_ray(cluster, tmp_path)
    launcher = started(*call)
    until(lambda: training(runs) == 2, launcher)
    launcher.send_signal(signal.SIGTERM)
    shown, _ = launcher.communicate(timeout=60)
    assert launcher.returncode not in (0, 1), shown
    assert sorted(state_of(run.folder) for run in runs) == ["interrupted", "interrupted", "missing"]
    stopped_at = json.loads((runs[0].folder / "status.json").read_text())
    assert stopped_at["step"] > 0

    launcher = started(*call)
    shown, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0, shown
    assert same_records(runs, whole)


@pytest.mark.slow
def test_a_node_dies_and_the_sweep_completes_in_the_same_bits(cluster, whole, tmp_path):
    call, runs = on_ray(cluster, tmp_path)
    launcher = started(*call)
    until(lambda: training(runs) == 2, launcher)
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)
    shown, _ = launcher.communicate(timeout=240)
    assert launcher.returncode == 0, shown
    assert shown.count("the worker or its node died") == 1, shown
    assert same_records(runs, whole)
    assert not list(tmp_path.rglob(".*claim*")), "a claim was left behind"
