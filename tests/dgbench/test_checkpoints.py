"""A checkpoint on its own: the record's numbers exactly, labels for new images, a plain module."""

from __future__ import annotations

import csv
import errno
import math
import os
import random
import shutil
import struct
import zipfile
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from PIL import Image

import dgbench
from datamodules.colored_mnist import ColoredMNIST
from dgbench.checkpoints import read, score
from dgbench.errors import UsageError
from leaderboard import records
from tests.dgbench.tiny import command, fit
from tests.folders import image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fit(tmp_path_factory.mktemp("runs"), "--steps", "30", "--network.width", "16")


@pytest.fixture(scope="module")
def data():
    data = ColoredMNIST(test_envs=[2], draws=200, holdout_draws=50)
    data.setup()
    return data


@pytest.mark.parametrize("precision", ["32-true", "64-true", "bf16-mixed"])
def test_scoring_gives_the_records_numbers_exactly(precision, tmp_path):
    folder = fit(tmp_path, "--trainer.precision", precision)
    assert score(read(folder / "last.ckpt")) == records.read_run(folder).checks[-1]["splits"]


def test_the_command_shows_them(folder):
    code, shown, errors = command("test", "--checkpoint", folder / "last.ckpt")
    assert code == 0, errors
    accuracy = records.read_run(folder).checks[-1]["splits"]["-90%/main"]["accuracy"]
    assert accuracy is not None
    assert f"{100 * accuracy:.1f} %" in shown


def test_load_gives_a_plain_module_with_the_trained_weights(folder, data):
    network = dgbench.load(folder / "last.ckpt")
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    environment = data.environment(2)
    with torch.no_grad():
        predicted = network(environment.inputs[environment.main]).argmax(dim=-1)
    accuracy = (predicted == environment.targets[environment.main]).double().mean().item()
    expected = records.read_run(folder).checks[-1]["splits"]["-90%/main"]["accuracy"]
    assert accuracy == pytest.approx(expected, abs=1e-12)


def test_predict_labels_image_files_as_the_network_labels_the_data(folder, data, tmp_path):
    environment = data.environment(2)
    paths = []
    for index in range(12):
        planes = (environment.inputs[index] * 255).round().to(torch.uint8).numpy()
        image = np.stack([planes[0], planes[1], np.zeros_like(planes[0])], axis=-1)
        paths.append(tmp_path / f"digit {index}.png")
        Image.fromarray(image).save(paths[-1])
    out = tmp_path / "labels.csv"
    code, _, errors = command("predict", "--checkpoint", folder / "last.ckpt", *paths, "--out", out)
    assert code == 0, errors
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    with torch.no_grad():
        probabilities = dgbench.load(folder / "last.ckpt")(environment.inputs[:12]).softmax(dim=-1)
    for row, expected in zip(rows, probabilities, strict=True):
        assert row["class"] == data.class_names[expected.argmax()]
        assert float(row["probability"]) == pytest.approx(expected.max().item(), abs=2e-6)


def test_predict_refuses_what_is_no_image_and_writes_nothing(folder, tmp_path):
    text = tmp_path / "words.png"
    text.write_text("no image")
    out = tmp_path / "labels.csv"
    code, _, errors = command("predict", "--checkpoint", folder / "last.ckpt", text, "--out", out)
    assert code == 2
    assert "cannot be read as an image" in errors
    assert not out.exists()


