"""The command `inspect`: what a data set holds, what is wrong with it, and how it looks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import EnvironmentDataModule
from datamodules.colored_mnist import ColoredMNIST
from datamodules.environments import EnvironmentData
from datamodules.image_folder import ImageFolder
from datamodules.manifest import Manifest
from datamodules.pacs import PACS
from datamodules.preprocessing import Preprocessing
from dgbench.inspect.pictures import training_images
from tests.dgbench.test_inspect_duplicates import pictures
from tests.dgbench.tiny import DATA, command
from tests.folders import folder_options, make_tree

SETS = "tests.dgbench.test_inspect"


class Fields(EnvironmentDataModule):
    """Colour fields in three environments of two classes, each split its own images."""

    environment_names = ("north", "east", "south")
    class_names = ("calm", "rough")
    input_shape = (3, 48, 48)
    generator_version = 1
    preprocessing = Preprocessing("RGB", (48, 48), "bilinear", mean=(0.5,) * 3, std=(0.25,) * 3)

    def load_environment(self, index: int) -> EnvironmentData:
        rows = torch.arange(12)
        inputs = (pictures(12, seed=index) - 0.5) / 0.25
        return EnvironmentData(inputs, rows % 2, rows + 12 * index, rows[:9], rows[9:])


class Copied(Fields):
    """The first image of north stands in its holdout and in south, too."""

    def load_environment(self, index: int) -> EnvironmentData:
        data = super().load_environment(index)
        first = (pictures(1, seed=0) - 0.5) / 0.25
        if index in (0, 2):
            data.inputs[11] = first
        return data


class Lacking(Fields):
    """East has no rough fields and no holdout."""

    def load_environment(self, index: int) -> EnvironmentData:
        data = super().load_environment(index)
        if index != 1:
            return data
        rows = torch.arange(12)
        return EnvironmentData(data.inputs, torch.zeros_like(rows), data.sources, rows, rows[:0])


def inspected(out: Path, *arguments: object) -> tuple[int, dict]:
    code, shown, errors = command("inspect", "--out", out, "--json", *arguments)
    assert code in (0, 1), errors
    return code, json.loads(shown)


def test_it_counts_what_the_data_set_holds(tmp_path):
    code, document = inspected(tmp_path, "--data-seed", "3", *DATA)
    data = ColoredMNIST(test_envs=[], data_seed=3, draws=200, holdout_draws=50)
    assert code == 0
    assert not document["spoilt"]
    assert document["fingerprint"] == data.fingerprint
    assert document["fingerprints"] == data.fingerprints()
    for index, environment in enumerate(document["environments"]):
        assert environment["name"] == data.environment_names[index]
        for split, counts in environment["splits"].items():
            targets = data.environment(index).targets[data.split_indices(index, split)]
            assert counts == {
                name: int((targets == y).sum()) for y, name in enumerate(data.class_names)
            }


def test_it_prints_tables_and_writes_pictures(tmp_path):
    code, shown, errors = command("inspect", "--out", tmp_path, "--dataset", f"{SETS}.Fields")
    assert code == 0, errors
    assert "Nothing found that would spoil a benchmark." in shown
    assert [line.split()[1:] for line in shown.splitlines() if "all" in line] == [
        ["all", "│", "27", "│", "9", "│", "18", "│", "18", "│"]
    ]
    for name in ("classes.png", "images.png"):
        with Image.open(tmp_path / f"{SETS}.Fields" / name) as picture:
            assert min(picture.size) > 200
    assert not (tmp_path / f"{SETS}.Fields" / "duplicates.png").exists()


def test_copies_in_several_places_spoil_a_benchmark(tmp_path):
    code, document = inspected(tmp_path, "--dataset", f"{SETS}.Copied")
    assert code == 1
    (problem,) = document["problems"]
    assert problem["kind"] == "exact duplicates"
    assert problem["examples"] == ["north/main 0 = north/holdout 11 = south/holdout 11"]
    assert any(name.endswith("duplicates.png") for name in document["pictures"])
    code, shown, _ = command("inspect", "--out", tmp_path, "--dataset", f"{SETS}.Copied")
    assert code == 1
    assert "This would spoil a benchmark: exact duplicates." in shown


def test_missing_classes_spoil_a_benchmark_and_empty_holdouts_are_noted(tmp_path):
    code, document = inspected(tmp_path, "--dataset", f"{SETS}.Lacking")
    assert code == 1
    found = {problem["kind"]: problem for problem in document["problems"]}
    assert found["missing class"]["spoils"]
    assert found["missing class"]["examples"] == ["rough in east"]
    assert not found["empty split"]["spoils"]
    assert found["empty split"]["examples"] == ["east"]


def test_a_folder_shows_its_files_and_what_is_wrong_with_them(tmp_path):
    tree = make_tree(tmp_path / "tree", size=(40, 30))
    shutil.copy(tree / "desert/cat/0.png", tree / "sea/cat/copy.png")
    (tree / "sea" / "wolf").mkdir()
    (tree / "tundra" / "cat").mkdir(parents=True)
    (tree / "desert" / "cat" / "first").mkdir()
    (tree / "desert" / "cat" / "0.png").rename(tree / "desert" / "cat" / "first" / "0.png")
    options = ("--data.root", tree, "--data.image_size", 32, "--data.cache", tmp_path / "cache")
    code, document = inspected(tmp_path, "--dataset", "image_folder", *options)
    found = {problem["kind"]: problem for problem in document["problems"]}
    assert code == 1
    assert document["files"] == {"40 x 30 RGB": 46}
    (example,) = found["exact duplicates"]["examples"]
    assert example.count("cat/first/0.png") == 1
    assert example.count("sea/cat/copy.png") == 1
    assert found["empty folder"]["examples"] == [str(tree / "sea/wolf"), str(tree / "tundra")]
    assert not found["empty folder"]["spoils"]


def test_a_table_says_where_its_images_are_and_has_no_empty_folders(tmp_path):
    options = folder_options("manifest", Manifest)
    (Path(options["manifest"]).parent / "elsewhere").mkdir(exist_ok=True)
    given = [str(part) for key, value in options.items() for part in (f"--data.{key}", value)]
    _, document = inspected(tmp_path, "--dataset", "manifest", *given)
    assert "empty folder" not in {problem["kind"] for problem in document["problems"]}


def test_a_known_data_set_shows_its_terms_and_what_its_counts_should_be(tmp_path):
    tree = make_tree(tmp_path / "PACS", PACS.environment_names, images=1, size=(40, 30))
    options = ("--data.root", tree, "--data.image_size", 32, "--data.cache", tmp_path / "cache")
    _, shown, errors = command("inspect", "--dataset", "pacs", "--out", tmp_path, *options)
    assert errors == ""
    lines = " ".join(shown.split())
    assert f"Licence: {PACS.licence}. {PACS.obtained_from}" in lines
    assert "photo has 3 images where 1,670 are expected." in lines


def test_training_images_of_a_folder_are_augmented_and_evaluation_is_not(tmp_path):
    tree = make_tree(tmp_path / "tree", size=(40, 30))
    cache = str(tmp_path / "cache")
    data = ImageFolder(
        root=str(tree), image_size=32, cache=cache, test_envs=[], steps=30, batch_size=8
    )
    for (index, _), (sample, image) in training_images(data, 3, 3).items():
        (evaluated,) = data.environment(index).inputs.index_select(0, torch.tensor([sample]))
        assert image.shape == evaluated.shape
        assert not torch.equal(image, evaluated)


def test_damaged_files_are_named_and_nothing_else_is_measured(tmp_path):
    tree = make_tree(tmp_path / "tree", size=(40, 30))
    whole = (tree / "sea/owl/1.png").read_bytes()
    (tree / "sea/owl/1.png").write_bytes(whole[: len(whole) // 2])
    (tree / "desert/cat/2.png").write_text("no image")
    options = ("--data.root", tree, "--data.image_size", 32, "--data.cache", tmp_path / "cache")
    command_line = ("--dataset", "image_folder", *options)
    code, document = inspected(tmp_path, *command_line)
    assert code == 1
    where = [p["examples"] for p in document["problems"] if p["kind"] == "unreadable image"]
    assert where == [[str(tree / "desert/cat/2.png")], [str(tree / "sea/owl/1.png")]]
    code, shown, _ = command("inspect", "--out", tmp_path, *command_line)
    assert code == 1
    assert "cannot be loaded as it is" in shown


def test_images_of_training_come_from_its_own_stream():
    data = Fields(test_envs=["south"], steps=20, batch_size=4)
    found = training_images(data, environments=3, classes=2)
    assert set(found) == {(e, y) for e in (0, 1) for y in (0, 1)}
    for (index, y), (sample, image) in found.items():
        environment = data.environment(index)
        assert sample in environment.main
        assert environment.targets[sample] == y
        assert torch.equal(image, environment.inputs[sample])


def test_a_configuration_of_fit_names_the_same_data(tmp_path):
    code, written, errors = command(
        "fit", "--algo", "erm", "--test-env", "1", "--data-seed", "7", *DATA, "--print_config"
    )
    assert code == 0, errors
    path = tmp_path / "run.yaml"
    path.write_text(written)
    _, document = inspected(tmp_path, "--config", path)
    data = ColoredMNIST(test_envs=[1], data_seed=7, draws=200, holdout_draws=50)
    assert document["fingerprint"] == data.fingerprint


def test_inputs_that_are_no_images_are_counted_and_not_compared(tmp_path, monkeypatch):
    _, document = inspected(tmp_path, "--dataset", "tests.synthetic.SyntheticData")
    assert np.sum([list(e["splits"]["main"].values()) for e in document["environments"]]) == 180
    assert [Path(name).name for name in document["pictures"]] == ["classes.png"]


def test_without_matplotlib_it_says_what_is_lacking(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, shown, _ = command("inspect", "--out", tmp_path, "--dataset", f"{SETS}.Fields")
    assert code == 0
    assert "pip install 'dgbench[report]'" in shown
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--dataset", "colored_mnits"), ["colored_mnist"]),
        (("--protocol", "paper"), ["irm-paper"]),
        (("--data.drawz", "3"), ["--data.draws"]),
        (("--steps", "3"), ["no option --steps"]),
        (("--data.draws", "many"), ["data.draws", "inspect --dataset colored_mnist --help"]),
        (("--data.draws", "0"), ["draws is 0"]),
        (("--test-env", "+70%"), ["+70%", "+80%"]),
        (("--out", "/proc/nowhere", *DATA), ["/proc/nowhere", "cannot be written"]),
    ],
)
def test_misuse_is_one_message(options, expected):
    code, _, errors = command("inspect", *options)
    assert code == 2
    assert "Traceback" not in errors
    for part in expected:
        assert part in errors


def test_help_shows_the_options_of_a_data_set():
    code, shown, _ = command("inspect", "--help")
    assert code == 0
    assert "--data.name" in shown
    code, shown, _ = command("inspect", "--dataset", "colored_mnist", "--help")
    assert code == 0
    assert "--data.label_noise" in shown
