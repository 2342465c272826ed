"""The record format: what a run leaves in its folder, and how it is written and read.

A run folder is `<out>/<dataset>/<algorithm>/<run_id>/` and holds

* `run.json`: resolved settings, environments, fingerprints, versions, hardware; written first;
* `checks.jsonl`: one line a check, in ascending order of steps;
* `last.ckpt` and optionally `selected.ckpt`: weights;
* `predictions.npz`, if it was asked for: the logits behind its numbers (`predictions.py`);
* `status.json`: a sign of life while the run lasts;
* `done.json`: written last, with the sha256 of the other files. A run without it is not finished.

JSON has no token for NaN or an infinity: they are stored as null, and the check's line then says
`"diverged": true`.

One process writes into a folder, any number read it. Who takes a run over from a process that may
write once more has a folder of its own (`generations.py`): a run's folder is its newest. Whole
files are replaced by a rename and lines appended by one write, so that a reader sees an old file, a
new one, or lines of which the last may be torn. On NFS this asks for version 3 or later and for
close-to-open consistency, which is the default; nothing is locked, linked or watched. What NFS does
not promise is made up for: a reply to a rename may be lost, and a file that is replaced while it is
read goes stale.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, TypeVar, cast

from leaderboard import generations
from leaderboard.errors import NewerSchemaError, RecordError
from leaderboard.reading import in_text, open_regular, parse_json, read_bytes

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator

_Content = TypeVar("_Content")

RUN_FILE = "run.json"
CHECKS_FILE = "checks.jsonl"
DONE_FILE = "done.json"
STATUS_FILE = "status.json"
LAST_CHECKPOINT = "last.ckpt"
SELECTED_CHECKPOINT = "selected.ckpt"
PREDICTIONS_FILE = "predictions.npz"

_SHOWN = 300  # characters of what a message repeats
_LARGEST = 2**26  # bytes that are read of a file of a record
_LARGEST_CHECKS = 2**30
_LARGEST_FILES = {RUN_FILE: _LARGEST, CHECKS_FILE: _LARGEST_CHECKS}

RUN_SCHEMA = "dgbench.run/1"
DONE_SCHEMA = "dgbench.done/1"

SelectionRule = Literal["train_val", "leave_one_out", "oracle", "last"]
Role = Literal["train", "test", "unused"]
Float32Products = Literal["float32", "tf32", "bfloat16"]
Ended = Literal["finished", "diverged"]
State = Literal[Ended, "interrupted", "running", "failed"]


class Settings(TypedDict):
    """All that decides the numbers of a run, and nothing else: `run_id` hashes it.

    `first_check` stands in runs whose first check is not that of `check_every`. `source` has hashes
    of the code of an algorithm (`algo`) and a data set (`data`) that are not the suite's.
    """

    algo: dict[str, Any]
    data: dict[str, Any]
    network: dict[str, Any]
    protocol: str
    test_env: list[str]
    train_env: list[str]
    trial_seed: int
    data_seed: int
    hparams_seed: int
    steps: int
    check_every: int
    first_check: NotRequired[int]
    selection: SelectionRule
    precision: str
    matmul_precision: Literal["highest", "high", "medium"]
    deterministic: bool | Literal["warn"]
    gradient_clip_val: NotRequired[float]
    gradient_clip_algorithm: NotRequired[Literal["norm", "value"]]
    source: NotRequired[dict[str, str]]


class SplitRecord(TypedDict):
    """Size and fingerprint of one split of one environment."""

    n: int
    sha256: str


class EnvironmentRecord(TypedDict):
    """One environment and its part in the run; `splits` has `main` and, if it exists, `holdout`."""

    index: int
    name: str
    role: Role
    splits: dict[str, SplitRecord]


class GitState(TypedDict):
    """The commit that ran, and whether files differed from it; None outside a repository."""

    commit: str | None
    dirty: bool | None


class Provenance(TypedDict):
    """When, by what code and from which files the run was made; `created` is ISO 8601 in UTC.

    `git` is the suite's; `source` has the repositories of what `Settings.source` hashes.
    """

    created: str
    argv: list[str]
    locations: NotRequired[dict[str, Any]]
    git: GitState
    source: NotRequired[dict[str, GitState]]
    python: str
    packages: dict[str, str]


class Hardware(TypedDict):
    """What the run was made on.

    `amx`: whether the processor has AMX, which multiplies bfloat16; `float32_products`: what
    products of float32 numbers were computed in; `stacked`: the runs that trained as one model
    there, if any did.
    """

    cpu: str
    amx: NotRequired[bool]
    float32_products: NotRequired[Float32Products]
    threads: int
    devices: int
    accelerator: str
    memory_gb: float | None
    stacked: NotRequired[int]


class SearchRecord(TypedDict):
    """What hyper-parameters were drawn from; `ranges` maps an option to its scale and values."""

    space: str
    version: int
    ranges: dict[str, dict[str, list[Any]]]


class DataProblem(TypedDict):
    """Something that is wrong with the run's data, or not as a known data set has it."""

    kind: str
    message: str


