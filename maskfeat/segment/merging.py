"""Merge neighboring regions until as many are left as were asked for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def merge_nearest(
    means: npt.NDArray[np.floating],
    sizes: npt.NDArray[np.floating],
    edges: npt.NDArray[np.integer],
    num_groups: int,
    size_power: float = 0.15,
) -> IntArray:
    """Merge the two neighbors that are nearest, again and again.

    Nearest is where ||mean_a - mean_b|| * min(size_a, size_b)^size_power is smallest; of equal ones
    the first pair. Ward's criterion is close to a power of 1/2, and cuts large regions to even
    sizes; features that were learned from masks may keep them whole. All pairs are held in
    one array: for some thousand regions, not for pixels.

    Args:
        means: Mean feature of each region, shape (K, C).
        sizes: Pixels of each region, shape (K,).
        edges: Pairs of adjacent regions, shape (E, 2).
        num_groups: Groups to be left with, 1 to K; more are left if the graph falls into parts.
        size_power: How much the smaller size counts.

    Returns:
        Group of each region, int64, shape (K,), numbered in order of their first regions.
    """
    means, sizes = means.astype(np.float64), sizes.astype(np.float64)
    count = len(sizes)
    costs = np.full((count, count), np.inf)
    lengths = np.linalg.norm(means[edges[:, 0]] - means[edges[:, 1]], axis=1)
    smaller = np.minimum(sizes[edges[:, 0]], sizes[edges[:, 1]])
    costs[edges[:, 0], edges[:, 1]] = costs[edges[:, 1], edges[:, 0]] = (
        lengths * smaller**size_power
    )
    is_neighbor = np.isfinite(costs)
    least = costs.min(axis=1, initial=np.inf)  # of each row, so that a merge looks at K numbers
    groups = np.arange(count)
    for _ in range(count - num_groups):
        first = int(least.argmin())
        if not np.isfinite(least[first]):
            break  # parts that do not touch
        second = int(costs[first].argmin())
        total = sizes[first] + sizes[second]
        means[first] = (means[first] * sizes[first] + means[second] * sizes[second]) / total
        sizes[first] = total
        groups[groups == second] = first

        around = is_neighbor[first] | is_neighbor[second]
        around[[first, second]] = False
        for lost in (first, second):
            is_neighbor[lost] = is_neighbor[:, lost] = False
            costs[lost] = costs[:, lost] = np.inf
        near = np.flatnonzero(around)
        is_neighbor[first, near] = is_neighbor[near, first] = True
        costs[first, near] = costs[near, first] = (
            np.linalg.norm(means[near] - means[first], axis=1)
            * np.minimum(sizes[near], total) ** size_power
        )
        least[near] = costs[near].min(axis=1, initial=np.inf)
        least[second], least[first] = np.inf, costs[first].min()
    _, starts, inverse = np.unique(groups, return_index=True, return_inverse=True)
    numbers: IntArray = np.argsort(np.argsort(starts))[inverse].astype(np.int64)
    return numbers
