"""Scenes drawn by the project: occluding, textured, shaded things with parts and subparts.

A scene is a dead-leaves image: forms whose radii r have density r^-3 between bounds occlude one
another in front of a few large regions. Of all laws of size this one gives the statistics of
natural images at every scale (Lee, Mumford and Huang, Occlusion Models for Natural Images, IJCV
2001). Surfaces differ less between subparts than between parts than between objects, on average
and with overlap. Masks are exact, after occlusion, and nest exactly.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from maskfeat.arrays import FloatArray, Int32Array
from maskfeat.data.convert.pool import OrderedPool
from maskfeat.data.shards.write import ShardWriter
from maskfeat.data.synth.canvas import Canvas
from maskfeat.data.synth.shapes import REACH, random_bands, random_cells, random_form
from maskfeat.formats.sa1b import annotate_levels, image_entry


@dataclass(frozen=True)
class Scene:
    """A drawn image and what is in it.

    Attributes:
        image: RGB, uint8, shape (H, W, 3).
        levels: Label maps from coarse to fine, int32, shape (H, W): `object`, `part` and
            `subpart`. Every pixel has a label at every level, and labels nest exactly: where a
            finer label is equal, the coarser one is. What has no parts is its own only part.
        jpg_quality: JPEG quality that the scene is to be kept at, 1..95.
    """

    image: npt.NDArray[np.uint8]
    levels: dict[str, Int32Array]
    jpg_quality: int


def draw_scene(
    seed: int,
    index: int,
    size: tuple[int, int] = (288, 384),
    jpg_quality: tuple[int, int] = (75, 95),
) -> Scene:
    """Draw scene number `index` of the endless series `seed`; it depends on the arguments alone.

    Args:
        seed: At least 0.
        index: At least 0.
        size: Height and width, pixels, at least 32 each.
        jpg_quality: Lowest and highest JPEG quality, both included, in 1..95.

    Raises:
        ValueError: If an argument is out of range.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must be at least 0, got seed={seed} and index={index}")
    if min(size) < 32:
        raise ValueError(f"a scene needs at least 32 x 32 pixels, got size={size}")
    if not 1 <= jpg_quality[0] <= jpg_quality[1] <= 95:
        raise ValueError(f"jpg_quality must be (low, high) within 1..95, got {jpg_quality}")
    rng = np.random.default_rng(np.random.SeedSequence([seed, index]))
    canvas = Canvas(size, rng)
    # Radii of density r^-3 until the leaves' areas add up to a random share of the image.
    low, high = 0.075 * min(size), 0.4 * min(size)
    to_cover, radii = rng.uniform(0.35, 1.2) * size[0] * size[1], list[float]()
    while to_cover > 0:
        share = rng.uniform()
        radii.append(float((low**-2 - share * (low**-2 - high**-2)) ** -0.5))
        to_cover -= np.pi * radii[-1] ** 2
    for radius in radii:
        _add_leaf(canvas, radius, rng)
    _add_regions(canvas, rng)
    image = _take_image(canvas.light(), rng)
    quality = int(rng.integers(jpg_quality[0], jpg_quality[1] + 1))
    return Scene(image, canvas.levels(), quality)


def scene_sample(
    index: int, seed: int, size: tuple[int, int], jpg_quality: tuple[int, int] = (75, 95)
) -> tuple[str, bytes, dict[str, Any]]:
    """Draw one scene as a sample in the layout of SA-1B; arguments as of `draw_scene`.

    Returns:
        Key such as `synth_000123_s7` (index, then seed), JPEG bytes, and the annotation.
    """
    scene = draw_scene(seed, index, size, jpg_quality)
    key, jpg = f"synth_{index:06d}_s{seed}", io.BytesIO()
    Image.fromarray(scene.image).save(jpg, "JPEG", quality=scene.jpg_quality, optimize=True)
    image = image_entry(index, size, f"{key}.jpg")
    return key, jpg.getvalue(), {"image": image, "annotations": annotate_levels(scene.levels)}


