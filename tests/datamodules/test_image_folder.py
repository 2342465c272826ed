"""A folder of images as environments: what training sees, and what evaluation does."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from datamodules.errors import DataError
from datamodules.image_folder import ImageFolder
from datamodules.streams import TrainingStream
from datamodules.vlcs import VLCS
from tests.folders import CLASSES, image, make_tree

SIZE = 16


def make(root: Path, **options) -> ImageFolder:
    given = {"test_envs": [2], "image_size": SIZE, "batch_size": 4, "steps": 6, **options}
    data = ImageFolder(root=str(root), cache=str(root.parent / "cache"), **given)
    data.setup()
    return data


def by_pillow(path: Path) -> torch.Tensor:
    """A file as evaluation shall see it, by Pillow and a division."""
    with Image.open(path) as file:
        small = file.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1) / 255


@pytest.mark.parametrize("augmentation", ["domainbed", "none"])
def test_no_evaluation_is_augmented_and_no_training_image_is_held_out(augmentation, tmp_path):
    data = make(make_tree(tmp_path / "images"), augmentation=augmentation)
    paths = [[sample.path for sample in data.samples(index)] for index in range(3)]
    for index in range(3):
        for split in ("main", "holdout"):
            for inputs, targets, rows in data.evaluation_batches(index, split):
                for values, target, row in zip(inputs, targets, rows, strict=True):
                    path = paths[index][row]
                    torch.testing.assert_close(values, by_pillow(path))
                    assert CLASSES[target] == path.parent.name
    stream = data.train_dataloader()
    assert isinstance(stream, TrainingStream)
    unlike = total = 0
    for step in range(6):
        batch = stream.batch(step)
        for values, target, place, row in zip(
            batch.inputs, batch.targets, batch.environment, batch.indices, strict=True
        ):
            index = data.train_environments[place]
            assert index != 2
            assert row in data.split_indices(index, "main")
            path = paths[index][row]
            assert CLASSES[target] == path.parent.name
            unlike += int((values - by_pillow(path)).abs().max() > 1e-5)
            total += 1
    assert unlike == (0 if augmentation == "none" else total)


@pytest.mark.parametrize("world_size", [2, 3])
def test_devices_augment_a_row_alike(world_size, tmp_path):
    data = make(make_tree(tmp_path / "images"), batch_size=5)

    def stream(rank: int, world_size: int) -> TrainingStream:
        return TrainingStream(
            data.training_splits(),
            batch_size=data.batch_size,
            sampling=data.sampling,
            augmentation=data.augmentation,
            seed=data.stream_seed,
            steps=data.steps,
            rank=rank,
            world_size=world_size,
            device="cpu",
        )

    whole = stream(0, 1).batch(3)
    shards = [stream(rank, world_size).batch(3) for rank in range(world_size)]
    for number, row in enumerate(whole.rows):
        place = whole.environment[number]
        shard = shards[row % world_size]
        (own,) = torch.where((shard.rows == row) & (shard.environment == place))
        torch.testing.assert_close(shard.inputs[own[0]], whole.inputs[number], rtol=0, atol=1e-6)


def test_steps_differ_and_the_same_step_comes_again(tmp_path):
    data = make(make_tree(tmp_path / "images", images=2), batch_size="full")
    first, second = data.train_dataloader(), data.train_dataloader()
    one, two = first.batch(0), first.batch(1)
    assert not torch.equal(one.inputs, two.inputs)
    assert torch.equal(second.batch(1).inputs, two.inputs)
    assert torch.equal(second.batch(0).inputs, one.inputs)


def test_classes_are_matched_by_name_and_a_missing_one_is_reported(tmp_path):
    root = make_tree(tmp_path / "images")
    for path in (root / "forest" / "cat").iterdir():
        path.unlink()
    (root / "forest" / "cat").rmdir()
    data = make(root)
    assert data.class_names == CLASSES
    assert set(data.environment(1).targets.tolist()) == {1, 2}
    assert any("forest" in p.message and "cat" in p.message for p in data.problems())


def test_a_known_set_that_is_not_there_says_what_was_looked_for_and_on_what_terms_it_is(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("DGBENCH_DATA", str(tmp_path))
    with pytest.raises(DataError, match="folders called VLCS in ") as refused:
        VLCS(test_envs=[0])
    told = str(refused.value)
    assert all(part in told for part in (str(tmp_path), "VOC2007 or VOC", VLCS.obtained_from))
    assert told.endswith(f"Licence: {VLCS.licence}.")
    make_tree(tmp_path / "VLCS", ["Caltech101", "LabelMe", "SUN09"])
    with pytest.raises(DataError, match=r"Found .*SUN09, but not \['voc2007'\]"):
        VLCS(test_envs=[0])
    with pytest.raises(DataError, match=f"looked in {tmp_path / 'nowhere'} for"):
        VLCS(root=str(tmp_path / "nowhere"), test_envs=[0])


def test_loops_of_links_and_hidden_files_are_no_images(tmp_path):
    root = make_tree(tmp_path / "images")
    for loop, target in (("again", root / "sea"), ("top", root), ("self", root / "sea/owl/self")):
        (root / "sea" / "owl" / loop).symlink_to(target, target_is_directory=True)
    (root / "root").symlink_to(root, target_is_directory=True)
    (root / "parent").symlink_to(tmp_path, target_is_directory=True)
    (root / "sea" / "owl" / ".hidden.png").write_bytes(b"")
    (root / "sea" / "owl" / "notes.txt").write_text("not an image")
    data = make(root)
    assert data.environment_names == ("desert", "forest", "sea")
    assert len(data.samples(2)) == 15


def test_a_link_to_itself_named_as_an_image_is_unreadable(tmp_path):
    root = make_tree(tmp_path / "images")
    (root / "sea" / "owl" / "me.png").symlink_to(root / "sea" / "owl" / "me.png")
    with pytest.raises(DataError, match=r"me\.png \(Too many levels of symbolic links\)"):
        make(root)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J"])
def test_a_folder_whose_name_would_act_in_a_terminal_is_refused(name, tmp_path):
    root = make_tree(tmp_path / "images")
    (root / "sea").rename(root / name)
    with pytest.raises(DataError, match=r"names with line breaks or other control") as caught:
        make(root)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_file_is_no_image(kind, tmp_path):
    root = make_tree(tmp_path / "images")
    path = root / "sea" / "cat" / "other.png"
    with socket.socket(socket.AF_UNIX) as opened:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            opened.bind(os.path.relpath(path))
        with pytest.raises(DataError, match=r"1 file that cannot be read as images: .*other\.png"):
            make(root)


@pytest.mark.parametrize("name", ["EPS", "PCX", "TGA", "ICO"])
def test_only_formats_that_are_meant_are_opened(name, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    root = make_tree(tmp_path / "images")
    image(0, (16, 16)).save(root / "sea" / "cat" / "0.png", format=name)
    with pytest.raises(DataError, match=r"no image of the formats JPEG, PNG, WEBP, BMP, GIF, TIF"):
        make(root)
    assert started == []


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "MPO"])
def test_all_formats_that_have_a_suffix_are_opened_whatever_they_are_called(name, tmp_path):
    root = make_tree(tmp_path / "images")
    path = root / "sea" / "cat" / "0.png"
    more = {"save_all": True, "append_images": [image(1)]} if name == "MPO" else {}
    image(0).save(path, format=name, **more)
    data = make(root)
    index = [sample.path for sample in data.samples(2)].index(path)
    assert torch.equal(data.environment(2).inputs[torch.tensor([index])][0], by_pillow(path))


def test_a_linked_folder_is_gone_through_once(tmp_path):
    root = make_tree(tmp_path / "images")
    outside = make_tree(tmp_path / "more", ["one"], ["owls"], images=2)
    for name in ("first", "second"):
        (root / "sea" / "owl" / name).symlink_to(outside, target_is_directory=True)
    assert len(make(root).samples(2)) == 17


def test_a_class_with_one_image_is_reported_and_trained(tmp_path):
    root = make_tree(tmp_path / "images")
    for number in range(1, 5):
        (root / "sea" / "owl" / f"{number}.png").unlink()
    data = make(root, test_envs=[0])
    assert any("sea has a single image of owl" in p.message for p in data.problems())
    assert next(iter(data.train_dataloader())).inputs.shape == (8, 3, SIZE, SIZE)


def test_names_of_all_kinds_are_names(tmp_path):
    root = make_tree(tmp_path / "images", ["désert", "日本", "sea (2)"], ["cat & dog", "c" * 250])
    undecodable = os.fsdecode(b"latin-\xe9.png")
    for environment in ("désert", "日本"):
        image(77).save(root / environment / "cat & dog" / undecodable)
    data = make(root)
    assert data.environment_names == ("désert", "sea (2)", "日本")
    assert data.class_names == ("cat & dog", "c" * 250)
    assert len(data.samples(2)) == 11
    (duplicate,) = [p.message for p in data.problems() if p.kind == "duplicate"]
    assert "latin-\\udce9.png" in duplicate


@pytest.mark.parametrize("folder", ["sea", "forest/owl"])
def test_folders_that_a_table_cannot_name_are_refused(folder, tmp_path):
    root = make_tree(tmp_path / "images")
    (root / folder).rename((root / folder).with_name(os.fsdecode(b"latin-\xe9")))
    with pytest.raises(DataError, match=r"latin-\\udce9 have names that are not UTF-8.*Rename"):
        make(root)


def _list_without_access(root: Path, told: multiprocessing.Queue) -> None:
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)  # no folder is closed to the administrator
    try:
        told.put(list(ImageFolder(root=str(root), test_envs=[0]).environment_names))
    except DataError as error:
        told.put(str(error))


@pytest.mark.parametrize(("closed", "mode"), [("sea/owl", 0o000), ("sea", 0o000), ("sea", 0o644)])
def test_a_folder_without_access_is_named(closed, mode):
    # Not in pytest's folder, which is closed to others as a whole.
    with tempfile.TemporaryDirectory() as name:
        root = make_tree(Path(name) / "images")
        Path(name).chmod(0o755)
        (root / closed).chmod(mode)
        context = multiprocessing.get_context("fork")
        told = context.Queue()
        process = context.Process(target=_list_without_access, args=(root, told))
        process.start()
        message = told.get(timeout=60)
        process.join()
        (root / closed).chmod(0o755)
    assert f"the folder {root / closed}" in message
    assert "cannot be read (Permission denied). Give access to it" in message


@pytest.mark.parametrize("content", [b"", b"text in a file named .png"])
def test_a_file_that_is_no_image_is_named_and_nothing_is_trained(content, tmp_path):
    root = make_tree(tmp_path / "images")
    (root / "sea" / "owl" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"sea has 1 file that cannot be read.*bad\.png"):
        make(root)
