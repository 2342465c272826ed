"""Attempts at whatever is read: each damages or forges one thing and looks at what comes of it."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch

from datamodules.errors import DataError
from datamodules.image_folder import ImageFolder
from datamodules.manifest import Manifest
from dgbench.errors import UsageError, printable
from dgbench.settings import resolve_arguments
from dgbench.sweep.design import design
from dgbench.sweep.design import read as read_sweep
from leaderboard import records
from leaderboard.errors import RecordError
from leaderboard.pack import line_digest
from leaderboard.sources import load
from tests.dgbench.tiny import checks, command
from tests.fuzz.damage import accident, intent
from tests.fuzz.sources import Sources, assert_one_message, predict, same
from tests.hostile import KINDS, VALUES

PARTS = ("run.json", "checks.jsonl", "done.json", "status.json")


# Records


def assert_others_stand(sources: Sources, paths: list[Path], whole: int) -> None:
    """What is read of records is what they said, and what is missing is named."""
    try:
        found, left_out = load(paths)
    except RecordError as error:
        assert_one_message(f"dgbench: {printable(str(error))}\n")
        return
    assert all(same(each, sources.known[each.run_id]) for each in found)
    assert len(found) + len(left_out) >= whole or left_out


def assert_answered(*call: object) -> None:
    """A command has an answer, good or bad, or ends in one message."""
    code, _, errors = command(*call)
    assert code in (0, 1, 2)
    if code == 2:
        assert_one_message(errors)


def damaged_records(sources: Sources, random: Random, folder: Path) -> None:
    """An accident to a file of a record, whose hashes tell."""
    shutil.copytree(sources.runs, folder / "runs")
    run = random.choice(records.find_runs([folder / "runs"]))
    path = run / random.choice(PARTS)
    path.write_bytes(accident(random, path.read_bytes()))
    found, left_out = load([folder / "runs"])
    assert len(found) + len(left_out) == len(sources.known)
    for each in found:
        before = sources.known[each.run_id]
        # Nothing has a hash of done.json: what it says beside, such as its seconds, is not known.
        assert repr(each.checks.lines()) == repr(before.checks.lines())
        assert each.run == before.run
    code, _, errors = command("leaderboard", "build", folder / "runs", "--out", folder / "out")
    assert (code, errors) == (0, "")


def forged_records(sources: Sources, random: Random, folder: Path) -> None:
    """A value of somebody's own in a record, with the hashes that belong to it."""
    shutil.copytree(sources.runs, folder / "runs")
    run = random.choice(records.find_runs([folder / "runs"]))
    path = run / random.choice(PARTS)
    text = path.read_text()
    if path.name == "checks.jsonl":
        lines = text.splitlines()
        number = random.randrange(len(lines))
        lines[number] = intent(random, lines[number])
        path.write_text("\n".join([*lines, ""]))
    else:
        path.write_text(intent(random, text))
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError, RecordError):
        content = json.loads((run / "run.json").read_text())
        content["run_id"] = records.run_id(content["benchmark_version"], content["settings"])
        (run / "run.json").write_text(json.dumps(content))
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
        done = json.loads((run / "done.json").read_text())
        for name in ("run.json", "checks.jsonl"):
            done["sha256"][name] = records.file_sha256(run / name)
        (run / "done.json").write_text(json.dumps(done))
    calls = (
        ("leaderboard", "build", folder / "runs", "--out", folder / "out"),
        ("leaderboard", "pack", folder / "runs", "--out", folder / "packed.jsonl"),
        ("leaderboard", "verify", folder),
    )
    for call in calls:
        assert_answered(*call)


def replaced_files(sources: Sources, random: Random, folder: Path) -> None:
    """Something in the place of a file of a record that is no file."""
    shutil.copytree(sources.runs, folder / "runs")
    run = random.choice(records.find_runs([folder / "runs"]))
    path = run / random.choice([*PARTS, "last.ckpt", "predictions.npz"])
    path.unlink(missing_ok=True)
    KINDS[random.choice(sorted(KINDS))](path)
    for call in (
        ("leaderboard", "build", folder / "runs", "--out", folder / "out"),
        ("leaderboard", "verify", folder),
        ("reproduce", run),
        ("fit", "--resume", run),
    ):
        if path.name in PARTS or call[0] == "leaderboard":
            assert_answered(*call)


