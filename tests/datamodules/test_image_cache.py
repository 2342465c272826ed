"""Images decoded once: equal to Pillow's, whole or not there at all."""

from __future__ import annotations

import errno
import io
import json
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from datamodules.decoding import Decoder, Reading
from datamodules.errors import DataError
from datamodules.image_cache import INDEX_FILE, ImageCache
from tests.folders import image

SIZE = 8


def make(folder: Path, files: list[Path], **options) -> tuple[ImageCache, list[str]]:
    """A cache of some files, and what it says."""
    said: list[str] = []
    decoder = Decoder(SIZE, options.pop("truncated", "refuse"))
    given = {"keep_pixels": True, "say": said.append, **options}
    cache = ImageCache("animals", files, decoder, folder=folder / "cache", **given)
    return cache, said


def images(folder: Path, count: int = 3) -> list[Path]:
    paths = [folder / f"{number}.png" for number in range(count)]
    for number, path in enumerate(paths):
        image(number).save(path)
    return paths


def scaled(shown: Image.Image) -> np.ndarray:
    """What evaluation sees, by Pillow alone."""
    small = shown.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return np.asarray(small).transpose(2, 0, 1)


def cut(path: Path) -> Path:
    """A JPEG that ends halfway."""
    stream = io.BytesIO()
    image(1, (64, 64)).save(stream, "JPEG")
    path.write_bytes(stream.getvalue()[: len(stream.getvalue()) // 2])
    return path


@pytest.mark.parametrize("keep_pixels", [True, False])
def test_pixels_are_pillows_and_the_second_time_nothing_is_decoded(keep_pixels, tmp_path):
    files = images(tmp_path)
    cache, said = make(tmp_path, files, keep_pixels=keep_pixels)
    pixels, readings = cache.open()
    expected = np.stack([scaled(Image.open(path)) for path in files])
    assert np.array_equal(pixels.read(np.array([2, 0, 1])), expected[[2, 0, 1]])
    assert pixels.shape == expected.shape
    assert pixels.read(np.array([], np.int64)).shape == (0, 3, SIZE, SIZE)
    assert len(said) == 2
    again, silent = make(tmp_path, files, keep_pixels=keep_pixels)
    assert again.open()[1] == readings
    assert silent == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda home: (home / INDEX_FILE).write_text("[]"),
        lambda home: (home / INDEX_FILE).write_text('{"stamps": '),
        lambda home: (home / INDEX_FILE).write_text(json.dumps({"readings": [[1] * 9]})),
        lambda home: os.truncate(next(home.glob("*.npy")), 200),
        lambda home: next(home.glob("*.npy")).unlink(),
    ],
)
def test_a_damaged_cache_is_made_anew(damage, tmp_path):
    files = images(tmp_path)
    cache, _ = make(tmp_path, files)
    before = cache.open()[0].read(np.arange(3))
    (home,) = (tmp_path / "cache").iterdir()
    damage(home)
    again, said = make(tmp_path, files)
    assert np.array_equal(again.open()[0].read(np.arange(3)), before)
    assert len(said) == 2


