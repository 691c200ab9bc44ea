"""Ways to divide a plane, for the parts and subparts of forms in drawn scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import FloatArray, Int32Array

Field = Callable[[FloatArray, FloatArray], FloatArray]  # of u and v, shape (N,) each
Split = Callable[[FloatArray, FloatArray], Int32Array]  # likewise; 0, 1, ... for each point


def random_cells(rng: np.random.Generator, sites_uv: npt.ArrayLike, bend: float) -> Split:
    """Split a plane by the nearest of some sites, the borders bent by slow waves.

    Args:
        rng: Source of the waves.
        sites_uv: One site per answer, shape (K, 2).
        bend: How far the borders are bent, in units of the plane.

    Returns:
        The split, answers 0..K-1.
    """
    sites = np.asarray(sites_uv, np.float32)
    waves = _waves(rng, bend)

    def split(u: FloatArray, v: FloatArray) -> Int32Array:
        du, dv = waves(u, v), waves(v, u)
        away = [(u + du - site[0]) ** 2 + (v + dv - site[1]) ** 2 for site in sites]
        return np.asarray(np.argmin(np.stack(away), axis=0), np.int32)

    return split


def random_bands(rng: np.random.Generator, cuts: npt.ArrayLike, bend: float) -> Split:
    """Split a plane into bands across a random direction, bent by slow waves.

    Args:
        rng: Source of direction and waves.
        cuts: Where one band ends along the direction, increasing, shape (K - 1,).
        bend: How far the borders are bent, in units of the plane.

    Returns:
        The split, answers 0..K-1.
    """
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    edges, waves = np.asarray(cuts, np.float32), _waves(rng, bend)

    def split(u: FloatArray, v: FloatArray) -> Int32Array:
        along = u * cos + v * sin + waves(u, v)
        return np.asarray(np.searchsorted(edges, along), np.int32)

    return split


def random_subparts(rng: np.random.Generator, u: FloatArray, v: FloatArray) -> Int32Array:
    """Divide the points of one part into 2 to 4 subparts: stripes, spots or panels.

    Args:
        rng: Source of all choices.
        u: Points of the part, float32, shape (N,), N > 0.
        v: Likewise.

    Returns:
        Subpart of each point, int32 in 0..3, shape (N,).
    """
    count = int(rng.integers(2, 5))
    picks = rng.integers(len(u), size=4 * count)
    candidates = np.stack([u[picks], v[picks]], axis=1)
    extent = float(np.hypot(u.std(), v.std()))
    way = int(rng.integers(3))
    if way == 0:  # stripes of about equal area
        angle = rng.uniform(0, np.pi)
        along = u * np.float32(np.cos(angle)) + v * np.float32(np.sin(angle))
        along = along + _waves(rng, 0.15 * extent, scale=1 / extent)(u, v)
        edges = np.quantile(along, np.arange(1, count) / count + rng.normal(0, 0.05, count - 1))
        return np.searchsorted(np.sort(edges), along).astype(np.int32)
    sites = _far_apart(candidates, count)
    if way == 1:  # panels
        return random_cells(rng, sites, bend=0.0)(u, v)
    owner = np.zeros(len(u), np.int32)  # spots on a ground
    for number, site in enumerate(sites[1:], start=1):
        radius = extent * rng.uniform(0.28, 0.5)
        owner[(u - site[0]) ** 2 + (v - site[1]) ** 2 < radius**2] = number
    return owner


def _waves(rng: np.random.Generator, height: float, scale: float = 1.0) -> Field:
    """A sum of three slow waves, about `height` high, about two units of 1 / scale long."""
    pace = rng.normal(0, 2.2 * scale, (3, 2)).astype(np.float32)
    phase = rng.uniform(0, 2 * np.pi, 3).astype(np.float32)

    def field(u: FloatArray, v: FloatArray) -> FloatArray:
        total = np.zeros_like(u)
        if height == 0:
            return total
        for (right, down), start in zip(pace, phase, strict=True):
            total += np.sin(right * u + down * v + start)
        total *= np.float32(height / np.sqrt(1.5))
        return total

    return field


def _far_apart(points: FloatArray, count: int) -> FloatArray:
    """Pick `count` of the points, each the farthest from those picked before."""
    chosen = [points[0]]
    nearest = np.full(len(points), np.inf)
    for _ in range(count - 1):
        nearest = np.minimum(nearest, ((points - chosen[-1]) ** 2).sum(axis=1))
        chosen.append(points[int(nearest.argmax())])
    return np.stack(chosen)
