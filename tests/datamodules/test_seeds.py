from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from datamodules.seeds import (
    bernoulli,
    derive_seed,
    integers,
    permutation,
    raw_integers,
    uniforms,
)


def test_seed_is_the_hash_of_the_written_out_json_list() -> None:
    digest = hashlib.sha256(b'[0,"colored_mnist","\\u00e9",-2]').hexdigest()

    assert derive_seed(0, "colored_mnist", "é", -2) == int(digest[:16], 16) // 2


def test_seeds_keep_their_golden_values() -> None:
    assert derive_seed() == 2858069222894195974
    assert derive_seed(0, "batches") == 4272069234668517869
    assert derive_seed(1, "a") == 1155254847670415180


def test_draws_keep_their_golden_values() -> None:
    assert raw_integers(3, 0, "golden").tolist() == [
        5395572980468685047,
        9670752850673088974,
        1335828305940616612,
    ]
    assert uniforms(2, 0, "golden").tolist() == [0.29249459736141187, 0.5242525625135075]
    assert permutation(10, 0, "golden").tolist() == [2, 0, 8, 3, 9, 1, 7, 4, 6, 5]
    assert np.flatnonzero(bernoulli(10, 0.25, 0, "golden")).tolist() == [2]
    assert integers(10, 7, 0, "golden").tolist() == [5, 2, 5, 0, 0, 4, 1, 2, 3, 0]


def test_seeds_are_63_bit_and_tell_types_and_order_apart() -> None:
    seeds = [derive_seed(*parts) for parts in ((1,), ("1",), (1, 2), (2, 1), ("1,2",), (12,))]

    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_draws_have_their_types_and_agree_with_python_integers() -> None:
    raw = [int(value) for value in raw_integers(1000, "reference")]

    assert raw_integers(5, "reference").dtype == np.uint64
    assert permutation(1000, "reference").tolist() == sorted(range(1000), key=raw.__getitem__)
    assert permutation(1000, "reference").dtype == np.int64
    assert bernoulli(1000, 0.3, "reference").tolist() == [
        value < (0.3).as_integer_ratio()[0] * 2**64 // (0.3).as_integer_ratio()[1] for value in raw
    ]
    assert integers(1000, 97, "reference").tolist() == [value % 97 for value in raw]
    assert integers(1000, 97, "reference").dtype == np.int64


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_certain_coins_are_certain(probability: float, share: float) -> None:
    assert bernoulli(10_000, probability, "coin").mean() == share


def test_coins_and_integers_are_fair() -> None:
    count = 100_000
    deviation = (0.25 * 0.75 / count) ** 0.5

    assert abs(bernoulli(count, 0.25, "fair").mean() - 0.25) < 5 * deviation
    shares = np.bincount(integers(count, 10, "fair"), minlength=10) / count
    assert np.abs(shares - 0.1).max() < 5 * (0.09 / count) ** 0.5


def test_fewer_draws_are_the_beginning_of_more() -> None:
    assert raw_integers(7, "x").tolist() == raw_integers(100, "x")[:7].tolist()


def test_global_random_states_neither_matter_nor_move() -> None:
    expected = permutation(50, "global")
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    states = (
        random.getstate(),
        np.random.get_state(legacy=False)["state"]["key"].tolist(),
        torch.get_rng_state(),
    )

    assert permutation(50, "global").tolist() == expected.tolist()
    assert random.getstate() == states[0]
    assert np.random.get_state(legacy=False)["state"]["key"].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
