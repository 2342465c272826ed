from __future__ import annotations

import gzip
import hashlib
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import full_mnist
from datamodules.colored_mnist import ColoredMNIST
from datamodules.environments import SPLITS
from datamodules.errors import DataError
from datamodules.rotated_mnist import RotatedMNIST
from tests.real import needs_mnist

COUNTS = {"train": 6, "t10k": 4}
NAMES = tuple(full_mnist.FILES)


def small_files() -> dict[str, bytes]:
    """Files of MNIST's format with ten images."""
    files = {}
    for prefix, count in COUNTS.items():
        pixels = np.random.default_rng(count).integers(256, size=count * 784, dtype=np.uint8)
        header = np.array([2051, count, 28, 28], dtype=">u4").tobytes()
        files[f"{prefix}-images-idx3-ubyte"] = header + pixels.tobytes()
        labels = np.arange(count, dtype=np.uint8)
        header = np.array([2049, count], dtype=">u4").tobytes()
        files[f"{prefix}-labels-idx1-ubyte"] = header + labels.tobytes()
    return files


FILES = small_files()


@pytest.fixture(autouse=True)
def nowhere(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A home without data and MNIST of ten images, but for the tests of the real one."""
    if request.node.get_closest_marker("skipif"):
        return
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DGBENCH_DATA", raising=False)
    for name, content in FILES.items():
        monkeypatch.setitem(full_mnist.FILES, name, hashlib.md5(content).hexdigest())


def place(root: Path, *, packed: bool = False) -> Path:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


# Finding and reading


def test_packed_and_unpacked_files_are_the_same_data(tmp_path: Path) -> None:
    plain = full_mnist.read_mnist(place(tmp_path / "plain"), "train", "test")
    packed = full_mnist.read_mnist(place(tmp_path / "packed", packed=True), "train", "test")

    assert np.array_equal(plain.images, packed.images)
    assert np.array_equal(plain.labels, packed.labels)
    assert plain.hashes == packed.hashes
    assert list(plain.hashes) == list(NAMES)


def test_the_training_split_stands_first_and_alone_where_asked(tmp_path: Path) -> None:
    place(tmp_path)
    both = full_mnist.load_digits("mnist", str(tmp_path), download=False)
    train = full_mnist.load_digits("mnist-train", str(tmp_path), download=False)

    assert both.images.shape == (10, 28, 28)
    assert both.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert np.array_equal(train.images, both.images[:6])
    assert list(train.hashes) == list(NAMES[:2])
    assert both.images[0].tobytes() == FILES[NAMES[0]][16 : 16 + 784]
    with pytest.raises(ValueError, match="read-only"):
        both.images[0, 0, 0] = 1


def test_root_then_environment_variable_then_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cache = place(tmp_path / "home" / ".cache" / "dgbench")
    assert full_mnist.find_mnist(None, download=False) == cache
    monkeypatch.setenv("DGBENCH_DATA", str(tmp_path / "named"))
    assert full_mnist.find_mnist(None, download=False) == cache
    named = place(tmp_path / "named")
    assert full_mnist.find_mnist(None, download=False) == named
    with pytest.raises(DataError, match="given"):
        full_mnist.find_mnist(str(tmp_path / "given"), download=False)
    assert full_mnist.find_mnist("~/.cache/dgbench", download=False) == cache


@pytest.mark.parametrize("data_set", [ColoredMNIST, RotatedMNIST])
def test_missing_files_are_one_error_with_the_ways_out(
    data_set: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = place(tmp_path / "named")
    (folder / NAMES[1]).unlink()
    monkeypatch.setenv("DGBENCH_DATA", str(tmp_path / "named"))
    data = data_set(test_envs=[0], source="mnist")

    with pytest.raises(DataError) as raised:
        data.setup()
    message = str(raised.value)
    for part in (*NAMES, "named/MNIST/raw and ", ".cache/dgbench/MNIST/raw", "--data.root"):
        assert part in message
    for part in ("DGBENCH_DATA", "--data.download true", "--protocol digits"):
        assert part in message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("kept", "added"), [(900, b""), (None, b"x")])
def test_damaged_files_are_refused(
    packed: bool, kept: int | None, added: bytes, tmp_path: Path
) -> None:
    folder = place(tmp_path, packed=packed)
    path = folder / (NAMES[0] + ".gz" * packed)
    path.write_bytes(path.read_bytes()[:kept] + added)

    with pytest.raises(DataError, match=r"train-images.* is not MNIST's file \(.*delete it"):
        full_mnist.read_mnist(folder, "train")


# Fetching


def fake_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Puts a package of that name before the real one, in processes that are started."""
    package = tmp_path / "fake" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    (package / "datasets.py").write_text(f"def MNIST(root, download):\n{indented}")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))


