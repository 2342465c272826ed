"""A checkpoint on its own: the record's numbers exactly, labels for new images, a plain module."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import dgbench
from datamodules.colored_mnist import ColoredMNIST
from dgbench.checkpoints import read, score
from leaderboard import records
from tests.dgbench.tiny import command, fit


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


def test_a_checkpoint_carries_what_it_needs(folder):
    checkpoint = read(folder / "last.ckpt")
    assert checkpoint.class_names == ("5-9", "0-4")
    assert checkpoint.preprocessing.size == (14, 14)
    assert checkpoint.step == 30
