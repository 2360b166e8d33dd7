"""Near duplicates: a 64-bit perceptual hash finds candidates, a coarse colour grid confirms them.

The hash (pHash, imagehash) sees only grey: a red and a blue star would be one picture to it. So a pair counts only if
no cell of a 16 × 16 RGB grid differs by more than a tolerance. Among 1,000 of the project's drawn scenes the hash
alone finds 494 pairs within 4 bits, the two together none. Re-encoding (JPEG quality 30), scaling to a third and 10 %
more light stay within both on each of eight photographs; cropping 2 % off each side does not: embeddings see that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 16  # cells of the colour grid, a side
COLOUR_BYTES = SIDE * SIDE * 3

Pairs = NDArray[np.int64]  # (m, 2), first < second
ReadColours = Callable[[NDArray[np.int64]], NDArray[np.uint8]]  # (n,) -> (n, COLOUR_BYTES)


def perceptual_hash(image: Image.Image) -> int:
    """64 bits of the low frequencies of a grey 32 × 32 copy."""
    import imagehash

    bits = imagehash.phash(image).hash
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def colours(image: Image.Image) -> bytes:
    """Mean colours of a SIDE × SIDE grid over an RGB picture."""
    return image.resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def hamming_pairs(hashes: NDArray[np.uint64], radius: int) -> Pairs:
    """Every pair of `hashes` (n,) that differ in at most `radius` bits; exact.

    Multi-index hashing (Norouzi et al., 2012) in its block-permutation form (Manku et al., 2007): cut the 64 bits into
    m blocks; two hashes within the radius agree in at least m - radius of them, so sorting by every choice of
    m - radius blocks brings each such pair together. m is chosen for the least expected work; memory is O(n + pairs).
    """
    n = len(hashes)
    if n < 2:
        return np.empty((0, 2), dtype=np.int64)
    found = []
    blocks = _blocks(n, radius)
    for chosen in combinations(range(len(blocks)), len(blocks) - radius):
        mask = np.uint64(sum(blocks[b] for b in chosen))
        keys = hashes & mask
        order = np.argsort(keys, kind="stable")
        keys, ordered = keys[order], hashes[order]
        # Neighbours 1, 2, 3 … apart in sorted order, as long as their keys agree.
        active = np.flatnonzero(keys[1:] == keys[:-1])
        step = 1
        while len(active):
            near = active[np.bitwise_count(ordered[active] ^ ordered[active + step]) <= radius]
            if len(near):
                ends = np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1)
                found.append(ends[:, 0] * n + ends[:, 1])
            step += 1
            active = active[active + step < n]
            active = active[keys[active + step] == keys[active]]
        if len(found) > 64:
            found = [np.unique(np.concatenate(found))]
    codes = np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)
    return np.stack([codes // n, codes % n], axis=1).astype(np.int64)


def _blocks(n: int, radius: int) -> list[int]:
    """Bit masks of the blocks that make the search of `n` random hashes cheapest."""

    def cost(m: int) -> float:
        bucket: float = n / 2.0 ** ((m - radius) * (64 // m))
        return comb(m, radius) * n * (log2(n) + bucket)

    m = min(range(radius + 1, min(radius + 8, 64) + 1), key=cost)
    edges = [64 * b // m for b in range(m + 1)]
    return [(1 << edges[b + 1]) - (1 << edges[b]) for b in range(m)]


@dataclass(frozen=True)
class Nearness:
    """Which of n pictures are near one another.

    `cell` int64 (n,): pictures of one cell have the same hash and like colours; `edges` (m, 2) joins near cells;
    `group` int64 (n,): connected cells.
    """

    cell: NDArray[np.int64]
    edges: Pairs
    group: NDArray[np.int64]

    def neighbours(self) -> dict[int, list[int]]:
        """cell -> near cells, of those that have any."""
        near: dict[int, list[int]] = {}
        for a, b in self.edges.tolist():
            near.setdefault(a, []).append(b)
            near.setdefault(b, []).append(a)
        return near


def same_only(labels: NDArray[Any]) -> Nearness:
    """Nearness where only pictures with equal labels are near."""
    cell = np.unique(labels, return_inverse=True)[1].astype(np.int64).ravel()
    return Nearness(cell, np.empty((0, 2), dtype=np.int64), cell)


def find_near(
    hashes: NDArray[np.uint64],
    read_colours: ReadColours,
    radius: int,
    tolerance: int,
    more: Pairs | None = None,
) -> Nearness:
    """Group pictures by hash and colours; `more` are pairs of pictures known to be near by other means.

    Within one hash, pictures gather around the first of each colour, so a thousand copies cost a thousand comparisons.
    """
    unique, of_hash = np.unique(hashes, return_inverse=True)
    cell, leaders, first_cell = _cells(of_hash.ravel(), len(unique), read_colours, tolerance)
    edges = []
    counts = np.diff(np.append(first_cell, len(leaders)))
    pairs = hamming_pairs(unique, radius) if radius else np.empty((0, 2), dtype=np.int64)
    for start in range(0, len(pairs), 1 << 16):
        block = _cell_pairs(pairs[start : start + (1 << 16)], first_cell, counts)
        for part in range(0, len(block), 1 << 12):  # 2 × 3 MB of colours at a time
            some = block[part : part + (1 << 12)]
            edges.append(some[_alike(leaders[some[:, 0]], leaders[some[:, 1]], read_colours, tolerance)])
    if more is not None and len(more):
        joined = np.sort(cell[more], axis=1)
        edges.append(joined[joined[:, 0] != joined[:, 1]])
    every = np.unique(np.concatenate(edges), axis=0) if edges else np.empty((0, 2), dtype=np.int64)
    return Nearness(cell, every, connected(len(leaders), every)[cell])


def _cells(
    of_hash: NDArray[Any], hashes: int, read_colours: ReadColours, tolerance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """cell of each picture, leader of each cell, first cell of each hash; a hash's cells lie side by side."""
    n = len(of_hash)
    order = np.argsort(of_hash, kind="stable")
    starts = np.searchsorted(of_hash[order], np.arange(hashes))
    sizes = np.diff(np.append(starts, n))
    extra: dict[int, tuple[NDArray[np.int64], list[int]]] = {}  # hash -> its pictures' cells, its leaders
    cells_of = np.ones(hashes, dtype=np.int64)
    for number in np.flatnonzero(sizes > 1).tolist():
        members = order[starts[number] : starts[number] + sizes[number]]
        local, heads = _gather(members, read_colours, tolerance)
        extra[number] = local, heads
        cells_of[number] = len(heads)
    first_cell = np.concatenate([[0], np.cumsum(cells_of)[:-1]]).astype(np.int64)
    cell = first_cell[of_hash]
    leaders = np.empty(int(cells_of.sum()), dtype=np.int64)
    leaders[first_cell] = order[starts]
    for number, (local, heads) in extra.items():
        members = order[starts[number] : starts[number] + sizes[number]]
        cell[members] = first_cell[number] + local
        leaders[first_cell[number] : first_cell[number] + len(heads)] = heads
    return cell, leaders, first_cell