def test_fetched_files_are_checked_and_put_in_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = place(tmp_path / "server")
    fake_torchvision(
        tmp_path,
        monkeypatch,
        f"import shutil\nshutil.copytree({str(source)!r}, root + '/MNIST/raw')",
    )
    root = tmp_path / "new"
    data = ColoredMNIST(test_envs=[0], source="mnist", root=str(root), download=True, draws=2)

    assert len(data._digits().labels) == 10
    assert sorted(path.name for path in (root / "MNIST").rglob("*")) == sorted(["raw", *NAMES])
    # What is there is not fetched again.
    fake = tmp_path / "fake" / "torchvision" / "datasets.py"
    fake.write_text("def MNIST(root, download):\n    raise OSError\n")
    assert full_mnist.find_mnist(str(root), download=True) == root / "MNIST" / "raw"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("import time\ntime.sleep(60)", "it took more than 2 s"),
        ("raise RuntimeError('no route to the server')", "no route to the server"),
        ("import sys\nsys.exit(3)", "exit status 3"),
        ("pass", "train-images-idx3-ubyte is not MNIST's file"),
    ],
)
def test_a_fetch_that_fails_is_one_error_in_time(
    body: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(full_mnist, "FETCH_SECONDS", 2.0)
    fake_torchvision(tmp_path, monkeypatch, body)

    with pytest.raises(DataError, match=reason):
        full_mnist.find_mnist(str(tmp_path / "new"), download=True)
    assert not [path for path in (tmp_path / "new").rglob("*") if path.is_file()]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(DataError, match=r"could not be fetched into .*file/MNIST/raw"):
        full_mnist.find_mnist(str(tmp_path / "file"), download=True)


def test_torchvision_is_not_imported_for_what_is_there(tmp_path: Path) -> None:
    code = (
        "import sys; import datamodules.full_mnist; sys.exit('torchvision.datasets' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Where the files lie decides nothing


def test_locations_are_in_no_fingerprint(tmp_path: Path) -> None:
    place(tmp_path / "one")
    place(tmp_path / "two", packed=True)
    one, two = (
        RotatedMNIST(test_envs=[0], source="mnist", root=str(tmp_path / name), download=flag)
        for name, flag in (("one", False), ("two", True))
    )

    assert one.fingerprint == two.fingerprint
    assert not {"root", "download"} & set(one.parameters())


# The real thing


def whole(data_set: type, **options: Any) -> Any:
    defaults: dict[str, Any] = {"test_envs": [0]}
    if data_set is ColoredMNIST:
        defaults |= {"draws": None, "holdout_draws": None}
    return data_set(**{**defaults, **options})


def close_to(values: torch.Tensor, probability: float) -> bool:
    deviation = (probability * (1 - probability) / len(values)) ** 0.5
    return bool(abs(values.double().mean() - probability) < 5 * deviation)


def assert_colored_rates(data: ColoredMNIST) -> None:
    labels = torch.tensor(data._digits().labels)
    for index, agreement in enumerate((0.9, 0.8, 0.1)):
        environment = data.environment(index)
        clean = labels[environment.sources] < 5
        colours = environment.inputs.flatten(2).sum(2).argmax(1)
        assert torch.equal(colours, environment.factors["colour"])
        noisy = environment.targets != clean
        assert close_to(noisy, 0.25)
        for chosen in (noisy, ~noisy):
            assert close_to((colours == environment.targets)[chosen], agreement)
        assert abs(environment.targets.double().mean() - 0.5) < 0.02


@needs_mnist
def test_the_irm_papers_environments() -> None:
    data = whole(ColoredMNIST, source="mnist-train", holdout_fraction=0.0)
    sources = [data.environment(index).sources for index in range(3)]

    assert [len(s) for s in sources] == [25_000, 25_000, 10_000]
    assert [len(data.split_indices(index, "holdout")) for index in range(3)] == [0, 0, 0]
    assert torch.cat(sources[:2]).sort().values.tolist() == list(range(50_000))
    assert sources[2].tolist() == list(range(50_000, 60_000))
    assert data.environment(0).inputs.shape[1:] == (2, 14, 14)
    assert_colored_rates(data)
    other = whole(ColoredMNIST, source="mnist-train", holdout_fraction=0.0, data_seed=1)
    assert not torch.equal(other.environment(0).sources, sources[0])
    assert not torch.equal(other.environment(2).targets, data.environment(2).targets)


@needs_mnist
def test_domainbeds_colored_environments() -> None:
    data = whole(ColoredMNIST, source="mnist", image_size=28)

    assert [len(data.split_indices(index, "main")) for index in range(3)] == [
        18_668,
        18_667,
        18_667,
    ]
    assert [len(data.split_indices(index, "holdout")) for index in range(3)] == [4_666] * 3
    assert data.environment(0).inputs.shape[1:] == (2, 28, 28)
    assert_colored_rates(data)
    assert_each_image_once(data)


@needs_mnist
def test_domainbeds_rotated_environments() -> None:
    data = whole(RotatedMNIST, source="mnist")
    mains, holdouts = (
        [len(data.split_indices(index, split)) for index in range(6)] for split in SPLITS
    )

    assert [m + h for m, h in zip(mains, holdouts, strict=True)] == [11_667] * 4 + [11_666] * 2
    assert holdouts == [2_333] * 6
    assert data.environment(3).inputs.shape[1:] == (1, 28, 28)
    assert data.environment(0).targets.bincount().min() > 900
    assert_each_image_once(data)


def assert_each_image_once(data: ColoredMNIST | RotatedMNIST) -> None:
    pools = [
        set(data.environment(index).sources[data.split_indices(index, split)].tolist())
        for index in range(len(data.environment_names))
        for split in SPLITS
    ]
    assert all(not one & other for one, other in itertools.combinations(pools, 2))
    assert set().union(*pools) == set(range(70_000))


@needs_mnist
def test_full_mnist_is_torchvisions() -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    folder = full_mnist.find_mnist(None, download=False)
    digits = full_mnist.read_mnist(folder, "train", "test")

    for part, start in ((True, 0), (False, 60_000)):
        theirs = datasets.MNIST(folder.parent.parent, train=part)
        count = len(theirs.targets)
        assert np.array_equal(digits.images[start : start + count], theirs.data.numpy())
        assert digits.labels[start : start + count].tolist() == theirs.targets.tolist()


@needs_mnist
def test_mlxtends_digits_are_among_them() -> None:
    from datamodules.mnist import digits

    folder = full_mnist.find_mnist(None, download=False)
    train = {image.tobytes() for image in full_mnist.read_mnist(folder, "train").images}
    assert sum(image.tobytes() in train for image in digits().images) == 5_000