def bomb() -> bytes:
    """A PNG that says it has 1,6 billion pixels."""
    header = struct.pack(">4sIIBBBBB", b"IHDR", 40_000, 40_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", crc32(header))


def read_csv(file):
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def predicted(folder, out, *images):
    code, shown, errors = command(
        "predict", "--checkpoint", folder / "last.ckpt", *images, "--out", out
    )
    return code, shown, errors, read_csv(out)


def test_bad_files_are_named_and_cost_the_good_ones_nothing(folder, tmp_path):
    good = [tmp_path / "a.png", Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png"))]
    for number, path in enumerate(good):
        image(number).save(path)
    (tmp_path / "words.png").write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    (tmp_path / "bomb.png").write_bytes(bomb())
    os.mkfifo(tmp_path / "pipe.png")
    bad = [tmp_path / name for name in ("words.png", "float.tiff", "bomb.png", "pipe.png")]
    images = [bad[0], good[0], *bad[1:], good[1], tmp_path / "nowhere.png"]
    code, shown, errors, rows = predicted(folder, tmp_path / "labels.csv", *images)
    assert code == 1
    assert [row["path"] for row in rows] == [str(good[0]), f"{tmp_path}/caf\\xe9.png"]
    assert "2 images labelled" in shown
    assert errors.startswith("dgbench: 5 of 7 files cannot be read as images and have no row: ")
    assert errors.count("\n") == 1
    assert all(str(path) in errors for path in [*bad, tmp_path / "nowhere.png"])
    assert "float.tiff (its pixels are floating-point numbers" in errors


def test_labels_appear_whole_or_not_at_all(folder, tmp_path, monkeypatch):
    out = tmp_path / "labels.csv"
    out.write_text("before")
    image(0).save(tmp_path / "a.png")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        code, _, errors = command(
            "predict", "--checkpoint", folder / "last.ckpt", tmp_path / "a.png", "--out", out
        )
    assert code == 2
    assert "No space left on device" in errors
    assert out.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "labels.csv"]


def test_labels_can_be_written_to_what_no_file_can_replace(folder, tmp_path):
    image(0).save(tmp_path / "a.png")
    (tmp_path / "link.csv").symlink_to(tmp_path / "labels.csv")
    call = ("predict", "--checkpoint", folder / "last.ckpt", tmp_path / "a.png", "--out")
    assert command(*call, "/dev/null")[0] == 0
    assert Path("/dev/null").is_char_device()
    assert command(*call, tmp_path / "link.csv")[0] == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "labels.csv").read_text().startswith("path,class,probability\n")


def test_no_label_is_a_formula_and_each_reads_back(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["=1+1.png", "@a.png", "+1.png", "\t=1.png", "'a.png", "-90%"]
    for number, name in enumerate(names):
        image(number).save(name, format="PNG")
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["dgbench"]["class_names"] = ["=cmd|'/c calc'!A0", "-5"]
    torch.save(content, "other.ckpt")
    out = Path("labels.csv")
    code, _, errors = command("predict", "--checkpoint", "other.ckpt", "--out", out, "--", *names)
    assert code == 0, errors
    rows = read_csv(out)
    assert [row["path"].removeprefix("'") for row in rows] == names
    assert [row["path"] for row in rows if row["path"][0] in "=+-@\t"] == ["-90%"]
    assert {row["class"] for row in rows} <= {"'=cmd|'/c calc'!A0", "-5"}


@pytest.mark.parametrize("damage", ["truncated", "text", "foreign"])
def test_damaged_and_foreign_checkpoints_are_refused(damage, folder, tmp_path):
    path = tmp_path / "damaged.ckpt"
    content = (folder / "last.ckpt").read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "text":
        path.write_text("words")
    else:
        torch.save({"state_dict": {}}, path)
    code, _, errors = command("test", "--checkpoint", path)
    assert code == 2
    assert "cannot be read as a checkpoint" in errors


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("settings", {}),
        ("settings.network.width", 10**12),
        ("settings.network.width", -1),
        ("settings.network.backbone", "small_cnn"),
        ("settings.network.backbone", ["mlp"]),
        ("settings.trial_seed", "x"),
        ("input_shape", [10**9, 10**9, 10**9]),
        ("input_shape", [2, 14]),
        ("input_shape", 3),
        ("class_names", ["a"] * 10**5),
        ("class_names", [1, 2]),
        ("class_names", ["\ud800", "a"]),
        ("preprocessing.size", [10**6, 10**6]),
        ("preprocessing", None),
        ("views", 3),
        ("benchmark_version", None),
    ],
)
def test_a_checkpoint_that_describes_itself_wrongly_is_refused(place, value, folder, tmp_path):
    content = torch.load(folder / "last.ckpt", weights_only=True)
    *sections, name = place.split(".")
    target = content["dgbench"]
    for section in sections:
        target = target[section]
    target[name] = value
    torch.save(content, tmp_path / "other.ckpt")
    image(0).save(tmp_path / "a.png")
    call = ("predict", "--checkpoint", tmp_path / "other.ckpt", tmp_path / "a.png")
    code, _, errors = command(*call, "--out", tmp_path / "labels.csv")
    assert code == 2
    assert errors.count("\n") == 1