class RunJson(TypedDict):
    """The content of `run.json`; `search` stands in runs whose `hparams_seed` is above 0.

    `saves_predictions` stands in runs that were asked for their predictions.
    """

    schema: str
    run_id: str
    benchmark_version: str
    settings: Settings
    environments: list[EnvironmentRecord]
    class_names: list[str]
    data_fingerprint: str
    provenance: Provenance
    hardware: Hardware
    data_problems: NotRequired[list[DataProblem]]
    search: NotRequired[SearchRecord]
    saves_predictions: NotRequired[Literal[True]]


class SplitMetrics(TypedDict):
    """What a check measures on one split (`leaderboard.metrics`); None if it is not finite."""

    accuracy: float | None
    nll: float | None
    brier: float | None
    ece: float | None
    n: int


class SetRecord(TypedDict):
    """The test of one set of variables; `loss` is its head's on held-out training samples."""

    variables: list[str]
    p_value: float
    loss: float | None


class Conclusion(TypedDict):
    """What a method that tests sets of variables for invariance has found.

    Its `variables` are views of an input that were given to it: prior knowledge, which a table must
    mark. `predictor` is the set that predicts, empty for the label prior. `moved` is, of each
    variable, the p-value of "its mean is the same in all training environments". `text` says all of
    it in words.
    """

    outcome: Literal["identified", "empty_set_accepted", "empty_intersection", "rejected"]
    text: str
    alpha: float
    rule: str
    predictor: list[str]
    variables: list[str]
    sets: list[SetRecord]
    moved: dict[str, float]


class CheckLine(TypedDict):
    """One line of `checks.jsonl`; the keys of `splits` are `<environment>/<main or holdout>`."""

    step: int
    seconds: float
    train: dict[str, float | None]
    splits: dict[str, SplitMetrics]
    conclusion: NotRequired[Conclusion]
    diverged: NotRequired[Literal[True]]


class DoneJson(TypedDict):
    """The content of `done.json`; `selected` maps each rule to its step, None if unavailable.

    `weights` has the sha256 of the tensors of each checkpoint, which a rerun can be compared with.
    """

    schema: str
    status: Ended
    last_step: int
    selected: dict[SelectionRule, int | None]
    seconds: float
    sha256: dict[str, str]
    weights: NotRequired[dict[str, str]]


class StatusJson(TypedDict):
    """The content of `status.json`."""

    status: Literal["running", "interrupted", "failed", "finished"]
    step: int
    error: str | None


# Names and places

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False).encode


def canonical_json(obj: object) -> str:
    """Write `obj` as the one JSON text that stands for it: sorted keys, no spaces, ASCII.

    Floats are written by `repr`, so 1 and 1.0 are different texts.

    Raises:
        RecordError: `obj` holds NaN, an infinity, or something that JSON cannot hold.
    """
    try:
        return _encode(obj)
    except (TypeError, ValueError) as error:
        raise RecordError(
            f"cannot be written as JSON: {error}; allowed are dict, list, str, int, finite float, "
            "bool and None: convert the value first"
        ) from error