def test_a_changed_file_is_decoded_again_and_the_old_pixels_go(tmp_path):
    files = images(tmp_path)
    make(tmp_path, files)[0].open()
    image(7, (9, 9)).save(files[1])
    os.utime(files[1], ns=(1, 1))
    pixels, readings = make(tmp_path, files)[0].open()
    assert np.array_equal(pixels.read(np.array([1]))[0], scaled(image(7, (9, 9))))
    assert (readings[1].height, readings[1].width) == (9, 9)
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_a_file_that_could_not_be_opened_is_tried_again(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    image(1).save(path)

    def closed(path: Path, most: int) -> BinaryIO:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as context:
        context.setattr("datamodules.decoding.open_regular", closed)
        assert make(tmp_path, [path])[0].open()[1][0].error == "Permission denied"
    assert make(tmp_path, [path])[0].open()[1][0].error == ""


def test_a_file_that_vanishes_behind_the_start_is_not_black_but_an_error(tmp_path):
    files = images(tmp_path)
    pixels, _ = make(tmp_path, files, keep_pixels=False)[0].open()
    files[1].unlink()
    assert pixels.read(np.array([0, 2])).any()
    with pytest.raises(DataError, match=r"1\.png can no longer be read"):
        pixels.read(np.array([0, 1]))


@pytest.mark.parametrize("keep_pixels", [True, False])
def test_of_truncated_files_what_there_is_loads_where_it_is_asked_for(keep_pixels, tmp_path):
    files = [*images(tmp_path, 20), *(cut(tmp_path / f"cut{n}.jpg") for n in range(20))]
    _, refused = make(tmp_path, files)[0].open()
    assert [bool(reading.error) for reading in refused] == 20 * [False] + 20 * [True]
    cache, _ = make(tmp_path, files, truncated="load", keep_pixels=keep_pixels)
    pixels, readings = cache.open()
    assert [reading.truncated for reading in readings] == 20 * [False] + 20 * [True]
    assert not any(reading.error for reading in readings)
    loaded = pixels.read(np.array([3, 25]))
    assert np.array_equal(loaded[0], scaled(image(3)))
    # Its upper rows are the whole image's, its lower ones grey.
    whole = scaled(image(1, (64, 64))).astype(int)
    assert np.abs(loaded[1, :, :2] - whole[:, :2]).mean() < 15
    assert np.ptp(loaded[1, :, -1]) < 3


def open_cache(folder: Path, files: list[Path], said: multiprocessing.Queue) -> None:
    cache, sentences = make(folder, files)
    pixels, _ = cache.open()
    said.put((len(sentences), int(pixels.read(np.arange(len(files))).sum())))


def test_of_two_processes_one_decodes(tmp_path):
    files = images(tmp_path, 60)
    context = multiprocessing.get_context("fork")
    said = context.Queue()
    workers = [context.Process(target=open_cache, args=(tmp_path, files, said)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = sorted(said.get(timeout=60) for _ in workers)
    for worker in workers:
        worker.join()
    assert [sentences for sentences, _ in found] == [0, 2]
    assert found[0][1] == found[1][1]


@dataclass(frozen=True)
class Meeting(Decoder):
    """Reads a part when another one has been begun as well."""

    place: Path

    def store(self, paths: Sequence[Path], pixels: Path | None, start: int) -> list[Reading]:
        (self.place / paths[0].name).touch()
        deadline = time.monotonic() + 60
        while len(list(self.place.iterdir())) < 2:
            assert time.monotonic() < deadline, "nobody reads the other part"
            time.sleep(0.01)
        return super().store(paths, pixels, start)


@pytest.mark.parametrize("keep_pixels", [True, False])
def test_the_first_decode_uses_every_core(keep_pixels, tmp_path, monkeypatch):
    """Of two parts, both are being read before anything comes out of one."""
    files = images(tmp_path, 8)
    monkeypatch.setattr("datamodules.image_cache._MANY", 8)
    monkeypatch.setattr("datamodules.image_cache._PART", 4)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    (tmp_path / "place").mkdir()
    cache, _ = make(tmp_path, files, keep_pixels=keep_pixels)
    cache = replace(cache, decoder=Meeting(SIZE, "refuse", tmp_path / "place"))
    pixels, readings = cache.open()
    assert [reading.error for reading in readings] == [""] * 8
    expected = [scaled(image(number)) for number in range(8)]
    assert np.array_equal(pixels.read(np.arange(8)), expected)


def test_too_little_room_is_said_before_anything_is_decoded(tmp_path, monkeypatch):
    files = images(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("datamodules.image_cache.shutil.disk_usage", lambda path: usage)
    cache, said = make(tmp_path, files)
    with pytest.raises(DataError, match=r"Make room there.*--data\.cache off"):
        cache.open()
    assert said == []


def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch):
    files = images(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("datamodules.image_cache.os.fsync", full)
        with pytest.raises(DataError, match="No space left on device"):
            make(tmp_path, files)[0].open()
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left in ([], ["lock"])
    assert make(tmp_path, files)[0].open()[0].read(np.array([0])).any()


def open_with_little_room(folder: Path, files: list[Path], told: multiprocessing.Queue) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        told.put(make(folder, files)[0].open())
    except DataError as error:
        told.put(str(error))


def test_a_write_that_the_system_cuts_short_leaves_nothing_behind(tmp_path):
    files = images(tmp_path, 20)
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=open_with_little_room, args=(tmp_path, files, told))
    process.start()
    assert "cannot be written" in told.get(timeout=60)
    process.join()
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert left in ([], ["lock"])
    assert make(tmp_path, files)[0].open()[0].read(np.arange(20)).any()


def saved(folder: Path, shown: Image.Image, name: str, **options) -> Path:
    shown.save(folder / name, **options)
    return folder / name


def turned(folder: Path) -> Path:
    """Stored lying on its side, with EXIF's note to turn it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(folder, image(3, (12, 6)), "turned.png", exif=exif)


UNUSUAL = {
    "palette": lambda f: saved(f, image(2).convert("P"), "a.png"),
    "grey": lambda f: saved(f, image(2).convert("L"), "a.png"),
    "transparent": lambda f: saved(f, image(2).convert("RGBA"), "a.png"),
    "CMYK": lambda f: saved(f, image(2).convert("CMYK"), "a.jpg", quality=95),
    "one pixel": lambda f: saved(f, image(2, (1, 1)), "a.png"),
    "unicode": lambda f: saved(f, image(2), "ähre 日本 \N{RABBIT}.png"),
    "long": lambda f: saved(f, image(2), "n" * 240 + ".png"),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_images_show_as_pillow_shows_them(kind, tmp_path):
    path = UNUSUAL[kind](tmp_path)
    pixels, (reading,) = make(tmp_path, [path])[0].open()
    assert reading.error == ""
    assert np.array_equal(pixels.read(np.array([0]))[0], scaled(Image.open(path)))


def test_a_turned_image_stands_upright(tmp_path):
    path = turned(tmp_path)
    pixels, (reading,) = make(tmp_path, [path])[0].open()
    assert (reading.height, reading.width) == (12, 6)
    upright = image(3, (12, 6)).transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(pixels.read(np.array([0]))[0], scaled(upright))


def test_sixteen_bits_keep_their_range(tmp_path):
    """Pillow's own conversion cuts everything above 255 off."""
    levels = np.linspace(0, 65535, 144, dtype=np.uint16).reshape(12, 12)
    path = saved(tmp_path, Image.fromarray(levels), "a.png")
    pixels, _ = make(tmp_path, [path])[0].open()
    expected = scaled(Image.fromarray((levels >> 8).astype(np.uint8)))
    assert np.abs(pixels.read(np.array([0]))[0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named_as_such(content, tmp_path):
    path = tmp_path / "text.png"
    path.write_bytes(content)
    _, (reading,) = make(tmp_path, [path])[0].open()
    assert reading.error
    assert "0x" not in reading.error  # an address differs from run to run
    assert (reading.height, reading.width, reading.truncated) == (0, 0, False)