def _gather(members: NDArray[np.int64], read_colours: ReadColours, tolerance: int) -> tuple[Pairs, list[int]]:
    if tolerance >= 255:
        return np.zeros(len(members), dtype=np.int64), [int(members[0])]
    local = np.empty(len(members), dtype=np.int64)
    heads: list[int] = []
    grids = np.empty((16, COLOUR_BYTES), dtype=np.int16)
    for start in range(0, len(members), 1024):
        block = members[start : start + 1024]
        for i, grid in enumerate(read_colours(block).astype(np.int16)):
            near = np.abs(grids[: len(heads)] - grid).max(axis=1, initial=0) <= tolerance
            if near.any():
                local[start + i] = int(np.argmax(near))
                continue
            if len(heads) == len(grids):
                grids = np.concatenate([grids, np.empty_like(grids)])
            grids[len(heads)] = grid
            local[start + i] = len(heads)
            heads.append(int(block[i]))
    return local, heads


def _cell_pairs(pairs: Pairs, first_cell: NDArray[np.int64], counts: NDArray[np.int64]) -> Pairs:
    """Every cell of one hash with every cell of the other."""
    a, b = pairs[:, 0], pairs[:, 1]
    many = counts[a] * counts[b]
    row = np.repeat(np.arange(len(pairs)), many)
    within = np.arange(len(row)) - np.repeat(np.cumsum(many) - many, many)
    left = first_cell[a][row] + within // counts[b][row]
    return np.stack([left, first_cell[b][row] + within % counts[b][row]], axis=1)


def _alike(a: NDArray[np.int64], b: NDArray[np.int64], read_colours: ReadColours, tolerance: int) -> NDArray[np.bool_]:
    if tolerance >= 255:
        return np.ones(len(a), dtype=np.bool_)
    difference = np.abs(read_colours(a).astype(np.int16) - read_colours(b).astype(np.int16))
    return np.asarray(difference.max(axis=1, initial=0) <= tolerance)


def connected(n: int, edges: Pairs) -> NDArray[np.int64]:
    """The smallest member of each one's connected component, int64 (n,)."""
    label = np.arange(n, dtype=np.int64)
    while True:
        smaller = np.minimum(label[edges[:, 0]], label[edges[:, 1]])
        after = label.copy()
        for end in (0, 1):
            np.minimum.at(after, label[edges[:, end]], smaller)  # hooks whole trees, so that chains halve
            np.minimum.at(after, edges[:, end], smaller)
        after = after[after]
        if np.array_equal(after, label):
            return label
        label = after


def drop_near(nearness: Nearness, prefer: Sequence[int] | NDArray[np.int64], split: NDArray[Any]) -> Pairs:
    """Pairs (dropped, kept): going through `prefer`, a picture stays unless one near it in its split stays already.

    So each dropped picture is near one that stays: chains do not wander off.
    """
    near = nearness.neighbours()
    sizes = np.bincount(nearness.cell)
    kept: dict[tuple[int, int], int] = {}
    dropped = []
    for picture in prefer:
        picture = int(picture)
        own = int(nearness.cell[picture])
        if sizes[own] == 1 and own not in near:
            continue
        part = int(split[picture])
        holder = next((kept[c, part] for c in (own, *near.get(own, ())) if (c, part) in kept), None)
        if holder is None:
            kept[own, part] = picture
        else:
            dropped.append((picture, holder))
    return np.asarray(dropped, dtype=np.int64).reshape(-1, 2)