def run_id(benchmark_version: str, settings: Mapping[str, Any] | Settings) -> str:
    """Name the run of these settings: 16 hex digits of the sha256 of their canonical JSON."""
    text = canonical_json({"benchmark_version": benchmark_version, "settings": settings})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def git_states(run: RunJson) -> list[GitState]:
    """The commits behind a run: the suite's, and those of code that is not the suite's."""
    provenance = run["provenance"]
    return [provenance["git"], *provenance.get("source", {}).values()]


def commit_text(state: GitState, digits: int | None = None) -> str:
    """A commit in words, with as many of its digits."""
    commit = (state["commit"] or "unknown")[:digits]
    return commit + " with uncommitted changes" * bool(state["dirty"])


def folder_name(name: str) -> str:
    """Turn the name of a data set or algorithm into a folder name of `[a-z0-9_-]` only.

    A name made of these characters stays as it is. Any other one (`my_package.MyAlgorithm`) is
    lowered, its other characters become `-`, and 8 hex digits of its sha256 follow: two names share
    a folder only if their hashes collide or somebody types such a result as a name.

    Raises:
        RecordError: `name` is empty.
    """
    if not name:
        raise RecordError("an empty name has no folder: name the data set and the algorithm")
    if re.fullmatch(r"[a-z0-9_-]{1,100}", name):
        return name
    slug = re.sub(r"[^a-z0-9_-]+", "-", name.lower())[:80].strip("-")
    return f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}".lstrip("-")


def run_folder(out: str | os.PathLike[str], dataset: str, algorithm: str, run_id: str) -> Path:
    """Place a run: `<out>/<dataset>/<algorithm>/<run_id>`; nothing is created."""
    return Path(out) / folder_name(dataset) / folder_name(algorithm) / run_id


# Writing


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Replace the file at `path` by `text` (UTF-8): a reader sees the old file or the new one.

    The folder must exist. A kill leaves at most a hidden `.tmp` file, which no reader opens.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def empty(folder: Path) -> None:
    """Remove what is in a folder: first what makes it a finished record, then what can go on."""
    for name in (DONE_FILE, LAST_CHECKPOINT, SELECTED_CHECKPOINT):
        (folder / name).unlink(missing_ok=True)
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry)
        else:
            os.unlink(entry)


def replace(temporary: Path, path: Path) -> None:
    """Put a file in the place of another one, atomically.

    Over NFS a rename whose reply was lost is asked for again, and then does not find the file that
    it has moved: that is no error.
    """
    moved = os.stat(temporary)
    try:
        os.replace(temporary, path)
    except FileNotFoundError:
        if not path.exists() or not os.path.samestat(os.stat(path), moved):
            raise


def copy(source: Path, path: Path) -> None:
    """Put a copy of a file in the place of another one, atomically."""
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.copyfile(source, temporary)
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    replace(temporary, path)


def remove_temporaries(folder: Path) -> None:
    """Remove what a kill has left half written in a folder that nobody else writes to."""
    for entry in os.scandir(folder):
        if entry.name.startswith(".") and entry.name.endswith(".tmp"):
            os.unlink(entry)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # SMB syncs files alone
            raise
    finally:
        os.close(descriptor)


def write_json_atomic(path: str | os.PathLike[str], obj: object) -> None:
    """Replace the file at `path` by `obj` as indented JSON with sorted keys, atomically.

    Raises:
        RecordError: `obj` holds NaN, an infinity, or something that JSON cannot hold.
    """
    write_text_atomic(path, json_text(obj))


def json_text(obj: object) -> str:
    """Write `obj` as the indented JSON with sorted keys that a record's files are.

    Raises:
        RecordError: `obj` holds NaN, an infinity, or something that JSON cannot hold.
    """
    canonical_json(obj)
    return json.dumps(obj, sort_keys=True, indent=2, allow_nan=False) + "\n"


def append_check(path: str | os.PathLike[str], line: CheckLine) -> None:
    """Append one check to `checks.jsonl` in a single write, and flush it to the disk.

    Numbers that are not finite become null, and the line then says `"diverged": true`. After a
    kill, call `truncate_checks` before the first append: the last line may be torn.

    Raises:
        RecordError: the line does not follow the schema.
    """
    data = _text(line).encode()
    with open(path, "ab", buffering=0) as file:
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, "the disk took only a part of a line", str(path))
        os.fsync(file.fileno())


