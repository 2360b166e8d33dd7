"""Vectors and queries projected each in their own way, so that codes keep what queries ask about.

A text lies outside the cloud of the pictures, and what varies most among pictures is not what decides its scores. Of
all pairs of matrices A (of queries) and B (of vectors) with `width` rows, those are taken for which the error of
⟨A q, B x⟩ is least over the queries and the vectors: the closed form of what LeanVec-OOD looks for (Tepper et al.,
"LeanVec: Searching vectors faster by making them fit", 2023). An error in B x costs the same in every direction, so
product quantisation, which makes it small, makes the errors of scores small.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vector_index.kinds import Floats

_Moments = npt.NDArray[np.float64]


class Projection(NamedTuple):
    """Matrices float32 (width, dim): a query's is A, a vector's is B."""

    queries: Floats
    vectors: Floats


def learn(queries: _Moments, vectors: _Moments, width: int, groups: int) -> Projection:
    """Find the projection for queries and (centred) vectors of these second moments, float64 (dim, dim).

    Its coordinates come in `groups` of equal size, one after the other, whose variances have products as equal as may
    be, so that codes of one length suit all (Ge et al., "Optimized product quantization", 2013, 3.3).
    """
    values, axes = np.linalg.eigh(queries)
    values = np.maximum(values, values[-1] * 1e-7)
    root, inverse = ((axes * power) @ axes.T for power in (values**0.5, values**-0.5))
    variances, axes = np.linalg.eigh(root @ vectors @ root)
    axes = axes[:, ::-1][:, :width][:, _allocate(variances[::-1][:width], groups)]
    return Projection(*(np.ascontiguousarray(axes.T @ each, np.float32) for each in (inverse, root)))


def second_moment(vectors: Floats) -> _Moments:
    """The mean of x xᵀ, float64 (dim, dim)."""
    return (vectors.T @ vectors).astype(np.float64) / len(vectors)


def _allocate(variances: _Moments, groups: int) -> list[int]:
    """The largest left goes to the group with the smallest product that is not yet full."""
    logs = np.log(np.maximum(variances, variances[0] * 1e-9) / max(variances[-1], variances[0] * 1e-9)) + 1
    members: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros(groups)
    for number, log in enumerate(logs):
        group = int(np.argmin(sums))
        members[group].append(number)
        sums[group] += log
        if len(members[group]) == len(variances) // groups:
            sums[group] = np.inf
    return [number for group in members for number in group]
