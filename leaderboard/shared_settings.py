"""What the settings of a run say to a table, worked out once for all the runs that share them."""

from __future__ import annotations

import functools
import marshal
import re
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple, cast

import orjson

from leaderboard.departures import departures, keeping
from leaderboard.errors import RecordError
from leaderboard.reading import in_text
from leaderboard.records import RunJson, canonical_json

# Settings of the data that say how batches are drawn, not what the data set is.
BATCH_OPTIONS = {"batch_size", "sampling"}
_MOST = 2**63
# Settings that runs of one row may differ in.
_OF_A_TRIAL = ("trial_seed", "data_seed", "test_env", "train_env")
_HASH = re.compile(r'"?sha256:([0-9a-f]{8})[0-9a-f]{8}\b"?')


def split_run(run: RunJson) -> tuple[str, dict[str, Any]]:
    """Cut the content of `run.json` in two, for thousands of runs share most of their settings.

    Returns:
        All settings but the seeds of a trial and its environments, canonical JSON, and the rest.
    """
    settings: dict[str, Any] = dict(run["settings"])
    own = {name: settings.pop(name) for name in _OF_A_TRIAL}
    return canonical(content_of(settings)), {**run, "settings": own}


def join_run(settings: Mapping[str, Any], own: Mapping[str, Any]) -> RunJson:
    """The whole content of `run.json`, from the parts of `split_run`, parsed."""
    run: Any = {**own, "settings": {**settings, **own["settings"]}}
    return cast(RunJson, run)


@functools.lru_cache(maxsize=100_000)
def shared(value: Any) -> Any:
    """One object for all equal ones: thousands of runs share their settings."""
    return value


def content_of(value: Any) -> bytes:
    """What JSON holds, as a key by which a cache knows it: equal bytes are equal contents.

    Args:
        value: Parsed JSON.
    """
    return marshal.dumps(value, 2)  # later formats tell equal contents apart by shared objects


@functools.lru_cache(maxsize=100_000)
def canonical(content: bytes) -> str:
    """Canonical JSON, written once for all equal contents.

    Args:
        content: Of `content_of`.
    """
    return canonical_json(marshal.loads(content))


class Roles(NamedTuple):
    """Names of environments, as of `Record`, and what of them is a setting, as content."""

    environments: tuple[str, ...]
    test: tuple[str, ...]
    train: tuple[str, ...]
    fixed: bytes


@functools.lru_cache(maxsize=100_000)
def roles_of(content: bytes) -> Roles:
    """Read the environments of a run, and the names that it was told to test and to train on.

    The training environments follow from the test environments as long as they are all others. Any
    other choice, of members or of order, is a setting of its own.

    Args:
        content: Of a list, of `content_of`: the environments of `run.json`, `test_env` and
            `train_env`.
    """
    environments, test_env, train_env = marshal.loads(content)
    refuse_names([*(e["name"] for e in environments), *test_env, *train_env])
    refuse_numbers([e["index"] for e in environments])
    by_index = sorted(environments, key=itemgetter("index"))
    test = [e["name"] for e in by_index if e["role"] == "test"]
    others = [e["name"] for e in by_index if e["role"] != "test"]
    fixed = {"test_env": test_env} if test_env != test else {}
    fixed |= {"train_env": train_env} if train_env != others else {}
    return Roles(
        environments=shared(tuple(e["name"] for e in by_index)),
        test=shared(tuple(test)),
        train=shared(tuple(train_env)),
        fixed=content_of(fixed),
    )


@functools.lru_cache(maxsize=100_000)
def identity(settings_text: str, fixed: bytes, counts: str, search: str) -> dict[str, Any]:
    """The attributes of `Record` that follow from the settings that runs share, by name.

    Args:
        settings_text: Of `split_run`.
        fixed: Content of what else the runs must share to be averaged.
        counts: How the data set differs in size from the known one of its name.
        search: As of `Record`.
    """
    settings: dict[str, Any] = orjson.loads(settings_text) | marshal.loads(fixed)
    refuse_names((settings["data"]["name"], settings["protocol"], settings["algo"]["name"]))
    refuse_numbers([settings["hparams_seed"]])
    departs = departures(settings, _drawn(search))
    if counts:
        settings["data"]["counts"] = counts
    data = {k: v for k, v in settings["data"].items() if k != "name" and k not in BATCH_OPTIONS}
    if code := settings.get("source", {}).get("data"):
        data["code"] = short_hashes(code)  # another data set, though of the same name
    texts = {
        "settings_text": settings_text,
        "dataset": settings["data"]["name"],
        "data": canonical(content_of(data)),
        "source": str(data.get("source", "")),
        "protocol": settings["protocol"],
        "backbone": _backbone(settings["network"]),
        "task": str(data.get("task", "generalization")),
        "algorithm": settings["algo"]["name"],
        "fixed": canonical_json(settings),
        "searched": canonical(content_of(keeping(settings, departs, _without_draws(settings)))),
        "departures": departs,
    }
    refuse_names(texts.values())
    draw = settings["hparams_seed"]
    return {name: shared(text) for name, text in texts.items()} | {"draw": draw}


def refuse_names(names: Iterable[Any]) -> None:
    """Refuse names that are no text of one line: what is not of dgbench has no schema.

    Raises:
        RecordError: one is not.
    """
    for name in names:
        if not isinstance(name, str) or in_text(name) != name:
            raise RecordError(f"{name!r} is no name")


def refuse_numbers(numbers: Iterable[Any]) -> None:
    """Refuse seeds, draws and indices that are no whole numbers from 0 to 2^63 - 1.

    Raises:
        RecordError: one is not.
    """
    for number in numbers:
        if not isinstance(number, int) or not 0 <= number < _MOST:
            raise RecordError(f"{number!r} is no seed, no draw and no index")


@functools.lru_cache(maxsize=1_000)
def _drawn(search: str) -> frozenset[str]:
    """Dotted names of the options that a search draws."""
    return frozenset(orjson.loads(search)["ranges"] if search else ())


def short_hashes(text: str) -> str:
    """A text for readers: of hashes that stand for files as many digits as tell a few apart."""
    return _HASH.sub(r"\1", text)


def _backbone(network: Mapping[str, Any]) -> str:
    """The backbone, and the weights it starts from: both are part of a table's key."""
    name, weights = network.get("backbone", ""), network.get("weights")
    return str(name) if weights in (None, "none", "") else f"{name}, {weights}"


def _without_draws(fixed: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what a draw decides: hyper-parameters, batches and sizes of the network."""
    kept = {key: value for key, value in fixed.items() if key != "hparams_seed"}
    kept["algo"] = {"name": fixed["algo"]["name"]}
    kept["data"] = {k: v for k, v in fixed["data"].items() if k not in BATCH_OPTIONS}
    kept["network"] = {k: v for k, v in fixed["network"].items() if k in ("backbone", "weights")}
    return kept