def damaged_jobs(sources: Sources, random: Random, folder: Path) -> None:
    """A job of DomainBed, which has no hashes."""
    shutil.copytree(sources.jobs, folder / "jobs")
    path = random.choice(sorted(folder.glob("jobs/*/results.jsonl")))
    content = path.read_bytes()
    if random.random() < 0.5:
        lines = content.decode().splitlines()
        number = random.randrange(len(lines))
        lines[number] = intent(random, lines[number])
        path.write_text("\n".join([*lines, ""]))
    else:
        path.write_bytes(accident(random, content))
    for flags in ((), ("--parity", "domainbed")):
        call = ("leaderboard", "build", folder / "jobs", "--out", folder / "out", *flags)
        code, _, errors = command(*call)
        assert code in (0, 2)
        if code == 2:
            assert_one_message(errors)


# Packs


def damaged_packs(sources: Sources, random: Random, folder: Path) -> None:
    """An accident to a packed file."""
    source = random.choice(sources.packs)
    path = folder / source.name
    path.write_bytes(accident(random, source.read_bytes()))
    for paths in ([path], [path, sources.runs]):
        assert_others_stand(sources, paths, len(sources.known))


def forged_packs(sources: Sources, random: Random, folder: Path) -> None:
    """A value of somebody's own in a packed file, with the digest that belongs to it."""
    header, *lines = sources.packs[0].read_text().splitlines()
    number = random.randrange(len(lines))
    row = json.loads(lines[number])
    inside = [name for name in ("own", "settings", "done") if isinstance(row[name], str)]
    if random.random() < 0.5:
        name = random.choice(inside)
        row[name] = intent(random, row[name])
        lines[number] = json.dumps(row)
    else:
        lines[number] = intent(random, lines[number])
    whole = [f"{line}\n" for line in lines]
    first = json.loads(header)
    first["lines"] = [line_digest(line.encode(errors="surrogatepass")) for line in whole]
    path = folder / "packed.jsonl"
    path.write_text("".join([json.dumps(first), "\n", *whole]))
    code, _, errors = command("leaderboard", "build", path, "--out", folder / "out")
    assert code in (0, 2)
    if code == 2:
        assert_one_message(errors)


# Checkpoints


def damaged_checkpoints(sources: Sources, random: Random, folder: Path) -> None:
    """An accident to a checkpoint, alone or in its record: the same labels, or none."""
    source = sources.trained / "last.ckpt"
    if random.random() < 0.5:
        shutil.copytree(sources.trained, folder / "run")
    else:
        (folder / "run").mkdir()
    path = folder / "run" / "last.ckpt"
    path.write_bytes(accident(random, source.read_bytes()))
    code, errors = predict(path, sources.pictures, folder / "labels.csv")
    assert code in (0, 2)
    if code == 2:
        assert_one_message(errors)
    else:
        assert (folder / "labels.csv").read_bytes() == sources.labels


def forged_checkpoints(sources: Sources, random: Random, folder: Path) -> None:
    """A checkpoint that describes itself otherwise."""
    content = torch.load(sources.trained / "last.ckpt", weights_only=True)
    text = VALUES[random.choice(sorted(VALUES))]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = [[]]
    target = content["dgbench"]
    while True:
        name = random.choice(sorted(target))
        if not isinstance(target[name], dict) or random.random() < 0.3 or not target[name]:
            target[name] = value
            break
        target = target[name]
    path = folder / "other.ckpt"
    torch.save(content, path)
    code, errors = predict(path, sources.pictures[:1], folder / "labels.csv")
    assert code in (0, 2)
    if code == 2:
        assert_one_message(errors)


def damaged_interrupted_runs(sources: Sources, random: Random, folder: Path) -> None:
    """A run that was interrupted and damaged ends as it would have, or says why not."""
    run = folder.joinpath("runs", *sources.trained.parts[-3:])
    shutil.copytree(sources.trained, run)
    (run / "done.json").unlink()
    path = random.choice(sorted(run.iterdir()))
    path.write_bytes(accident(random, path.read_bytes()))
    code, _, errors = command("fit", "--resume", run)
    assert code in (0, 2)
    if code == 2:
        assert errors.startswith("dgbench: ")
    elif path.name not in ("run.json", "checks.jsonl"):  # which nothing has a hash of yet
        assert checks(run) == checks(sources.trained)


# Images and tables of images


def opened(made: Callable[[], ImageFolder]) -> None:
    try:
        made().setup()
    except DataError as error:
        assert_one_message(f"dgbench: {printable(str(error))}\n")


