from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from datamodules.base import EnvironmentDataModule
from datamodules.environments import EnvironmentData, Split, split_main_holdout
from datamodules.errors import DataError
from datamodules.preprocessing import Preprocessing
from datamodules.seeds import derive_seed
from datamodules.streams import EnvironmentBatch, MainSplit, TrainingStream

SIZES = (20, 31, 43, 10)


class Shapes(EnvironmentDataModule):
    """Four environments of numbered samples."""

    environment_names = ("art", "cartoon", "photo", "-sketch")
    environment_aliases: Mapping[str, str] = {"sketch": "-sketch"}
    class_names = ("circle", "square", "star")
    input_shape = (2,)
    generator_version = 1
    overlap = 0
    loads = 0

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing("L", (1, 2), "bilinear", (0.0,), (1.0,))

    def parameters(self) -> dict[str, Any]:
        return {"overlap": self.overlap}

    def load_environment(self, index: int) -> EnvironmentData:
        self.loads += 1
        samples = torch.arange(SIZES[index])
        main, holdout = split_main_holdout(SIZES[index], 0.3, self.data_seed, "shapes", index)
        return EnvironmentData(
            inputs=torch.stack([samples.float(), torch.full(samples.shape, float(index))], dim=1),
            targets=samples % 3,
            sources=samples + (100 - self.overlap) * index,
            main=main,
            holdout=holdout,
        )


def make(**options: Any) -> Shapes:
    return Shapes(**{"test_envs": [3], **options})


def test_train_environments_are_all_others_in_order() -> None:
    data = make(test_envs=["photo", 0])

    assert data.test_environments == (2, 0)
    assert data.train_environments == (1, 3)


def test_environments_may_be_named_left_out_and_aliased() -> None:
    data = make(test_envs=["sketch"], train_envs=["photo", "1"])

    assert data.test_environments == (3,)
    assert data.train_environments == (2, 1)
    assert make(test_envs=["-sketch"]).test_environments == (3,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"test_envs": ["foto"]},
            r"test_envs: no environment is called 'foto'; did you mean 'photo'\? choose from "
            r"0 = art, 1 = cartoon, 2 = photo, 3 = -sketch = sketch",
        ),
        ({"test_envs": [4]}, "test_envs: index 4 is out of range"),
        ({"test_envs": [-1]}, "test_envs: index -1 is out of range"),
        ({"train_envs": ["oil"]}, "train_envs: no environment is called 'oil'; choose from"),
        ({"test_envs": [1, "cartoon"]}, "test_envs names 'cartoon' twice"),
        ({"train_envs": [1, 1]}, "train_envs names 'cartoon' twice"),
        ({"test_envs": [0, 1], "train_envs": [1, 2]}, r"\['cartoon'\] stands in test_envs and in"),
        ({"test_envs": [0, 1, 2, 3]}, "leaves nothing to train on; hold out fewer of"),
        ({"train_envs": []}, "leaves nothing to train on"),
        ({"steps": 0}, "steps is 0; give 1 or more"),
        ({"batch_size": 0}, "batch_size is 0; give 1 or more, or 'full'"),
        ({"batch_size": "all"}, "batch_size is 'all'; give 1 or more, or 'full'"),
        ({"sampling": "bootstrap"}, r"sampling is 'bootstrap'; choose one of \('permutation',"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**options)


def test_setup_loads_each_environment_once() -> None:
    data = make()
    data.setup()
    data.setup("fit")
    data.environment(0)

    assert data.loads == 4


def test_environments_that_share_sources_are_refused_unless_declared() -> None:
    class Overlapping(Shapes):
        overlap = 90

    class Declared(Overlapping):
        shares_sources = True
        overlap = 0

    with pytest.raises(DataError, match=r"source image 1[0-9] stands in art/"):
        Overlapping(test_envs=[0]).setup()
    Declared(test_envs=[0]).setup()


def test_fingerprints_do_not_depend_on_the_run() -> None:
    expected = make().fingerprints()
    others: list[dict[str, Any]] = [
        {"test_envs": [0, 1]},
        {"train_envs": [0]},
        {"trial_seed": 5},
        {"steps": 9, "batch_size": "full", "sampling": "replacement"},
    ]

    assert list(expected) == [
        f"{name}/{split}" for name in Shapes.environment_names for split in ("main", "holdout")
    ]
    assert len(set(expected.values())) == 8
    assert all(make(**options).fingerprints() == expected for options in others)


def test_fingerprints_depend_on_seed_parameters_version_and_source_files() -> None:
    class Newer(Shapes):
        generator_version = 2

    class OtherFile(Shapes):
        def source_hashes(self) -> dict[str, str]:
            return {"digits.csv": "ab" * 32}

    for subclass in (Newer, OtherFile):
        subclass.__name__ = "Shapes"
    wider = make()
    wider.overlap = 50

    prints = [
        make().fingerprint,
        make(data_seed=1).fingerprint,
        Newer(test_envs=[3]).fingerprint,
        OtherFile(test_envs=[3]).fingerprint,
        wider.fingerprint,
    ]
    assert len(set(prints)) == 5


