"""PACS's official lists, on a tree like its own that the tests make."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.errors import DataError
from datamodules.pacs import PACS
from tests.folders import make_tree

CLASSES = ("dog", "elephant", "giraffe")
LISTS = "Train val splits and h5py files pre-read"


def make_lists(parent: Path, ending: str = "\n") -> Path:
    """Writes the images and the authors' lists beside them: path, space, a label from 1.

    Of each class's five images the first four are trained on.
    """
    tree = make_tree(parent / "kfold", PACS.environment_names, CLASSES)
    (parent / LISTS).mkdir()
    for environment in PACS.environment_names:
        for part, numbers in (("train", (3, 0, 2, 1)), ("crossval", (4,)), ("test", range(5))):
            lines = [
                f"{environment}/{name}/{number}.png {label}"
                for label, name in enumerate(CLASSES, start=1)
                for number in numbers
            ]
            file = parent / LISTS / f"{environment}_{part}_kfold.txt"
            file.write_bytes("".join(line + ending for line in lines).encode())
    assert tree == parent / "kfold"
    return parent


def make(root: Path, **options) -> PACS:
    given = {"splits": "official", "test_envs": ["sketch"], "image_size": 8, **options}
    data = PACS(root=str(root), cache=str(root.parent / "cache"), **given)
    data.setup()
    return data


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("root", [".", "kfold"])
def test_main_is_the_training_list_and_holdout_the_validation_list(root, ending, tmp_path):
    data = make(make_lists(tmp_path / "PACS", ending) / root, data_seed=3)
    for index in range(4):
        names = [sample.name for sample in data.samples(index)]
        main, holdout = (
            {names[row] for row in data.split_indices(index, split)}
            for split in ("main", "holdout")
        )
        assert main == {f"{label}/{n}.png" for label in CLASSES for n in range(4)}
        assert holdout == {f"{label}/4.png" for label in CLASSES}


def test_a_class_is_that_of_the_folder_and_not_the_lists_number_which_counts_from_1(tmp_path):
    data = make(make_lists(tmp_path / "PACS"))
    assert data.environment(0).targets.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert data.class_names == CLASSES


def test_the_official_splits_are_part_of_the_fingerprint(tmp_path):
    root = make_lists(tmp_path / "PACS")
    assert make(root).fingerprint != make(root, splits="random").fingerprint


def test_without_the_lists_it_says_where_it_looked(tmp_path):
    root = make_tree(tmp_path / "PACS", PACS.environment_names, CLASSES)
    with pytest.raises(DataError, match=r"art_painting_train_kfold\.txt is not there: looked in"):
        make(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # As of copies without the image that Dassl leaves out.
        (
            lambda text: text.replace("dog/2", "dog/n02-1"),
            r"1 images are in no list \(dog/2\.png\)",
        ),
        (lambda text: text + "sketch/dog/7.png 1\n", r"1 names have no image \(dog/7\.png\)"),
        (lambda text: text + "sketch/dog/4.png 1\n", r"1 are listed twice \(dog/4\.png\)"),
    ],
)
def test_lists_that_do_not_fit_the_images_are_refused(change, message, tmp_path):
    root = make_lists(tmp_path / "PACS")
    file = root / LISTS / "sketch_train_kfold.txt"
    file.write_text(change(file.read_text()))
    with pytest.raises(DataError, match=rf"lists of sketch do not fit its images: .*{message}"):
        make(root)
