"""Near duplicates: the search is exact, colours count, chains do not wander."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageEnhance

from training.prepare.near_duplicates import (
    COLOUR_BYTES,
    colours,
    connected,
    drop_near,
    find_near,
    hamming_pairs,
    perceptual_hash,
    same_only,
)


def near_grey(items: NDArray[np.int64]) -> NDArray[np.uint8]:
    return np.zeros((len(items), COLOUR_BYTES), dtype=np.uint8)


def brute(hashes: NDArray[np.uint64], radius: int) -> set[tuple[int, int]]:
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None])
    return {(a, b) for a, b in zip(*np.nonzero(distance <= radius), strict=True) if a < b}


@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 63), max_size=18)), max_size=20),
    st.sampled_from([0, 1, 3, 4, 8, 12]),
)
def test_every_pair_within_the_radius_is_found(
    bases: list[int], flips: list[tuple[int, set[int]]], radius: int
) -> None:
    values = [*bases, *(bases[i] ^ sum(1 << b for b in bits) for i, bits in flips if i < len(bases))]
    hashes = np.array(values, dtype=np.uint64)
    pairs = hamming_pairs(hashes, radius)
    assert {tuple(p) for p in pairs.tolist()} == brute(hashes, radius)
    assert len(pairs) == len({tuple(p) for p in pairs.tolist()})


@pytest.mark.parametrize("radius", [2, 4, 7])
def test_many_hashes_with_planted_neighbours(radius: int) -> None:
    rng = np.random.default_rng(radius)
    hashes = rng.integers(0, 2**64, 3000, dtype=np.uint64)
    for i in range(0, 600, 2):
        bits = rng.choice(64, rng.integers(0, 10), replace=False)
        hashes[i + 1] = hashes[i] ^ np.uint64(sum(1 << int(b) for b in bits))
    assert {tuple(p) for p in hamming_pairs(hashes, radius).tolist()} == brute(hashes, radius)


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_connected(n: int, ends: list[tuple[int, int]]) -> None:
    edges = np.array([(a, b) for a, b in ends if a < n and b < n], dtype=np.int64).reshape(-1, 2)
    label = list(range(n))
    for _ in range(n):
        for a, b in edges.tolist():
            label[a] = label[b] = min(label[a], label[b])
    assert connected(n, edges).tolist() == label


def test_a_long_chain_is_one_component() -> None:
    order = np.random.default_rng(0).permutation(2000)
    edges = np.sort(np.stack([order[:-1], order[1:]], axis=1), axis=1)
    assert set(connected(2000, edges).tolist()) == {0}


def shape(colour: str, where: int = 40) -> Image.Image:
    image = Image.new("RGB", (160, 160), "white")
    ImageDraw.Draw(image).ellipse((where, where, where + 60, where + 60), fill=colour)
    return image


def near(*images: Image.Image, radius: int = 4, tolerance: int = 32) -> list[int]:
    grids = np.stack([np.frombuffer(colours(image), dtype=np.uint8) for image in images])
    hashes = np.array([perceptual_hash(image) for image in images], dtype=np.uint64)
    return find_near(hashes, lambda items: grids[items], radius, tolerance).group.tolist()


def test_copies_are_near(picture: Callable[..., bytes]) -> None:
    photo = Image.open(io.BytesIO(picture(1, 300, 200))).convert("RGB")
    again = io.BytesIO()
    photo.save(again, "JPEG", quality=40)
    copies = [
        photo,
        Image.open(again).convert("RGB"),
        photo.resize((150, 100)),
        ImageEnhance.Brightness(photo).enhance(1.08),
    ]
    other = Image.open(io.BytesIO(picture(2, 300, 200))).convert("RGB")
    groups = near(*copies, other)
    assert len(set(groups[:4])) == 1
    assert groups[4] != groups[0]


def test_the_same_shape_in_another_colour_is_another_picture() -> None:
    red, green = shape("#d02020"), shape("#208020")
    assert bin(perceptual_hash(red) ^ perceptual_hash(green)).count("1") <= 4  # or this would test nothing
    assert len(set(near(red, green))) == 2
    assert len(set(near(red, green, tolerance=255))) == 1


def test_plain_pictures_are_told_apart_by_colour() -> None:
    plain = [Image.new("RGB", (80, 80), (v, v, v)) for v in (10, 60, 110, 160, 210)]
    assert len(set(near(*plain))) == 5
    assert len(set(near(plain[0], plain[0].copy()))) == 1


def test_dropped_pictures_are_near_a_kept_one() -> None:
    # a chain: 0-1-2-3-4, each 4 bits from the next, 8 from the one after
    hashes = np.array([0, 0xF, 0xFF, 0xFFF, 0xFFFF], dtype=np.uint64)
    nearness = find_near(hashes, near_grey, 4, 32)
    assert len(set(nearness.group.tolist())) == 1
    dropped = drop_near(nearness, [0, 1, 2, 3, 4], np.zeros(5))
    assert dropped.tolist() == [[1, 0], [3, 2]]
    assert drop_near(nearness, [0, 1, 2, 3, 4], np.arange(5)).tolist() == []  # each in a split of its own


@given(st.lists(st.integers(0, 63), min_size=1, max_size=40), st.integers(1, 3))
def test_what_is_kept_is_apart(values: list[int], radius: int) -> None:
    hashes = np.array(values, dtype=np.uint64)
    nearness = find_near(hashes, near_grey, radius, 32)
    dropped = drop_near(nearness, range(len(values)), np.zeros(len(values)))
    gone = set(dropped[:, 0].tolist())
    kept = [v for i, v in enumerate(values) if i not in gone]
    assert all((a ^ b).bit_count() > radius for i, a in enumerate(kept) for b in kept[:i])
    assert all((values[a] ^ values[b]).bit_count() <= radius and b not in gone for a, b in dropped.tolist())


def test_pairs_found_by_other_means_join() -> None:
    hashes = np.array([0, 2**63 - 1, 2**40 - 1], dtype=np.uint64)
    groups = find_near(hashes, near_grey, 4, 32, np.array([[0, 2]])).group
    assert groups[0] == groups[2] != groups[1]


def test_same_only() -> None:
    assert same_only(np.array([b"a", b"b", b"a"])).group.tolist() == [0, 1, 0]
