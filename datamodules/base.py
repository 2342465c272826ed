"""The data module that every data set shares: environments, splits, loaders, fingerprints."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, get_args

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datamodules.augmentation import Augmentation
from datamodules.environments import (
    SPLITS,
    EnvironmentData,
    Split,
    canonical_json,
    check_sources,
    resolve_environments,
    split_fingerprint,
)
from datamodules.errors import DataError
from datamodules.preprocessing import Preprocessing
from datamodules.problems import Problem
from datamodules.seeds import derive_seed
from datamodules.streams import BatchSize, MainSplit, Sampling, TrainingStream

# Activations of more convolutional images than this are too large for the allocator to keep: on a
# CPU, asking the system for them anew each time costs as much as the arithmetic.
EVALUATION_BATCH_SIZE = 128


class EnvironmentDataModule(pl.LightningDataModule, ABC):
    """A data set of several environments, some trained on and some held out.

    A subclass names its environments, says how to load one and how to preprocess an image; the rest
    is here. The data depend on the data seed and the subclass's options alone, never on what is
    held out, on the trial seed or on a global random state.

    Args:
        test_envs: environments held out, indices or names.
        train_envs: environments trained on; all others by default.
        data_seed: decides environments and splits.
        trial_seed: decides the order of batches.
        steps: batches of the training stream.
        batch_size: samples of each environment in a step, over all devices together; "full" takes
            the whole main split.
        sampling: how batches of less than everything are drawn: "permutation" goes through a fresh
            permutation of the main split in each pass, "replacement" draws each sample anew, as
            DomainBed does.

    Attributes:
        environment_names: One name an environment; none looks like an integer.
        environment_aliases: Other spellings, alias to name.
        class_names: One name a class.
        input_shape: Shape of one input, such as (channels, height, width).
        contents: How many samples of what, with the default options, for people.
        views: What there is to see of an image, as variables that may be causes (`views.VIEWS`);
            the variables of a vector are its numbers.
        generator_version: Rises with every change of the code that changes the data.
        shares_sources: Whether environments show the same source images.
        location_options: Options that say where source files are and not what is in them: they are
            in no fingerprint, and decide no run_id.
        augmentation: What happens to the images of training batches, and to no others.
        say: Told, in a sentence, what takes time.

    Raises:
        DataError: If an option is out of its range, an environment is unknown, named twice or
            both trained on and held out, or nothing is left to train on.
    """

    environment_names: tuple[str, ...]
    environment_aliases: Mapping[str, str] = {}
    class_names: tuple[str, ...]
    input_shape: tuple[int, ...]
    contents: str = ""
    views: tuple[str, ...] = ("colour", "shape")
    generator_version: int
    shares_sources: bool = False
    location_options: tuple[str, ...] = ()
    augmentation: Augmentation | None = None

    def __init__(
        self,
        *,
        test_envs: Sequence[int | str],
        train_envs: Sequence[int | str] | None = None,
        data_seed: int = 0,
        trial_seed: int = 0,
        steps: int = 1,
        batch_size: BatchSize = 64,
        sampling: Sampling = "permutation",
    ) -> None:
        super().__init__()
        _check_stream_options(steps, batch_size, sampling)
        self.say: Callable[[str], object] = lambda sentence: None
        self.data_seed = data_seed
        self.trial_seed = trial_seed
        self.steps = steps
        self.batch_size = batch_size
        self.sampling = sampling
        self.test_environments = self._resolve("test_envs", test_envs)
        self.train_environments = self._resolve(
            "train_envs",
            [i for i in range(len(self.environment_names)) if i not in self.test_environments]
            if train_envs is None
            else train_envs,
        )
        self._check_roles()

    @abstractmethod
    def load_environment(self, index: int) -> EnvironmentData:
        """Make one environment, a pure function of the data seed and `parameters`.

        Args:
            index: Which one, from 0.
        """

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing:
        """How an image of one's own becomes an input like those of this data set."""

    def parameters(self) -> dict[str, Any]:
        """Return the options that decide the data beside the data seed, as plain JSON values."""
        return {}

    def source_hashes(self) -> dict[str, str]:
        """Return the SHA-256 in hexadecimal of each source file, by a name without folders."""
        return {}

    def problems(self) -> list[Problem]:
        """Say what is wrong or unexpected in the source files, which may need reading them all."""
        return []

    def setup(self, stage: str | None = None) -> None:
        """Load every environment, once, and refuse splits that leak.

        Args:
            stage: Lightning's stage; all of them need the same data.

        Raises:
            DataError: If a source image stands in two splits.
        """
        del stage
        _ = self._environments

    def environment(self, index: int) -> EnvironmentData:
        """Return one environment, loading the data set if need be.

        Args:
            index: Which one, from 0.
        """
        return self._environments[index]

    def split_indices(self, index: int, split: Split) -> Tensor:
        """Return the sample indices of one split, (n_split,) int64, ascending.

        Args:
            index: Which environment, from 0.
            split: Which split.
        """
        return self.environment(index).indices(split)

    def fingerprints(self) -> dict[str, str]:
        """Return the fingerprint of each split, by "name/main" and "name/holdout"."""
        description = {
            "data_set": type(self).__name__,
            "generator_version": self.generator_version,
            "data_seed": self.data_seed,
            "parameters": self.parameters(),
            "source_files": self.source_hashes(),
        }
        return {
            f"{name}/{split}": split_fingerprint(data, split, {**description, "environment": name})
            for name, data in zip(self.environment_names, self._environments, strict=True)
            for split in SPLITS
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal of all `fingerprints`: equal means the same data and splits."""
        return hashlib.sha256(canonical_json(self.fingerprints())).hexdigest()

    def training_splits(self) -> list[MainSplit]:
        """Copy the main splits to train on, in training order."""
        return [MainSplit.of(index, self.environment(index)) for index in self.train_environments]

    @property
    def stream_seed(self) -> int:
        """The seed that decides the order of batches."""
        return derive_seed(self.trial_seed, "batches")

    def train_dataloader(self) -> TrainingStream:
        """Make the training stream for this rank, on its device if a trainer is attached."""
        trainer = self.trainer
        return TrainingStream(
            self.training_splits(),
            batch_size=self.batch_size,
            sampling=self.sampling,
            augmentation=self.augmentation,
            seed=self.stream_seed,
            steps=self.steps,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
            device=trainer.strategy.root_device if trainer else "cpu",
        )

    def evaluation_batches(
        self,
        index: int,
        split: Split,
        *,
        batch_size: int = EVALUATION_BATCH_SIZE,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Go through one split in index order, without augmentation, padding or repetition.

        Args:
            index: Which environment, from 0.
            split: Which split.
            batch_size: Most samples of a batch.
            rank: Takes rows rank, rank + world_size, ... of the split.
            world_size: Number of ranks.

        Yields:
            inputs (n, *shape) float32, targets (n,) int64 and sample indices (n,) int64.
        """
        data = self.environment(index)
        share = data.indices(split)[rank::world_size]
        for start in range(0, len(share), batch_size):
            chosen = share[start : start + batch_size]
            yield data.inputs.index_select(0, chosen), data.targets[chosen], chosen

    def val_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """Return one loader a training environment: its holdout, in order."""
        return [self._plain_loader(index, "holdout") for index in self.train_environments]

    def test_dataloader(self) -> list[DataLoader[tuple[Tensor, ...]]]:
        """Return one loader a test environment: its main split, in order."""
        return [self._plain_loader(index, "main") for index in self.test_environments]

    @cached_property
    def _environments(self) -> tuple[EnvironmentData, ...]:
        """All environments, checked for leaks."""
        loaded = tuple(self.load_environment(index) for index in range(len(self.environment_names)))
        check_sources(loaded, self.environment_names, shares_sources=self.shares_sources)
        return loaded

    def _resolve(self, option: str, given: Sequence[int | str]) -> tuple[int, ...]:
        """Turn environments as given into indices."""
        return resolve_environments(option, given, self.environment_names, self.environment_aliases)

    def _check_roles(self) -> None:
        """Raise DataError unless something is left to train on, and none of it is held out."""
        held_out = [self.environment_names[index] for index in self.test_environments]
        if not self.train_environments:
            raise DataError(
                f"test_envs holds out {held_out} and leaves nothing to train on; hold out fewer of "
                f"{list(self.environment_names)} or name train_envs"
            )
        both = [name for name in held_out if self._index(name) in self.train_environments]
        if both:
            raise DataError(
                f"{both} stands in test_envs and in train_envs; an environment can only be one, "
                "so take it out of either"
            )

    def _index(self, name: str) -> int:
        """Return the index of an environment's name."""
        return self.environment_names.index(name)

    def _plain_loader(self, index: int, split: Split) -> DataLoader[tuple[Tensor, ...]]:
        """Make a loader of (inputs, targets) for use with Lightning's own evaluation."""
        samples = _SplitSamples(self.environment(index), split)
        return DataLoader(samples, batch_size=EVALUATION_BATCH_SIZE, shuffle=False)


class _SplitSamples(Dataset[tuple[Tensor, ...]]):
    """The samples of a split as torch's loaders take them, read when they are asked for."""

    def __init__(self, data: EnvironmentData, split: Split) -> None:
        self._data = data
        self._indices = data.indices(split)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, position: int) -> tuple[Tensor, ...]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[tuple[Tensor, ...]]:
        chosen = self._indices[positions]
        inputs = self._data.inputs.index_select(0, chosen)
        return list(zip(inputs, self._data.targets[chosen], strict=True))


def _check_stream_options(steps: int, batch_size: BatchSize, sampling: Sampling) -> None:
    """Raise DataError for options that no stream can be made of."""
    if steps < 1:
        raise DataError(f"steps is {steps}; give 1 or more")
    if batch_size != "full" and (isinstance(batch_size, str) or batch_size < 1):
        raise DataError(f"batch_size is {batch_size!r}; give 1 or more, or 'full' for all samples")
    if sampling not in get_args(Sampling):
        raise DataError(f"sampling is {sampling!r}; choose one of {get_args(Sampling)}")