@pytest.mark.parametrize("damage", ["expanded", "compressed", "pipe", "longer"])
def test_a_checkpoint_asks_for_no_more_than_it_holds(damage, folder, tmp_path):
    path = tmp_path / "other.ckpt"
    content = torch.load(folder / "last.ckpt", weights_only=True)
    if damage == "expanded":
        weights = content["state_dict"]
        content["dgbench"]["settings"]["network"]["width"] = 10**9
        for name in weights:
            weights[name] = torch.zeros(1).expand(10**9, 392)
        torch.save(content, path)
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        with (
            zipfile.ZipFile(folder / "last.ckpt") as given,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made,
        ):
            for name in given.namelist():
                made.writestr(name, given.read(name) + b"0" * (damage == "longer"))
    code, _, errors = command("test", "--checkpoint", path)
    assert code == 2
    assert "cannot be read as a checkpoint" in errors


@pytest.mark.parametrize("record", ["in its record", "alone"])
def test_of_200_damages_none_is_loaded_with_other_weights(record, folder, tmp_path):
    """torch.load compares no checksum: of 200 files with a changed byte 79 loaded other weights."""
    path = tmp_path / "last.ckpt"
    whole = bytearray((folder / "last.ckpt").read_bytes())
    if record == "in its record":
        shutil.copy(folder / "done.json", tmp_path)
    path.write_bytes(whole)
    weights = dgbench.load(path).state_dict()
    draw = random.Random(0)
    refused = 0
    for _ in range(200):
        damaged = whole.copy()
        place, length = draw.randrange(len(whole)), draw.choice([1, 1, 1, 2, 64, len(whole)])
        part = damaged[place : place + length]
        damaged[place : place + length] = draw.choice(
            [draw.randbytes(len(part)), bytes(len(part)), b""]
        )
        path.write_bytes(damaged)
        try:
            loaded = dgbench.load(path).state_dict()
        except UsageError:
            refused += 1
        else:  # what lies between the parts of a file changes nothing of it
            assert all(torch.equal(loaded[name], weights[name]) for name in weights)
            assert record == "alone" or damaged == whole
    assert refused > 150


@pytest.mark.parametrize("values", [math.nan, math.inf])
def test_predict_refuses_weights_that_are_not_finite(values, folder, tmp_path):
    content = torch.load(folder / "last.ckpt", weights_only=True)
    weights = content["state_dict"]
    weights[next(name for name in weights if name.startswith("network."))].view(-1)[-1] = values
    torch.save(content, tmp_path / "last.ckpt")
    image(0).save(tmp_path / "a.png")
    call = ("predict", "--checkpoint", tmp_path / "last.ckpt", tmp_path / "a.png")
    code, _, errors = command(*call, "--out", tmp_path / "labels.csv")
    assert code == 2
    assert "weights that are not finite" in errors
    assert not (tmp_path / "labels.csv").exists()


def test_no_message_advises_to_run_what_is_in_a_checkpoint(folder, tmp_path):
    """As torch's own does, which leads to weights_only=False."""
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["more"] = Path("/")
    torch.save(content, tmp_path / "other.ckpt")
    code, _, errors = command("test", "--checkpoint", tmp_path / "other.ckpt")
    assert (code, errors.count("\n")) == (2, 1)
    assert "holds more than tensors, numbers and text" in errors
    assert "weights_only" not in errors


def test_a_checkpoint_carries_what_it_needs(folder):
    checkpoint = read(folder / "last.ckpt")
    assert checkpoint.class_names == ("5-9", "0-4")
    assert checkpoint.preprocessing.size == (14, 14)
    assert checkpoint.step == 30
