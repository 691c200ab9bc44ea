"""Forms of drawn scenes: outlines, and how they split into parts.

A form lives in its own plane (u to the right, v down, about the unit disc) and is asked about
points of it. All points of a part are one answer of `Form.part`, so parts tile their form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from maskfeat.arrays import Float64Array, FloatArray, Int32Array

Field = Callable[[FloatArray, FloatArray], FloatArray]  # of u and v, shape (N,) each
Split = Callable[[FloatArray, FloatArray], Int32Array]  # likewise; 0, 1, ... for each point
REACH = 1.6  # no form goes further than this from the origin of its plane
TABLE = 1024  # directions at which the radius of a star-shaped outline is kept


@dataclass(frozen=True)
class Form:
    """One shape with its parts.

    Attributes:
        depth: Negative inside, zero on the outline, float32, shape (N,) from u and v of shape
            (N,); -1 in the middle of a star-shaped form.
        part: Which part a point belongs to, int32 below `num_parts`, wherever it lies.
        num_parts: How many parts there are, at least 1.
    """

    depth: Field
    part: Split
    num_parts: int


def random_form(rng: np.random.Generator, max_parts: int) -> Form:
    """Draw a form of 1 to `max_parts` parts, 5 at most.

    It is a blob, a polygon, a superellipse or a body with limbs.

    Raises:
        ValueError: If `max_parts` is below 1.
    """
    if max_parts < 1:
        raise ValueError(f"a form has at least one part, got max_parts={max_parts}")
    if max_parts >= 2 and rng.random() < 0.3:
        return _limbs(rng, num_limbs=int(rng.integers(1, min(4, max_parts - 1) + 1)))
    radii = OUTLINES[int(rng.integers(len(OUTLINES)))](rng)
    num_parts = int(rng.choice([1, 2, 3, 4, 5], p=[0.22, 0.3, 0.24, 0.14, 0.1]))
    num_parts = min(num_parts, max_parts)
    depth = _star_depth(radii)
    if num_parts == 1:
        return Form(depth, lambda u, v: np.zeros(u.shape, np.int32), 1)
    way = int(rng.integers(3))
    if way == 0:
        part = random_cells(rng, rng.uniform(-0.75, 0.75, (num_parts, 2)), bend=0.12)
    elif way == 1:
        cuts = np.linspace(-0.85, 0.85, num_parts + 1)[1:-1] + rng.normal(0, 0.09, num_parts - 1)
        part = random_bands(rng, np.sort(cuts), bend=0.15)
    else:
        part = _core_and_rind(rng, depth, num_parts)
    return Form(depth, part, num_parts)


def _star_depth(radii: FloatArray) -> Field:
    """Depth of a star-shaped form from its radius in each of `TABLE` directions."""
    table = np.append(radii, radii[:1]).astype(np.float32)

    def depth(u: FloatArray, v: FloatArray) -> FloatArray:
        place = np.arctan2(v, u) * np.float32(TABLE / (2 * np.pi)) % np.float32(TABLE)
        low = np.minimum(place.astype(np.int32), TABLE - 1)
        radius = table[low] + (place - low.astype(np.float32)) * (table[low + 1] - table[low])
        return np.asarray(np.hypot(u, v) / radius - 1, np.float32)

    return depth


def _angles() -> Float64Array:
    return np.linspace(0, 2 * np.pi, TABLE, endpoint=False)


def _squeeze(radii: Float64Array, rng: np.random.Generator) -> FloatArray:
    """Make an outline longer than wide, keeping its area, within reach."""
    ratio = np.exp(abs(rng.normal(0, 0.35)) / 2)
    angle = _angles()
    # The form {(u, v)} becomes {(ratio u, v / ratio)}: read the old radius where it comes from.
    source = np.arctan2(np.sin(angle) * ratio, np.cos(angle) / ratio) % (2 * np.pi)
    shrink = np.hypot(np.cos(angle) / ratio, np.sin(angle) * ratio)
    stretched = np.interp(source, angle, radii, period=2 * np.pi) / shrink
    return np.asarray(np.minimum(stretched, REACH), np.float32)


def _blob(rng: np.random.Generator) -> FloatArray:
    """Fourier radius: waves of order 2 to 6, the higher the lower."""
    angle = _angles()
    radii = np.ones(TABLE)
    for order in range(2, 7):
        radii += rng.normal(0, 0.32 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi))
    return _squeeze(np.maximum(radii, 0.35), rng)


def _polygon(rng: np.random.Generator) -> FloatArray:
    """3 to 8 corners in order around the origin, uneven in angle and distance."""
    count = int(rng.integers(3, 9))
    corners = (np.arange(count) + rng.uniform(-0.2, 0.2, count)) * (2 * np.pi / count)
    corners -= corners[0]
    far = rng.uniform(0.75, 1.25, count)
    y, x = far * np.sin(corners), far * np.cos(corners)
    next_y, next_x = np.roll(y, -1), np.roll(x, -1)
    angle = _angles()
    edge = np.searchsorted(corners, angle, side="right") - 1
    normal_y, normal_x = -(next_x - x)[edge], (next_y - y)[edge]
    reach = x[edge] * normal_x + y[edge] * normal_y
    return _squeeze(reach / (normal_x * np.cos(angle) + normal_y * np.sin(angle)), rng)


def _superellipse(rng: np.random.Generator) -> FloatArray:
    power = rng.choice([1.3, 2.0, 3.5, 6.0])
    angle = _angles()
    radii = (abs(np.cos(angle)) ** power + abs(np.sin(angle)) ** power) ** (-1 / power)
    return _squeeze(0.9 * radii, rng)


def _core_and_rind(rng: np.random.Generator, depth: Field, num_parts: int) -> Split:
    """A core like the outline but smaller, and a rind cut along rays into the other parts."""
    level = np.float32(-rng.uniform(0.3, 0.5))
    rays = np.sort(rng.uniform(-np.pi, np.pi, num_parts - 1)).astype(np.float32)
    shift = rng.normal(0, 0.08, 2).astype(np.float32)

    def split(u: FloatArray, v: FloatArray) -> Int32Array:
        sector = np.searchsorted(rays, np.arctan2(v, u)) % len(rays)
        return np.where(depth(u - shift[0], v - shift[1]) < level, 0, 1 + sector).astype(np.int32)

    return split


def _limbs(rng: np.random.Generator, num_limbs: int) -> Form:
    """A body with bent, tapering limbs; each limb is a part."""
    angle, half = rng.uniform(0, np.pi), rng.uniform(0.2, 0.45)
    axis = np.array([np.cos(angle), np.sin(angle)])
    body = rng.uniform(0.24, 0.36)
    bones = [(-half * axis, half * axis, body, body * rng.uniform(0.7, 1.0), 0)]
    starts = rng.permutation(np.linspace(-1, 1, num_limbs + 1))[:num_limbs]
    for part, start in enumerate(starts, start=1):
        root = start * half * axis
        heading = angle + (0 if start > 0 else np.pi) + rng.normal(0, 0.9)
        width = body * rng.uniform(0.4, 0.65)
        for _ in range(2):
            tip = root + rng.uniform(0.4, 0.55) * np.array([np.cos(heading), np.sin(heading)])
            bones.append((root, tip, width, width * 0.75, part))
            root, width, heading = tip, width * 0.75, heading + rng.normal(0, 0.5)

    def distances(u: FloatArray, v: FloatArray) -> FloatArray:
        return np.stack([_to_bone(u, v, *bone[:4]) for bone in bones])

    def depth(u: FloatArray, v: FloatArray) -> FloatArray:
        nearest: FloatArray = distances(u, v).min(axis=0)
        return nearest

    owner = np.array([bone[4] for bone in bones], np.int32)

    def part_of(u: FloatArray, v: FloatArray) -> Int32Array:
        chosen: Int32Array = owner[distances(u, v).argmin(axis=0)]
        return chosen

    return Form(depth, part_of, num_limbs + 1)


def _to_bone(
    u: FloatArray,
    v: FloatArray,
    start: Float64Array,
    end: Float64Array,
    start_radius: float,
    end_radius: float,
) -> FloatArray:
    """Distance to a segment, less its radius there."""
    u0, v0 = np.float32(start[0]), np.float32(start[1])
    du, dv = np.float32(end[0] - start[0]), np.float32(end[1] - start[1])
    share = np.clip(((u - u0) * du + (v - v0) * dv) / (du * du + dv * dv), 0, 1)
    radius = np.float32(start_radius) + share * np.float32(end_radius - start_radius)
    away = np.hypot(u - u0 - share * du, v - v0 - share * dv)
    return np.asarray(away - radius, np.float32)


def random_cells(rng: np.random.Generator, sites_uv: npt.ArrayLike, bend: float) -> Split:
    """Split a plane by the nearest of some sites, shape (K, 2), answers 0..K-1.

    The borders are bent by slow waves up to `bend`, in units of the plane.
    """
    sites = np.asarray(sites_uv, np.float32)
    waves = _waves(rng, bend)

    def split(u: FloatArray, v: FloatArray) -> Int32Array:
        du, dv = waves(u, v), waves(v, u)
        away = [(u + du - site[0]) ** 2 + (v + dv - site[1]) ** 2 for site in sites]
        return np.asarray(np.argmin(np.stack(away), axis=0), np.int32)

    return split


def random_bands(rng: np.random.Generator, cuts: npt.ArrayLike, bend: float) -> Split:
    """Split a plane into bands across a random direction, answers 0..K-1.

    A band ends at each of the increasing `cuts`, shape (K - 1,). The borders are bent as those of
    `random_cells`.
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


OUTLINES = (_blob, _polygon, _superellipse)
