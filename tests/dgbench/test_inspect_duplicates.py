"""Copies of images: found by a search over bits that is held to comparing all pairs."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from dgbench.inspect.duplicates import (
    NEAR_BITS,
    Signatures,
    close_pairs,
    exact_groups,
    near_groups,
    signatures,
)


def pictures(count: int, *, seed: int = 0, side: int = 48) -> Tensor:
    """Smooth colour fields, no two alike, (count, 3, side, side) in [0, 1]."""
    noise = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)


def recompressed(images: Tensor, quality: int) -> Tensor:
    copies = []
    for image in images:
        stored = io.BytesIO()
        pixels = (image * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(stored, "JPEG", quality=quality)
        copies.append(np.asarray(Image.open(stored), dtype=np.float32) / 255)
    return torch.from_numpy(np.stack(copies)).permute(0, 3, 1, 2)


def halved(images: Tensor) -> Tensor:
    small = interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    return interpolate(small, images.shape[-2:], mode="bilinear")


def grey(images: Tensor) -> Tensor:
    return images.mean(dim=1, keepdim=True).expand_as(images).contiguous()


def found_pairs(hashes: np.ndarray, bits: int) -> set[frozenset[int]]:
    return {frozenset(pair) for pairs in close_pairs(hashes, bits) for pair in pairs.tolist()}


@pytest.mark.parametrize("bits", [1, 3, NEAR_BITS])
def test_the_search_finds_what_comparing_all_pairs_finds(bits):
    random = np.random.default_rng(0)
    hashes = random.integers(2**64, size=300, dtype=np.uint64)
    # Around the first fifty, 150 more of which up to nine bits are flipped; and some equal ones.
    for number, flips in enumerate(random.integers(10, size=150)):
        flipped = random.choice(64, size=flips, replace=False).astype(np.uint64)
        hashes[50 + number] = hashes[number % 50] ^ np.bitwise_or.reduce(
            np.uint64(1) << flipped, initial=np.uint64(0)
        )
    expected = {
        frozenset((first, second))
        for first, second in combinations(range(len(hashes)), 2)
        if (int(hashes[first]) ^ int(hashes[second])).bit_count() <= bits
    }
    assert len(expected) > 10
    assert found_pairs(hashes, bits) == expected


def test_the_search_compares_a_small_part_of_all_pairs(monkeypatch):
    hashes = np.random.default_rng(0).integers(2**64, size=10_000, dtype=np.uint64)
    compared, count = [], np.bitwise_count

    def counting(values: np.ndarray) -> np.ndarray:
        compared.append(len(values))
        return count(values)

    monkeypatch.setattr(np, "bitwise_count", counting)
    assert not found_pairs(hashes, NEAR_BITS)
    assert 0 < sum(compared) < 0.02 * 10_000 * 9_999 / 2


@pytest.mark.parametrize(
    "copy", [lambda x: recompressed(x, 90), halved, grey, lambda x: 0.8 * x + 0.1], ids=range(4)
)
def test_altered_copies_are_near_and_other_images_are_not(copy):
    images = pictures(60)
    signed = signatures(torch.cat([images, copy(images)]))
    places = np.repeat([0, 1], len(images))
    assert not exact_groups(signed.digests, places)
    groups = [group.tolist() for group in near_groups(signed, places)]
    assert groups == [[row, row + len(images)] for row in range(len(images))]


def test_equal_images_are_exact_copies_and_not_near_ones():
    images = pictures(5)
    signed = signatures(torch.cat([images, images[2:4], images[:1]]))
    places = np.array([0, 0, 0, 0, 0, 1, 0, 0])
    # Image 0 stands twice in one place, image 2 in two places, image 3 twice in one place.
    assert [group.tolist() for group in exact_groups(signed.digests, places)] == [[2, 5]]
    assert not near_groups(signed, places)


def test_a_chain_of_copies_is_one_group_with_every_image_of_its_places():
    image = pictures(1)
    chain = torch.cat([image, recompressed(image, 90), halved(image), image])
    found = near_groups(signatures(chain), np.array([0, 1, 2, 3]))
    assert [group.tolist() for group in found] == [[0, 1, 2, 3]]


def test_flat_images_look_like_nothing_else():
    flat = torch.linspace(0, 1, 8).reshape(-1, 1, 1, 1).expand(-1, 3, 20, 20).contiguous()
    signed = signatures(flat)
    assert not near_groups(signed, np.arange(8))
    assert len(set(signed.digests.tolist())) == 8


def test_batches_are_signed_alike():
    images = pictures(7)
    whole = signatures(images)
    parts = Signatures.joined([signatures(images[:3]), signatures(images[3:])])
    assert (whole.digests == parts.digests).all()
    assert (whole.hashes == parts.hashes).all()
    np.testing.assert_allclose(whole.thumbnails, parts.thumbnails, atol=1e-6)