def write_scenes(
    out: str | Path,
    num: int,
    seed: int,
    size: tuple[int, int] = (288, 384),
    prefix: str = "train",
    samples_per_shard: int | None = None,
    jpg_quality: tuple[int, int] = (75, 95),
    progress: bool = True,
    num_workers: int = 0,
) -> list[Path]:
    """Draw the first `num` scenes of a series and write them to shards.

    Args:
        out: Folder of the shards; made if absent.
        num: How many scenes, at least 1.
        seed: Names the series; take another one for validation.
        size: As of `draw_scene`.
        prefix: Shards are named PREFIX-000000.tar and so on.
        samples_per_shard: Scenes in one tar; None sets no limit.
        jpg_quality: As of `draw_scene`.
        progress: Whether to show a bar in the terminal.
        num_workers: Processes that draw; 0 draws in this one. The shards are the same.

    Returns:
        Paths of the shards, in order.

    Raises:
        ValueError: If an argument is out of range.
        FileExistsError: If a shard of that name is there already.
    """
    if num < 1:
        raise ValueError(f"num, the count of scenes, must be at least 1, got {num}")
    draw = partial(scene_sample, seed=seed, size=size, jpg_quality=jpg_quality)
    with OrderedPool(num_workers) as pool, ShardWriter(out, prefix, samples_per_shard) as writer:
        samples: Iterable[Any] = pool.map(draw, range(num))
        if progress:
            from rich.progress import track

            samples = track(samples, description="drawing scenes", total=num)
        for key, jpg, annotation in samples:
            writer.write_sample(key, jpg, annotation)
    return writer.paths


def _add_leaf(canvas: Canvas, radius: float, rng: np.random.Generator) -> None:
    """Put a form behind what is there already."""
    form = random_form(rng, max_parts=1 + int(radius / 9))
    center = rng.uniform(-0.05, 1.05, 2) * canvas.size
    turn = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(turn) / radius), np.float32(np.sin(turn) / radius)
    open_pixels = canvas.open_pixels(center, REACH * radius)
    y, x = canvas.places(open_pixels)
    y, x = y - np.float32(center[0]), x - np.float32(center[1])
    u, v = x * cos + y * sin, y * cos - x * sin
    inside = form.depth(u, v) < 0
    if not inside.any():
        return
    u, v = u[inside], v[inside]
    canvas.add_object(open_pixels[inside], u, v, form.part(u, v), radius, rng)
    # Its shadow falls on all that is added later.
    y, x = canvas.shadow_places(center)
    canvas.cast_shadow(form.depth(x * cos + y * sin, y * cos - x * sin) < 0, radius)


def _add_regions(canvas: Canvas, rng: np.random.Generator) -> None:
    """Fill what is still open with two to four regions: a ground, a sky or walls."""
    pixels = canvas.open_pixels(canvas.size / 2, float(canvas.size.max()))
    if pixels.size == 0:
        return
    y, x = canvas.places(pixels)
    half = np.float32(canvas.size.min() / 2)
    v, u = y / half - 1, x / half - np.float32(canvas.size[1] / canvas.size.min())
    if rng.random() < 0.6:  # a horizon, and above it perhaps a wall's end
        level = rng.uniform(-0.4, 0.5)
        tilt, bow = rng.normal(0, 0.08), rng.normal(0, 0.05)
        below = v > level + tilt * u + bow * np.sin(2.5 * u + rng.uniform(0, 6))
        end = rng.uniform(-1, 1) if rng.random() < 0.7 else np.inf
        region = np.where(below, 0, 1 + (u > end + rng.normal(0, 0.1) * v)).astype(np.int32)
    else:
        sites = rng.uniform(-1, 1, (int(rng.integers(2, 5)), 2)) * canvas.size[::-1] / (2 * half)
        region = random_cells(rng, sites, bend=0.1)(u, v)
    for number in np.unique(region):
        chosen = region == number
        ru, rv = u[chosen], v[chosen]
        parts = np.zeros(len(ru), np.int32)
        if rng.random() < 0.5:
            parts = random_bands(rng, np.sort(rng.uniform(-0.7, 0.7, rng.integers(1, 3))), 0.1)(
                ru, rv
            )
        canvas.add_object(pixels[chosen], ru, rv, parts, float(half), rng)


def _take_image(light: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Image linear light, about 0..1, shape (H, W, 3), with a random lens, exposure and sensor."""
    blur = rng.uniform(0.15, 0.5) * np.exp(rng.normal(0, 0.15, 2))  # pixels, down and right
    exposure = np.exp(rng.normal(0.1, 0.2)) * np.exp(rng.normal(0, 0.05, 3))  # and white balance
    seen = ndimage.gaussian_filter(light, (*blur, 0), truncate=3)
    seen = np.clip(seen * exposure.astype(np.float32), 0, None)
    shot, read = rng.uniform(0.0002, 0.0015), rng.uniform(0.001, 0.006)
    sigma = np.sqrt(np.float32(shot) * seen + np.float32(read) ** 2)
    seen += sigma * rng.standard_normal(seen.shape, np.float32)
    linear = np.clip(seen, 0, 1)  # from here on the sRGB tone curve (IEC 61966-2-1)
    curve = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    coded: FloatArray = np.where(linear <= 0.0031308, np.float32(12.92) * linear, curve)
    return np.rint(255 * coded).astype(np.uint8)
