"""Where a run departs from the protocol that it names.

A record names a protocol and has every setting of its run. `protocols.json` has those of the
protocols, written by the suite (`python -m tests.test_protocols`) from its configuration files: of
each protocol what it says to an algorithm from elsewhere, and of each algorithm of the suite what
is other for it. So what departs is derived here from the settings that a run id hashes, of old
records, too, and no record is believed what it says of itself.

An option departs where both the record and the protocol have it, with other values: what only one
of them knows is of another version of the suite. No departures are

- options that were drawn, and the values of the suite's own algorithm files;
- the selection rule, as every run answers every rule, and each table names its own;
- `deterministic`, which decides the order in which sums are rounded;
- anything of a protocol that is not the suite's. A data set of a user's has the suite's defaults
  for its protocol.

What all rows of a table have in common names the table, and they are ranked among themselves. What
a row departs in alone is marked on it. It is compared with other rows as long as these are
hyper-parameters of its algorithm (`algo.*`): these are the algorithm's affair, though a reader must
know that they are other than the suite's. Data, network, steps, checks and precision are the
conditions of the comparison: a row that changes one of them is neither ranked nor bold, and has no
difference to ERM.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Mapping
from importlib import resources
from typing import Any

import orjson

from leaderboard.dotted import dotted
from leaderboard.records import canonical_json

PROTOCOLS_FILE = "protocols.json"
NONE = "{}"
"""What a run has that departs in nothing."""

NOT_COMPARED = ("selection", "deterministic")
"""Settings that are none of a protocol's conditions, beside names, seeds and environments."""

_OTHERS = "all others"  # the training environments of a run that names none
_HYPER_PARAMETER = "algo."


def departures(settings: Mapping[str, Any], drawn: Collection[str] = ()) -> str:
    """What of a run's settings is not its protocol's.

    Args:
        settings: Of `run.json`; `train_env` where it is not all that is not held out.
        drawn: Dotted names of the options that were drawn.

    Returns:
        By dotted name the protocol's value and the run's, canonical JSON.
    """
    expected = _expected(settings["data"]["name"], settings["protocol"], settings["algo"]["name"])
    if expected is None:
        return NONE
    own = {**_unsaid(), **dotted(settings)}
    found = {
        option: [value, own[option]]
        for option, value in expected.items()
        if option in own and own[option] != value and option not in drawn
    }
    if "train_env" in settings:
        found["train_env"] = [_OTHERS, settings["train_env"]]
    return canonical_json(found) if found else NONE


def is_known(settings: Mapping[str, Any]) -> bool:
    """Whether the suite has the protocol that a run's settings name."""
    names = settings["data"]["name"], settings["protocol"], settings["algo"]["name"]
    return _expected(*names) is not None


def in_common(found: Iterable[str]) -> str:
    """What all of these depart in alike.

    Args:
        found: Of `departures`, at least one.
    """
    first, *others = (json.loads(text) for text in sorted(set(found)))
    shared = {
        option: values
        for option, values in first.items()
        if all(other.get(option) == values for other in others)
    }
    return canonical_json(shared)


def beyond(found: Iterable[str], shared: str) -> str:
    """What any of these departs in, without what is in the name of their table."""
    every = {option: values for text in found for option, values in json.loads(text).items()}
    return canonical_json({o: v for o, v in every.items() if o not in json.loads(shared)})


def are_comparable(found: str) -> bool:
    """Whether a row that departs in this is compared with others: in hyper-parameters alone."""
    return all(option.startswith(_HYPER_PARAMETER) for option in json.loads(found))


def in_words(found: str, without: Collection[str] = ()) -> list[str]:
    """Each departure as a reader has it.

    Args:
        found: Of `departures`.
        without: Dotted names to leave out.

    >>> in_words('{"network.width":[128,999],"steps":[501,20]}')
    ['20 of 501 steps', 'network.width=999 (not 128)']
    """
    left = {option: v for option, v in json.loads(found).items() if option not in without}
    steps = [_steps(*left.pop("steps"))] if "steps" in left else []
    if "train_env" in left:
        steps.append(f"trained on {' and '.join(left.pop('train_env')[1])} alone")
    others = (f"{o}={json.dumps(own)} (not {json.dumps(v)})" for o, (v, own) in left.items())
    return [*steps, *others]


def _steps(expected: int, own: int) -> str:
    return f"{own} of {expected} steps" if own < expected else f"{own} steps (not {expected})"


def keeping(settings: Mapping[str, Any], found: str, kept: Mapping[str, Any]) -> dict[str, Any]:
    """Some settings with those beside that depart.

    Args:
        settings: All settings.
        found: Their departures.
        kept: Some of them, sections included.
    """
    result = dict(kept)
    for option in json.loads(found):
        section, dot, name = option.partition(".")
        if dot and name in settings[section]:
            result[section] = {**result[section], name: settings[section][name]}
    return result


@functools.cache
def _content() -> Mapping[str, Any]:
    file = resources.files("leaderboard").joinpath(PROTOCOLS_FILE)
    content: Mapping[str, Any] = orjson.loads(file.read_bytes())
    return content


@functools.cache
def _unsaid() -> Mapping[str, Any]:
    """What records leave out where it does nothing."""
    unsaid: Mapping[str, Any] = _content()["unsaid"]
    return unsaid


@functools.cache
def _protocols() -> Mapping[tuple[str, str], Mapping[str, Any]]:
    return {(each["dataset"], each["protocol"]): each for each in _content()["protocols"]}


@functools.lru_cache(maxsize=1_000)
def _expected(dataset: str, protocol: str, algorithm: str) -> Mapping[str, Any] | None:
    """A protocol's settings for an algorithm by dotted name; None of a protocol from elsewhere."""
    names = ("", "") if "." in dataset else (dataset, protocol)
    found = _protocols().get(names)
    if found is None:
        return None
    settings = {**_unsaid(), **found["settings"]}
    if algorithm in found["algorithms"]:
        return {**settings, **found["algorithms"][algorithm]}
    # Of an algorithm from elsewhere nobody but its author says which values it is to have.
    return {o: value for o, value in settings.items() if not o.startswith(_HYPER_PARAMETER)}