def damaged_images(sources: Sources, random: Random, folder: Path) -> None:
    """An accident to an image that is labelled, and one that is trained on."""
    source = random.choice(sources.pictures)
    path = folder / source.name
    path.write_bytes(accident(random, source.read_bytes()))
    images = [path, sources.folder / "image.png"]
    out = folder / "labels.csv"
    code, errors = predict(sources.trained / "last.ckpt", images, out)
    assert code in (0, 1)
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert len(rows) == 2 - code
    assert code == 0 or errors.startswith("dgbench: 1 of 2 files cannot be read as images")
    shutil.copytree(sources.images, folder / "images")
    path.replace(folder / "images" / "sea" / "cat" / f"other{random.choice(('.png', '.jpg'))}")
    cache = random.choice(("off", str(folder / "cache")))
    truncated = random.choice(("refuse", "load"))
    opened(
        lambda: ImageFolder(
            root=str(folder / "images"),
            image_size=8,
            test_envs=[0],
            cache=cache,
            truncated=truncated,  # type: ignore[arg-type]
        )
    )


def strange_folders(sources: Sources, random: Random, folder: Path) -> None:
    """Names and things of all kinds among images."""
    root = Path(shutil.copytree(sources.images, folder / "images"))
    places = [path for path in root.rglob("*") if path.is_dir()]
    for _ in range(random.randint(1, 4)):
        name = bytes(random.choices(range(1, 256), k=random.randint(1, 12))).replace(b"/", b"-")
        path = Path(os.fsdecode(os.fsencode(random.choice([root, *places])) + b"/" + name))
        suffix = random.choice((".png", ".jpg", "", ".PNG"))
        path = path.with_name(path.name.strip(".") + suffix + "x" * (not path.name.strip(".")))
        with contextlib.suppress(FileExistsError):
            random.choice([*KINDS.values(), Path.mkdir, Path.touch])(path)
    opened(lambda: ImageFolder(root=str(root), image_size=8, test_envs=[0], cache="off"))


def damaged_manifests(sources: Sources, random: Random, folder: Path) -> None:
    """An accident to a table of images, or a value of somebody's own in it."""
    content = sources.manifest.read_bytes()
    if random.random() < 0.5:
        content = accident(random, content)
    else:
        cells = [line.split(b",") for line in content.splitlines()]
        row = random.choice(cells)
        row[random.randrange(len(row))] = random.choice(
            (b"", b"\0", b'"', b"/etc/passwd", b"..", b"/dev/zero", b"a" * 5000, b"\xff", b"path")
        )
        content = b"\n".join(b",".join(row) for row in cells)
    path = folder / "manifest.csv"
    path.write_bytes(content)
    opened(
        lambda: Manifest(
            manifest=str(path), root=str(sources.folder), image_size=8, test_envs=[0], cache="off"
        )
    )


# YAML

CONFIG = """\
algo: {name: irm, penalty_weight: 10.0, anneal_steps: 5}
data: &data {name: colored_mnist, draws: 200, holdout_draws: 50}
network: {width: 8, backbone: mlp}
test_env: [0, minus90]
steps: 20
check_every: 5
selection: train_val
trainer: {gradient_clip_val: 1.0}
"""
SWEEP = """\
datasets: [colored_mnist, rotated_mnist]
algos: [erm, irm]
test_envs: all
trials: 2
draws: 1
vary: {algo.learning_rate: [0.1, 0.01]}
options: {steps: 20, network: {width: 8}}
"""
SPACE = """\
version: 1
ranges:
  algo.learning_rate: {LogUniform: [0.001, 0.1]}
  data.batch_size: {Choice: [8, 16]}
"""


def damaged_yaml(sources: Sources, random: Random, folder: Path) -> None:
    """An accident to a user's own file, or another value in it."""
    kind = random.choice((CONFIG, SWEEP, SPACE))
    if random.random() < 0.5:
        content = accident(random, kind.encode())
    else:
        words = kind.split(" ")
        values = [*VALUES.values(), "&a [*a]", "*data", "!!binary aGk=", "2020-01-01", "on", "~"]
        words[random.randrange(len(words))] = random.choice(values)
        content = " ".join(words).encode()
    path = folder / "file.yaml"
    path.write_bytes(content)
    try:
        if kind == SWEEP:
            design(read_sweep(str(path)))
        else:
            flags = [f"--config={path}"]
            if kind == SPACE:
                flags = ["--algo=erm", "--test-env=2", f"--search-space={path}", "--hparams-seed=1"]
            resolve_arguments(flags)
    except (UsageError, DataError) as error:
        assert_one_message(f"dgbench: {printable(str(error))}\n")


TARGETS: dict[Callable[[Sources, Random, Path], None], int] = {
    damaged_records: 12,
    forged_records: 8,
    replaced_files: 6,
    damaged_jobs: 8,
    damaged_packs: 60,
    forged_packs: 20,
    damaged_checkpoints: 12,
    forged_checkpoints: 15,
    damaged_interrupted_runs: 3,
    damaged_images: 12,
    strange_folders: 20,
    damaged_manifests: 30,
    damaged_yaml: 25,
}
"""What is read, and how many attempts a second or so has room for."""
