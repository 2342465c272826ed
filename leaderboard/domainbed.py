"""Reads the sweeps of DomainBed (Gulrajani and Lopez-Paz, 2021, https://arxiv.org/abs/2007.01434).

A job's folder holds `results.jsonl`, one line a check with `args`, `hparams`, `step`,
`env{i}_in_acc` and `env{i}_out_acc`, and an empty-handed file `done` once it has finished. Its *in*
split is our main, its *out* our holdout.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import orjson

from leaderboard.errors import RecordError
from leaderboard.frame import METRICS, UNKNOWN_COUNT, Checks, Record, positions, record
from leaderboard.reading import read_bytes, refuse_depth
from leaderboard.records import EnvironmentRecord, RunJson, canonical_json
from leaderboard.shared_settings import split_run

RESULTS_FILE = "results.jsonl"
DONE_FILE = "done"
VERSION = "DomainBed"
PROTOCOL = "domainbed sweep"

ENVIRONMENTS: Mapping[str, tuple[str, ...]] = {
    "Debug28": ("0", "1", "2"),
    "Debug224": ("0", "1", "2"),
    "ColoredMNIST": ("+90%", "+80%", "-90%"),
    "RotatedMNIST": ("0", "15", "30", "45", "60", "75"),
    "VLCS": ("C", "L", "S", "V"),
    "PACS": ("A", "C", "P", "S"),
    "OfficeHome": ("A", "C", "P", "R"),
    "TerraIncognita": ("L100", "L38", "L43", "L46"),
    "DomainNet": ("clip", "info", "paint", "quick", "real", "sketch"),
    "SVIRO": (
        *("aclass", "escape", "hilux", "i3", "lexus"),
        *("tesla", "tiguan", "tucson", "x5", "zoe"),
    ),
    "WILDSCamelyon": tuple(f"hospital_{i}" for i in range(5)),
    "WILDSFMoW": tuple(f"region_{i}" for i in range(6)),
    **{
        f"Spawrious{kind}_{level}": ("Test", "SC_group_1", "SC_group_2")
        for kind in ("O2O", "M2M")
        for level in ("easy", "medium", "hard")
    },
}
"""Names of the environments of each data set, in the order of its tables."""

_PLACES = {"data_dir", "output_dir"}
_NOT_TRAINING = {"args", "hparams", "step"}
_NUMBERS = {int, float, bool}
_MOST, _LARGEST, _SHOWN = 2**63, 2**30, 300  # of a number, of a file in bytes, of a message
_ACCURACY = re.compile(r"env(\d+)_(in|out)_acc")


def read_job(folder: Path) -> Record:
    """Read the folder of one job; without `done` it is an interrupted run.

    A last line without its line feed was torn by a kill and is left out.

    Raises:
        RecordError: its results are no DomainBed results.
    """
    content = read_bytes(folder / RESULTS_FILE, _LARGEST)
    if content is None:
        raise RecordError(f"{RESULTS_FILE} is not there any more")
    lines = _parse(content.split(b"\n")[:-1])
    if not lines:
        raise RecordError(f"{RESULTS_FILE} has no whole line")
    try:
        run, checks = _run(lines[0]), _checks(lines)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {str(error)[:_SHOWN]}"
        raise RecordError(f"{RESULTS_FILE} is no result of DomainBed ({reason})") from error
    return record(
        *split_run(run),
        checks,
        place="/".join(folder.parts[-2:]),
        origin="DomainBed",
        state="finished" if (folder / DONE_FILE).exists() else "interrupted",
        rule="train_val",
        conclusion_text=None,
        seconds=None,
        sha256=hashlib.sha256(content).hexdigest(),
        done_text=None,
    )


def _parse(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]]
    try:
        try:
            found = orjson.loads(b"[%b]" % b",".join(lines))
        except orjson.JSONDecodeError:
            # Python's own reader takes NaN, as its writer leaves it, and says which line is wrong.
            found = [json.loads(line) for line in lines]
            json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be written
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{RESULTS_FILE} is not JSON ({error})") from error
    for content in found:
        if not isinstance(content, dict):
            raise RecordError(f"{RESULTS_FILE} holds a {type(content).__name__} for a check")
    refuse_depth(found[:1])
    return found


def _environment_names(dataset: str, count: int) -> tuple[str, ...]:
    names = ENVIRONMENTS.get(dataset, ())
    return names if len(names) == count else tuple(f"env{index}" for index in range(count))


def _run(line: Mapping[str, Any]) -> RunJson:
    """What a line tells of its run, in the form of `run.json`."""
    args, hparams = line["args"], line["hparams"]
    names = _layout(args["dataset"], tuple(line)).environments
    test = sorted(args["test_envs"])
    if test and test[0] < 0:
        raise ValueError(f"there is no environment {test[0]}")
    settings = {
        "algo": {"name": args["algorithm"], **{k: v for k, v in hparams.items() if k != "name"}},
        "data": {"name": args["dataset"], **_task(args)},
        "network": {"backbone": _backbone(args["dataset"], hparams)},
        "protocol": PROTOCOL,
        "test_env": [names[index] for index in test],
        "train_env": [name for index, name in enumerate(names) if index not in test],
        "trial_seed": args["trial_seed"],
        "data_seed": args["trial_seed"],
        "hparams_seed": args["hparams_seed"],
        "steps": args.get("steps"),
        "check_every": args.get("checkpoint_freq"),
        "holdout_fraction": args.get("holdout_fraction"),
    }
    kept = {key: value for key, value in args.items() if key not in _PLACES}
    identity = canonical_json({"args": kept, "hparams": hparams})
    environments: list[EnvironmentRecord] = [
        {"index": index, "name": name, "role": "test" if index in test else "train", "splits": {}}
        for index, name in enumerate(names)
    ]
    content = {
        "run_id": hashlib.sha256(identity.encode()).hexdigest()[:16],
        "benchmark_version": VERSION,
        "settings": settings,
        "environments": environments,
    }
    return cast(RunJson, content)


def _task(args: Mapping[str, Any]) -> dict[str, str]:
    """Runs that saw unlabelled test samples stand apart; so do those that gave some up for it."""
    adapts = args.get("task") == "domain_adaptation"
    return {"task": "adaptation"} if adapts or args.get("uda_holdout_fraction") else {}


def _backbone(dataset: str, hparams: Mapping[str, Any]) -> str:
    """The network that these hyper-parameters make, as `networks.py` reads them."""
    if dataset in ("Debug28", "ColoredMNIST", "RotatedMNIST"):
        return "MNIST_CNN"
    if hparams.get("vit"):
        return "dinov2" if hparams.get("dinov2") else "vit"
    # The augmented ResNet-50 replaces even the ResNet-18 that was asked for.
    if hparams.get("resnet50_augmix"):
        return "resnet50.ram_in1k"
    return "resnet18" if hparams.get("resnet18") else "resnet50"


class _Layout(NamedTuple):
    """What the keys of a line mean, the same for all lines of thousands of runs."""

    environments: tuple[str, ...]
    accuracies: tuple[str, ...]
    splits: tuple[str, ...]  # of the accuracies, as our records name them
    others: tuple[str, ...]


@functools.lru_cache(maxsize=1_000)
def _layout(dataset: str, keys: tuple[str, ...]) -> _Layout:
    found = {key: match for key in keys if (match := _ACCURACY.fullmatch(key))}
    count = 1 + max(int(match[1]) for match in found.values())
    if len(found) < 2 * count:
        raise ValueError(f"{len(found)} accuracies are not both of {count} environments")
    names = _environment_names(dataset, count)
    splits = {"in": "main", "out": "holdout"}
    return _Layout(
        environments=names,
        accuracies=tuple(found),
        splits=tuple(f"{names[int(m[1])]}/{splits[m[2]]}" for m in found.values()),
        others=tuple(k for k in keys if k not in _NOT_TRAINING and not k.endswith("_acc")),
    )


def _checks(lines: Sequence[Mapping[str, Any]]) -> Checks:
    steps = [line["step"] for line in lines]
    if not all(isinstance(step, int) and 0 <= step < _MOST for step in steps):
        raise ValueError("a step is no number")
    lines = sorted(lines, key=lambda line: line["step"])
    layout = _layout(lines[0]["args"]["dataset"], tuple(lines[0]))
    values = {key: [line.get(key) for line in lines] for key in layout.others}
    training = {
        key: found for key, found in values.items() if _NUMBERS.issuperset(map(type, found))
    }
    metrics = np.full((len(lines), len(layout.accuracies), len(METRICS)), np.nan)
    metrics[:, :, 0] = np.array([[line[k] for line in lines] for k in layout.accuracies]).T
    if (metrics[:, :, 0] < 0).any() or (metrics[:, :, 0] > 1).any():
        raise ValueError("an accuracy is not between 0 and 1")
    return Checks(
        steps=np.array([line["step"] for line in lines], dtype=np.int64),
        seconds=np.full(len(lines), np.nan),
        splits=positions(layout.splits),
        metrics=metrics,
        counts=np.full(metrics.shape[:2], UNKNOWN_COUNT, dtype=np.int64),
        train_names=tuple(training),
        train=np.array(list(training.values()), dtype=np.float64).reshape(-1, len(lines)).T,
    )
