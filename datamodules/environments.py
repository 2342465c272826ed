"""What an environment is: its samples, their main and holdout splits, their fingerprints."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from datamodules.errors import DataError
from datamodules.seeds import permutation

Split = Literal["main", "holdout"]

SPLITS: tuple[Split, ...] = ("main", "holdout")


@dataclass(frozen=True)
class EnvironmentData:
    """The samples of one environment and how they are split.

    Attributes:
        inputs: (n, *shape) float32; or `Images`, which are read when they are asked for.
        targets: (n,) int64, the class of each sample as training and evaluation see it.
        sources: (n,) int64, the number of the source image behind each sample.
        main: (n_main,) int64, ascending sample indices of the main split.
        holdout: (n_holdout,) int64, ascending sample indices of the holdout split; may be empty.
        factors: What the generator drew for each sample beside its target, such as its colour, by
            name: (n,) int64 each. Hashed with the targets; no network sees it.

    Raises:
        DataError: If lengths differ, a split is not ascending or leaves the samples, or the
            splits share a sample.
    """

    inputs: Any  # not a union: whoever made a tensor need not ask whether it is one
    targets: Tensor
    sources: Tensor
    main: Tensor
    holdout: Tensor
    factors: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        lengths = {"inputs": len(self.inputs), "targets": len(self.targets)}
        lengths |= {"sources": len(self.sources)}
        lengths |= {name: len(values) for name, values in self.factors.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"an environment needs one entry a sample everywhere, got {lengths}")
        for split in SPLITS:
            _check_indices(self.indices(split), len(self.targets), split)
        if torch.isin(self.main, self.holdout).any():
            raise DataError("main and holdout share samples; give each sample to one of them")

    def indices(self, split: Split) -> Tensor:
        """Return the sample indices of a split, (n_split,) int64, ascending."""
        return self.main if split == "main" else self.holdout


def _check_indices(indices: Tensor, count: int, split: Split) -> None:
    """Raise DataError unless `indices` ascend strictly within 0 to ``count - 1``."""
    if len(indices) == 0:
        return
    inside = int(indices[0]) >= 0 and int(indices[-1]) < count
    if not inside or not bool((indices[1:] > indices[:-1]).all()):
        raise DataError(
            f"the {split} split of an environment with {count} samples must be ascending, distinct "
            f"indices from 0 to {count - 1}"
        )


def split_main_holdout(
    count: int, holdout_fraction: float, *seed_parts: int | str
) -> tuple[Tensor, Tensor]:
    """Cut the indices 0 to ``count - 1`` into main and holdout at random.

    Args:
        count: Number of indices.
        holdout_fraction: Share of the holdout, in [0, 1); rounded down to whole indices.
        *seed_parts: The names of the draw, see `seeds.derive_seed`.

    Returns:
        Main and holdout, int64, both ascending.

    Raises:
        DataError: If `holdout_fraction` is outside [0, 1).
    """
    check_holdout_fraction(holdout_fraction)
    order = torch.from_numpy(permutation(count, *seed_parts))
    cut = int(count * holdout_fraction)
    return order[cut:].sort().values, order[:cut].sort().values


def check_holdout_fraction(holdout_fraction: float) -> None:
    """Raise DataError unless a holdout's share is in [0, 1)."""
    if not 0 <= holdout_fraction < 1:
        raise DataError(
            f"holdout_fraction is {holdout_fraction}; give a share from 0 up to, not including, 1"
        )


def check_sources(
    environments: Sequence[EnvironmentData], names: Sequence[str], *, shares_sources: bool
) -> None:
    """Refuse environments in which a source image stands where it could leak.

    Args:
        environments: All environments of a data set.
        names: Their names.
        shares_sources: False: a source image stands in one split of one environment at the most.
            True: it may stand in several environments, but in the same split of all of them.

    Raises:
        DataError: If a source image breaks the rule, naming where it stands.
    """
    owners: dict[int, str] = {}
    for data, name in zip(environments, names, strict=True):
        for split in SPLITS:
            owner = f"the {split} splits" if shares_sources else f"{name}/{split}"
            for source in set(data.sources[data.indices(split)].tolist()):
                other = owners.setdefault(source, owner)
                if other != owner:
                    raise DataError(
                        f"source image {source} stands in {other} and in {owner}; "
                        "give each source image to one split only"
                    )


def split_fingerprint(
    data: EnvironmentData, split: Split, description: Mapping[str, object]
) -> str:
    """Hash what decides one split of one environment.

    Pixels are left out: interpolated ones differ between CPU kernels.

    Args:
        data: The environment.
        split: Which split.
        description: Plain JSON values that, with the numbers hashed here, decide the pixels:
            source files, generator version, parameters, environment.

    Returns:
        SHA-256 in hexadecimal of the description and the split's indices, targets, sources and
        factors.
    """
    indices = data.indices(split)
    columns = {"targets": data.targets, "sources": data.sources, **data.factors}
    header = {**description, "split": split, "columns": list(columns), "n": len(indices)}
    digest = hashlib.sha256(canonical_json(header))
    for values in (indices, *(column[indices] for column in columns.values())):
        digest.update(values.numpy().astype("<i8").tobytes())
    return digest.hexdigest()


def canonical_json(value: object) -> bytes:
    """Write plain JSON values in the one way that fingerprints hash."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def resolve_environments(
    option: str,
    given: Sequence[int | str],
    names: Sequence[str],
    aliases: Mapping[str, str],
) -> tuple[int, ...]:
    """Turn what a user calls environments into their indices.

    Args:
        option: The option they were given to, for error messages.
        given: Indices, as integers or strings of digits, names or aliases, in any mixture.
        names: All names of the data set, by index.
        aliases: Other spellings, alias to name.

    Returns:
        The indices in the order given.

    Raises:
        DataError: If one is unknown, out of range or given twice.
    """
    entries = [given] if isinstance(given, (int, str)) else given
    indices = tuple(_resolve_environment(option, entry, names, aliases) for entry in entries)
    for position, index in enumerate(indices):
        if index in indices[:position]:
            raise DataError(f"{option} names {names[index]!r} twice; give each environment once")
    return indices


def _resolve_environment(
    option: str, entry: int | str, names: Sequence[str], aliases: Mapping[str, str]
) -> int:
    """Find the index of one environment."""
    if re.fullmatch(r"-?\d+", str(entry)):
        if 0 <= int(entry) < len(names):
            return int(entry)
        raise DataError(
            f"{option}: index {entry} is out of range; {_describe_choices(names, aliases)}"
        )
    name = aliases.get(str(entry), str(entry))
    if name in names:
        return names.index(name)
    close = difflib.get_close_matches(name, [*names, *aliases], n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise DataError(
        f"{option}: no environment is called {entry!r}; {hint}{_describe_choices(names, aliases)}"
    )


def _describe_choices(names: Sequence[str], aliases: Mapping[str, str]) -> str:
    """List every environment as index, name and aliases."""
    spellings = [
        [name, *(alias for alias, target in aliases.items() if target == name)] for name in names
    ]
    choices = ", ".join(f"{i} = {' = '.join(words)}" for i, words in enumerate(spellings))
    return f"choose from {choices}"