def _text(check: CheckLine) -> str:
    finite = _without_non_finite(check)
    if finite != check:
        finite["diverged"] = True
    return canonical_json(validate_check(finite)) + "\n"


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def truncate_checks(path: str | os.PathLike[str], last_step: int) -> None:
    """Make `checks.jsonl` ready for a run resumed after `last_step`, atomically.

    Keeps the lines with `step <= last_step` and drops a torn last line and those that follow no
    earlier step. A missing file stays so.
    """
    path = Path(path)
    if path.exists():
        checks = read_checks(path, repaired=True)
        rewrite_checks(path, [line for line in checks if line["step"] <= last_step])


def rewrite_checks(path: str | os.PathLike[str], checks: Iterable[CheckLine]) -> None:
    """Replace `checks.jsonl` atomically; non-finite numbers are written as by `append_check`.

    Raises:
        RecordError: a line does not follow the schema.
    """
    write_text_atomic(path, "".join(map(_text, checks)))


def write_done(
    folder: str | os.PathLike[str],
    *,
    status: Ended,
    last_step: int,
    selected: Mapping[SelectionRule, int | None],
    seconds: float,
    weights: Mapping[str, str] | None = None,
) -> DoneJson:
    """Close a run: write `done.json` with the sha256 of the other files of the record.

    Args:
        folder: The run folder; `run.json` and `checks.jsonl` must be there and complete.
        status: Whether the run reached its budget or ended in numbers that are not finite.
        last_step: Number of optimiser steps taken.
        selected: The step that each selection rule picks, None where a rule is unavailable.
        seconds: Wall time of the whole run.
        weights: sha256 of the tensors of each checkpoint, if they are known.

    Returns:
        What was written.

    Raises:
        RecordError: a value does not follow the schema, or the record is not there.
    """
    folder = Path(folder)
    for name in (RUN_FILE, CHECKS_FILE):
        if not (folder / name).exists():
            raise RecordError(f"{folder}: no {name}, so the run cannot be closed: write it first")
    names = (RUN_FILE, CHECKS_FILE, LAST_CHECKPOINT, SELECTED_CHECKPOINT, PREDICTIONS_FILE)
    done = validate_done(
        {
            **({"weights": dict(weights)} if weights else {}),
            "schema": DONE_SCHEMA,
            "status": status,
            "last_step": last_step,
            "selected": dict(selected),
            "seconds": seconds,
            "sha256": {n: file_sha256(folder / n) for n in names if (folder / n).exists()},
        }
    )
    write_json_atomic(folder / DONE_FILE, done)
    return done


# Validating


def validate_run(obj: object) -> RunJson:
    """Return `obj` as the content of `run.json`.

    Raises:
        RecordError: it does not follow the schema, was written by a newer version, its `run_id` is
            not that of its settings, or its environments contradict its settings.
    """
    _refuse_other_schema(obj, RUN_SCHEMA)
    run = cast(RunJson, _validate(obj, RUN_FILE))
    expected = run_id(run["benchmark_version"], run["settings"])
    if run["run_id"] != expected:
        raise RecordError(
            f"run.json: run_id {run['run_id']} does not belong to these settings, which have "
            f"{expected}: restore the file, or run these settings again"
        )
    _refuse_other_roles(run)
    return run


def validate_settings(obj: object) -> Settings:
    """Return `obj` as the settings of a run, which a checkpoint repeats.

    Raises:
        RecordError: it does not follow the schema.
    """
    return cast(Settings, _validate(obj, RUN_FILE, "settings"))


def validate_check(obj: object) -> CheckLine:
    """Return `obj` as a line of `checks.jsonl`.

    Raises:
        RecordError: it does not follow the schema.
    """
    return cast(CheckLine, _validate(obj, "check.json"))


def validate_done(obj: object) -> DoneJson:
    """Return `obj` as the content of `done.json`.

    Raises:
        RecordError: it does not follow the schema, or was written by a newer version.
    """
    _refuse_other_schema(obj, DONE_SCHEMA)
    return cast(DoneJson, _validate(obj, DONE_FILE))


