"""The canvas of a drawn scene: who owns each sample of the plane, and its light.

Samples lie half a pixel apart, so that every other one is a pixel's center: masks are decided
there, while light is averaged over the samples around it, which smooths borders.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from maskfeat.arrays import BoolArray, Float64Array, FloatArray, IndexArray, Int32Array
from maskfeat.data.synth.shapes import random_subparts
from maskfeat.data.synth.textures import (
    NoiseBank,
    paint_surface,
    random_palette,
    random_surface,
    vary_surface,
)

SHADOW_STRIDE = 4  # pixels per cell of the shadow map; shadows are soft
SUBPART_AREA_PX = 250  # a part seen in fewer pixels has no subparts

# Oklab to linear sRGB (Ottosson, A perceptual color space for image processing, 2020).
LAB_TO_LMS = np.array(
    [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ],
    np.float32,
)
LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ],
    np.float32,
)


class Canvas:
    """Filled from front to back: what has an owner keeps it.

    Args:
        size: Height and width, pixels.
        rng: Source of light and noise.
    """

    def __init__(self, size: tuple[int, int], rng: np.random.Generator) -> None:
        self.size = np.array(size)
        self._shape = (2 * size[0] + 1, 2 * size[1] + 1)
        self._leaf = np.full(self._shape, -1, np.int32).ravel()
        self._rgb = np.zeros((self._leaf.size, 3), np.float32)
        self._part_of: list[int] = []  # of each leaf, a leaf being the finest thing
        self._object_of: list[int] = []  # of each part
        self._num_objects = 0
        self._bank = NoiseBank(rng)
        self._palette = random_palette(rng)
        cells = (-(-size[0] // SHADOW_STRIDE) + 1, -(-size[1] // SHADOW_STRIDE) + 1)
        self._shadow = np.zeros(cells, np.float32)
        self._sun = rng.normal(0, 1, 2)  # where shadows fall, in units of a leaf's height
        self._darkness = rng.uniform(0.15, 0.6)
        self._ambient = _ambient(size, rng)

    def open_pixels(self, center_yx: Float64Array, reach: float) -> IndexArray:
        """Samples without owner in a square of half side `reach` (pixels): numbers, (N,)."""
        low = np.maximum(np.floor(2 * (center_yx - reach)).astype(int), 0)
        high = np.minimum(np.ceil(2 * (center_yx + reach)).astype(int) + 2, self._shape)
        rows, columns = np.arange(low[0], high[0]), np.arange(low[1], high[1])
        numbers = (rows[:, None] * self._shape[1] + columns).ravel()
        chosen: IndexArray = numbers[self._leaf[numbers] < 0]
        return chosen

    def places(self, numbers: IndexArray) -> tuple[FloatArray, FloatArray]:
        """Row and column of samples, pixels, float32, shapes (N,)."""
        row, column = np.divmod(numbers, self._shape[1])
        half = np.float32(0.5)
        return (row - 1).astype(np.float32) * half, (column - 1).astype(np.float32) * half

    def add_object(
        self,
        numbers: IndexArray,
        u: FloatArray,
        v: FloatArray,
        parts: Int32Array,
        radius: float,
        rng: np.random.Generator,
    ) -> None:
        """Give samples to a new object and paint them.

        Args:
            numbers: Samples without owner, shape (N,), N > 0.
            u: Where they lie in the object's own plane, about the unit disc, shape (N,).
            v: Likewise.
            parts: Part of the object that each belongs to, shape (N,).
            radius: Of the object, pixels.
            rng: Source of its looks.
        """
        surface = random_surface(rng, self._palette, radius)
        glow = self._illumination(numbers, u, v, rng)
        for part in np.unique(parts):
            mine = np.flatnonzero(parts == part)
            looks = vary_surface(surface, 1.0, rng)
            self._object_of.append(self._num_objects)
            owner = np.zeros(len(mine), np.int32)
            if len(mine) > 4 * SUBPART_AREA_PX and rng.random() < 0.5:
                owner = random_subparts(rng, u[mine], v[mine])
            drift = rng.normal(0, 1, 2) * (0.12 if rng.random() < 0.3 else 0.03)
            for leaf in np.unique(owner):
                own = mine[owner == leaf]
                child = vary_surface(looks, 0.5, rng) if owner.any() else looks
                lab = paint_surface(child, *self.places(numbers[own]), self._bank)
                lab[:, 0] += (drift[0] * u[own] + drift[1] * v[own]).astype(np.float32)
                rgb = np.maximum((lab @ LAB_TO_LMS.T) ** 3 @ LMS_TO_RGB.T, 0)
                self._rgb[numbers[own]] = np.asarray(rgb, np.float32) * glow[own, None]
                self._leaf[numbers[own]] = len(self._part_of)
                self._part_of.append(len(self._object_of) - 1)
        self._num_objects += 1

    def shadow_places(self, center_yx: Float64Array) -> tuple[FloatArray, FloatArray]:
        """Row and column of the shadow map's cells, less a center, pixels, float32."""
        rows, columns = (np.arange(count) * SHADOW_STRIDE for count in self._shadow.shape)
        y, x = np.meshgrid(rows - center_yx[0], columns - center_yx[1], indexing="ij")
        return y.astype(np.float32), x.astype(np.float32)

    def cast_shadow(self, inside: BoolArray, radius: float) -> None:
        """Let a leaf darken what is added from now on.

        It covers the cells `inside` of the shadow map, and floats a third of its radius (pixels)
        above what lies behind.
        """
        height = radius / 3 / SHADOW_STRIDE
        fallen = ndimage.shift(inside.astype(np.float32), self._sun * height, order=1)
        soft = ndimage.gaussian_filter(fallen, 0.5 + 0.5 * height, truncate=2)
        np.maximum(self._shadow, soft, out=self._shadow)

    def light(self) -> FloatArray:
        """Linear RGB of the pixels, mostly in 0..1, shape (H, W, 3)."""
        wide = self._rgb.reshape(*self._shape, 3)
        tall = 0.25 * wide[:-2:2] + 0.5 * wide[1:-1:2] + 0.25 * wide[2::2]
        pixels: FloatArray = 0.25 * tall[:, :-2:2] + 0.5 * tall[:, 1:-1:2] + 0.25 * tall[:, 2::2]
        return pixels

    def levels(self) -> dict[str, Int32Array]:
        """Label maps of the pixels, coarse to fine, int32, shape (H, W)."""
        leaf = np.ascontiguousarray(self._leaf.reshape(self._shape)[1::2, 1::2])
        assert leaf.min() >= 0, "a pixel has no owner"
        part = np.array(self._part_of, np.int32)[leaf]
        return {"object": np.array(self._object_of, np.int32)[part], "part": part, "subpart": leaf}

    def _illumination(
        self, numbers: IndexArray, u: FloatArray, v: FloatArray, rng: np.random.Generator
    ) -> FloatArray:
        """Factor on the light of an object's samples: scene, shadows and its own roundness."""
        y, x = self.places(numbers)
        where = np.stack([y, x]) / SHADOW_STRIDE
        fallen = np.exp(self._ambient) * (1 - np.float32(self._darkness) * self._shadow)
        fallen = ndimage.map_coordinates(fallen, where, order=1, mode="nearest")
        tilt = rng.normal(0, 0.25, 2).astype(np.float32)
        dome = np.float32(rng.choice([0.0, 0.4])) * np.minimum(u * u + v * v, np.float32(1.5))
        return np.asarray(fallen * np.exp(tilt[0] * u + tilt[1] * v - dome), np.float32)


def _ambient(size: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """Log brightness of the scene's light on the shadow map's cells: a ramp and slow waves."""
    rows = np.arange(-(-size[0] // SHADOW_STRIDE) + 1)[:, None] * (SHADOW_STRIDE / size[0])
    columns = np.arange(-(-size[1] // SHADOW_STRIDE) + 1)[None] * (SHADOW_STRIDE / size[1])
    ramp = rng.normal(0, 0.35, 2)
    field = ramp[0] * (rows - 0.5) + ramp[1] * (columns - 0.5)
    for _ in range(3):
        pace, phase = rng.normal(0, 5, 2), rng.uniform(0, 2 * np.pi)
        field = field + 0.12 * np.sin(pace[0] * rows + pace[1] * columns + phase)
    return np.asarray(field, np.float32)