def test_training_stream_holds_the_main_splits_of_the_training_environments() -> None:
    data = make(test_envs=["photo"], trial_seed=4, steps=50, batch_size=5)
    stream = data.train_dataloader()
    reference = TrainingStream(
        [MainSplit.of(index, data.environment(index)) for index in (0, 1, 3)],
        batch_size=5,
        seed=derive_seed(4, "batches"),
        steps=50,
    )
    seen: list[set[int]] = [set(), set(), set()]

    assert len(stream) == 50
    for step, batch in enumerate(stream):
        assert torch.equal(batch.indices, reference.batch(step).indices)
        assert 2.0 not in batch.inputs[:, 1]
        for position in range(3):
            seen[position] |= set(batch.indices[batch.environment == position].tolist())
    for position, index in enumerate((0, 1, 3)):
        assert seen[position] == set(data.split_indices(index, "main").tolist())
        assert not seen[position] & set(data.split_indices(index, "holdout").tolist())


def test_batch_order_depends_on_the_trial_seed_alone() -> None:
    first = make(trial_seed=0).train_dataloader().batch(0)

    assert torch.equal(first.indices, make(trial_seed=0).train_dataloader().batch(0).indices)
    assert not torch.equal(first.indices, make(trial_seed=1).train_dataloader().batch(0).indices)


@pytest.mark.parametrize("split", ["main", "holdout"])
@pytest.mark.parametrize("world_size", [1, 2, 3, 40])
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_evaluation_covers_each_index_once(split: Split, world_size: int, batch_size: int) -> None:
    data = make()

    for index in range(4):
        seen: list[int] = []
        for rank in range(world_size):
            batches = data.evaluation_batches(
                index, split, batch_size=batch_size, rank=rank, world_size=world_size
            )
            own: list[int] = []
            for inputs, targets, indices in batches:
                assert 0 < len(inputs) == len(targets) == len(indices) <= batch_size
                assert torch.equal(inputs, data.environment(index).inputs[indices])
                assert torch.equal(targets, data.environment(index).targets[indices])
                own += indices.tolist()
            assert own == data.split_indices(index, split)[rank::world_size].tolist()
            seen += own
        assert sorted(seen) == data.split_indices(index, split).tolist()


def test_plain_loaders_hold_holdout_and_test_splits_in_order() -> None:
    data = make(test_envs=["photo", "art"])
    expected: list[tuple[int, Split]] = [(1, "holdout"), (3, "holdout"), (2, "main"), (0, "main")]
    loaders = [*data.val_dataloader(), *data.test_dataloader()]

    for loader, (index, split) in zip(loaders, expected, strict=True):
        inputs, targets = (torch.cat(parts) for parts in zip(*loader, strict=True))
        chosen = data.split_indices(index, split)
        assert torch.equal(inputs, data.environment(index).inputs[chosen])
        assert torch.equal(targets, data.environment(index).targets[chosen])


class Recorder(pl.LightningModule):
    """Notes the batches it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 3)
        self.seen: list[list[int]] = []
        self.types: set[torch.dtype] = set()

    def training_step(self, batch: EnvironmentBatch, batch_index: int) -> Tensor:
        self.seen.append(batch.indices.tolist())
        self.types.add(batch.inputs.dtype)
        loss: Tensor = torch.nn.functional.cross_entropy(self.layer(batch.inputs), batch.targets)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Path, max_steps: int, **options: Any) -> tuple[Recorder, pl.Trainer]:
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        precision=options.pop("precision", "32-true"),
    )
    model = Recorder()
    trainer.fit(model, datamodule=make(steps=7, batch_size=5), **options)
    return model, trainer


@pytest.mark.filterwarnings("ignore")
def test_lightning_resumes_a_stream_in_the_middle(tmp_path: Path) -> None:
    uninterrupted, _ = train(tmp_path, 7)
    killed, trainer = train(tmp_path, 3)
    trainer.save_checkpoint(tmp_path / "killed.ckpt")
    resumed, _ = train(tmp_path, 7, ckpt_path=tmp_path / "killed.ckpt")

    assert len(uninterrupted.seen) == 7
    assert killed.seen + resumed.seen == uninterrupted.seen


@pytest.mark.filterwarnings("ignore")
def test_lightning_converts_batches_to_double_precision(tmp_path: Path) -> None:
    model, _ = train(tmp_path, 2, precision="64-true")

    assert model.types == {torch.float64}


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, datamodules; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"

    subprocess.run([sys.executable, "-c", code], check=True)