def validate_status(obj: object) -> StatusJson:
    """Return `obj` as the content of `status.json`.

    Raises:
        RecordError: it does not follow the schema.
    """
    return cast(StatusJson, _validate(obj, STATUS_FILE))


def _refuse_other_roles(run: RunJson) -> None:
    settings = run["settings"]
    for role, names in (("train", settings["train_env"]), ("test", settings["test_env"])):
        found = [e["name"] for e in run["environments"] if e["role"] == role]
        if sorted(found) != sorted(names):
            raise RecordError(
                f"run.json: environments with role {role!r} are {found}, but settings.{role}_env "
                f"is {names}: write the same names in both"
            )


def _refuse_other_schema(obj: object, ours: str) -> None:
    given = obj.get("schema") if isinstance(obj, Mapping) else None
    kind, version = ours.split("/")
    match = re.fullmatch(rf"{re.escape(kind)}/(\d{{1,9}})", str(given), re.ASCII)
    if match is None:
        shown = _shortened(repr(given))
        raise RecordError(f"schema {shown} is not a {kind!r} record: expected {ours!r}")
    if int(match[1]) > int(version):
        raise NewerSchemaError(
            f"schema {given!r} is newer than {ours!r}, the newest that this version reads: "
            "upgrade dgbench"
        )


def _validate(obj: object, schema: str, part: str = "") -> object:
    validator, title = _validator(schema, part)
    try:
        # The whole is checked in microseconds; what is wrong is looked for only where something is.
        if validator.is_valid(obj):
            return obj
        error = min(validator.iter_errors(obj), key=lambda error: len(error.instance_path))
    except ValueError as unlike_json:
        raise RecordError(f"{title}: not what JSON can hold: {unlike_json}") from unlike_json
    place = ".".join(map(str, error.instance_path)) or "the whole"
    # The message repeats what was found, however long that is.
    what = f"{_shortened(place)}: {_shortened(error.message)}"
    raise RecordError(f"{title}: {what}; see leaderboard/schemas/{schema}")


def _shortened(text: str) -> str:
    return in_text(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


@functools.cache
def _validator(schema: str, part: str) -> tuple[Draft202012Validator, str]:
    from jsonschema_rs import Draft202012Validator

    text = resources.files("leaderboard").joinpath("schemas", schema).read_text(encoding="utf-8")
    content = json.loads(text)
    title = content["title"]
    if part:
        content = {**content["properties"][part], "$defs": content["$defs"]}
    return Draft202012Validator(content), part or title


# Reading


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    Attributes:
        folder: The run folder.
        run: The content of `run.json`.
        checks: The checks in ascending order of steps.
        done: The content of `done.json`, None if the run has not ended.
        status: The content of `status.json`, None if absent.
    """

    folder: Path
    run: RunJson
    checks: tuple[CheckLine, ...]
    done: DoneJson | None
    status: StatusJson | None

    @property
    def state(self) -> State:
        """What became of the run.

        `done.json` alone ends a run: without it, a status "finished" is a run killed just before
        the end, hence interrupted, like a run without status. "running" is what the run last said
        of itself: a killed one says so until it is resumed.
        """
        if self.done is not None:
            return self.done["status"]
        if self.status is None or self.status["status"] == "finished":
            return "interrupted"
        return self.status["status"]


def read_checks(path: str | os.PathLike[str], *, repaired: bool = False) -> list[CheckLine]:
    """Read `checks.jsonl`; a missing file has no checks.

    A last line without its line feed was torn by a kill and is left out, even if it parses.

    Args:
        path: The file.
        repaired: Leave out lines that follow no earlier step, which two processes have written that
            trained one run at once, instead of refusing them.

    Raises:
        RecordError: a line is no valid check, or the steps do not ascend.
    """
    path = Path(path)
    content = read_bytes(path, _LARGEST_CHECKS)
    if content is None:
        return []
    whole_lines = content.split(b"\n")[:-1]
    checks: list[CheckLine] = []
    for number, data in enumerate(whole_lines, start=1):
        try:
            check = validate_check(parse_json(data))
        except RecordError as error:
            raise RecordError(f"{path}, line {number}: {error}") from error
        if checks and check["step"] <= checks[-1]["step"]:
            if repaired:
                continue
            raise RecordError(
                f"{path}, line {number}: step {check['step']} follows step {checks[-1]['step']}, "
                "but steps ascend: run these settings again"
            )
        checks.append(check)
    return checks


def is_finished(folder: Path) -> bool:
    """Whether a run has ended, wherever it went on if it was taken over."""
    return (generations.current(folder) / DONE_FILE).exists()


def read_run(
    folder: str | os.PathLike[str], *, verify_checkpoints: bool = False, repaired: bool = False
) -> Run:
    """Read a run folder and verify the sha256 that `done.json` holds of the other files.

    Args:
        folder: A folder with a `run.json`; the newest generation of its run is read.
        verify_checkpoints: Also hash the checkpoints, which are large and may have been left behind
            when the record was published.
        repaired: Read the checks as a resumed run does, see `read_checks`.

    Raises:
        RecordError: the folder holds no valid record, or a file changed after the run ended.
    """
    folder = generations.current(Path(folder))
    if not (folder / RUN_FILE).exists():
        raise RecordError(f"{folder}: no {RUN_FILE}, so this is no run folder: name one that is")
    done = read_done(folder)
    if done is not None:
        names = done["sha256"] if verify_checkpoints else (RUN_FILE, CHECKS_FILE)
        _verify(folder, {name: done["sha256"][name] for name in names})
    run = read_run_json(folder)
    assert run is not None
    checks = tuple(read_checks(folder / CHECKS_FILE, repaired=repaired))
    return Run(folder, run, checks, done, read_status(folder))


def read_run_json(folder: str | os.PathLike[str]) -> RunJson | None:
    """Read `run.json` of a folder, None if it is not there.

    Raises:
        RecordError: it is none.
    """
    return _read(Path(folder) / RUN_FILE, validate_run)


def read_done(folder: str | os.PathLike[str]) -> DoneJson | None:
    """Read `done.json` of a folder, None if it is not there: the run has not ended.

    Raises:
        RecordError: it is none.
    """
    return _read(Path(folder) / DONE_FILE, validate_done)


def read_status(folder: str | os.PathLike[str]) -> StatusJson | None:
    """Read `status.json` of a folder, None if it is not there.

    Raises:
        RecordError: it is none.
    """
    return _read(Path(folder) / STATUS_FILE, validate_status)


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """List the run folders among and below `paths`, sorted, each once, in their newest generation.

    Raises:
        RecordError: a path is no folder.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            raise RecordError(f"{path} is no folder: name run folders, or folders that hold some")
        found.update((folder.resolve(), folder) for folder in _run_folders(path))
    return [found[key] for key in sorted(found)]


def recorded_sha256(path: Path) -> str | None:
    """What the record in whose folder a file lies says of its sha256; None if it says nothing.

    Raises:
        RecordError: the folder's `done.json` cannot be read.
    """
    done = read_done(path.parent)
    return None if done is None else done["sha256"].get(path.name)


def file_sha256(path: str | os.PathLike[str], most: int | None = None) -> str:
    """Hash the bytes of a file, which may have that many; 64 hex digits."""
    with open_regular(path, most) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_folders(root: Path) -> list[Path]:
    folders = []
    for folder, children, files in os.walk(generations.current(root)):
        children[:] = [] if RUN_FILE in files else generations.newest_of(children)
        if RUN_FILE in files:
            folders.append(Path(folder))
    return folders


def _verify(folder: Path, expected: Mapping[str, str]) -> None:
    for name, sha256 in expected.items():
        path = folder / name
        found = file_sha256(path, _LARGEST_FILES.get(name)) if path.exists() else "missing"
        if found != sha256:
            raise RecordError(
                f"{path}: sha256 is {found}, but {DONE_FILE} says {sha256}: the file changed after "
                "the run ended; restore it, or run these settings again"
            )


def _read(path: Path, validate: Callable[[object], _Content]) -> _Content | None:
    content = read_bytes(path, _LARGEST)
    if content is None:
        return None
    try:
        return validate(parse_json(content))
    except RecordError as error:
        raise type(error)(f"{path}: {error}") from error
