"""Surfaces of drawn scenes: patterns over the plane, colored along a line of Oklab.

A surface is a mean color plus a pattern in about -1..1 times a color step. The step of a strong
pattern exceeds the difference between the mean colors of neighbors, so that a pixel's color alone
says little about the surface that it belongs to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from maskfeat.arrays import FloatArray

Pattern = Callable[["Surface", FloatArray, FloatArray, "NoiseBank"], FloatArray]

TILE = 256  # texels along a side of a noise tile, a power of two: wrapping is a bit mask
LONGEST = 32  # texels of the longest wave in a noise tile


@dataclass(frozen=True)
class Surface:
    """How one surface looks.

    Attributes:
        color: Mean color, Oklab (lightness 0..1, then green-red and blue-yellow), shape (3,).
        step: What a pattern value of one adds to the color, Oklab, shape (3,).
        pattern: The function that draws it, one of `PATTERNS`.
        wavelength: Of the pattern, pixels.
        angle: Of the pattern, radians.
        stretch: Wavelength along the pattern's second axis over that along its first.
        sharpness: 0 for smooth waves; the larger, the closer to two flat tones.
        warp: How far smooth noise bends the pattern, in wavelengths.
        grain: Standard deviation of the fine noise in lightness on top.
        tile: Which tile of the noise bank a noise pattern uses.
        shift: Where the pattern starts, pixels, (down, right).
    """

    color: FloatArray
    step: FloatArray
    pattern: Pattern
    wavelength: float
    angle: float
    stretch: float
    sharpness: float
    warp: float
    grain: float
    tile: int
    shift: tuple[float, float]


def random_palette(rng: np.random.Generator) -> FloatArray:
    """Draw the 3 to 6 paints of a scene around a common cast, Oklab, float32, shape (K, 3)."""
    count = int(rng.integers(3, 7))
    hue, chroma = rng.uniform(0, 2 * np.pi, count), np.minimum(rng.gamma(1.6, 0.02, count), 0.13)
    lightness = 0.3 + 0.5 * rng.beta(1.6, 1.6, count)
    cast = rng.normal(0, 0.012, 2)
    paints = [lightness, chroma * np.cos(hue) + cast[0], chroma * np.sin(hue) + cast[1]]
    return np.stack(paints, axis=1).astype(np.float32)


def random_surface(rng: np.random.Generator, palette: FloatArray, size_px: float) -> Surface:
    """Draw a surface related to others by the palette alone.

    Args:
        rng: Source of all choices.
        palette: Oklab colors to start from, shape (K, 3). Two surfaces may take the same.
        size_px: Radius of the thing that bears it, pixels; waves stay below about half of it.
    """
    color = palette[int(rng.integers(len(palette)))] + rng.normal(0, 1, 3) * [0.045, 0.015, 0.015]
    contrast = rng.gamma(2.5, 0.05)
    step = contrast * np.array([rng.choice([-1, 1]), *rng.normal(0, 0.25, 2)])
    longest = float(np.clip(0.7 * size_px, 5, 36))
    return Surface(
        color=color.astype(np.float32),
        step=step.astype(np.float32),
        pattern=PATTERNS[int(rng.choice(len(PATTERNS), p=PATTERN_SHARES))],
        wavelength=float(np.exp(rng.uniform(np.log(2.6), np.log(longest)))),
        angle=rng.uniform(0, np.pi),
        stretch=float(np.exp(abs(rng.normal(0, 0.6)))),
        sharpness=float(rng.choice([0.0, 1.0, 3.0])),
        warp=float(rng.choice([0.0, 0.15, 0.5])),
        grain=rng.uniform(0.01, 0.05),
        tile=int(rng.integers(1, NoiseBank.NUM_TILES)),
        shift=(rng.uniform(0, 512), rng.uniform(0, 512)),
    )


def vary_surface(surface: Surface, amount: float, rng: np.random.Generator) -> Surface:
    """Draw a relative of a surface: another color, or nearly the same color in another pattern.

    It is never closer in all respects than an eye can tell, at full light. `amount` says how far it
    is, 0..1: about 1 for siblings of an object, 0.5 for those of a part.
    """
    keeps_color = rng.random() < 0.3
    move = rng.normal(0, 1, 3) * np.array([0.085, 0.025, 0.025])
    length = float(np.linalg.norm(move))
    move *= max(amount * length, 0.035) / length  # 0.02 is about what is just noticed
    child = replace(
        surface,
        color=surface.color + (move * (0.2 if keeps_color else 1.0)).astype(np.float32),
        step=surface.step * np.float32(np.exp(rng.normal(0, 0.35 * amount))),
        wavelength=float(np.clip(surface.wavelength * np.exp(rng.normal(0, 0.3 * amount)), 3, 40)),
        angle=surface.angle + rng.normal(0, 0.5 * amount),
        shift=(rng.uniform(0, 512), rng.uniform(0, 512)),
    )
    if not keeps_color and rng.random() > 0.35 * amount:
        return child
    contrast = float(np.linalg.norm(child.step))
    return replace(
        child,
        pattern=PATTERNS[int(rng.choice(len(PATTERNS), p=PATTERN_SHARES))],
        angle=child.angle + rng.uniform(0.25, 0.75) * np.pi,
        wavelength=float(np.clip(child.wavelength * rng.choice([0.55, 1.0, 1.8]), 3, 40)),
        step=child.step * np.float32(max(0.06, contrast) / contrast),
    )


def paint_surface(surface: Surface, y: FloatArray, x: FloatArray, bank: NoiseBank) -> FloatArray:
    """Color of a surface at points of the plane, Oklab, float32, (N, 3), beyond screens, too.

    Args:
        surface: What to paint.
        y: Rows, pixels, float32, shape (N,).
        x: Columns, likewise.
        bank: Noise of the scene.
    """
    y, x = y + np.float32(surface.shift[0]), x + np.float32(surface.shift[1])
    along, across = surface.wavelength, surface.wavelength * surface.stretch
    cos, sin = np.cos(surface.angle), np.sin(surface.angle)
    u = x * np.float32(cos / along) + y * np.float32(sin / along)  # in waves from here on
    v = y * np.float32(cos / across) - x * np.float32(sin / across)
    if surface.warp > 0:
        u += np.float32(surface.warp) * bank.at(0, u * 6, v * 6)
        v += np.float32(surface.warp) * bank.at(1, u * 6, v * 6)
    tone = surface.pattern(surface, u, v, bank)
    color = surface.color + tone[:, None] * surface.step
    color[:, 0] += np.float32(surface.grain) * bank.nearest(2, y * 2, x * 2)
    return color


class NoiseBank:
    """Periodic noise of one scene: power-law clouds, then cells.

    Args:
        rng: Source of the noise.
    """

    NUM_TILES = 4

    def __init__(self, rng: np.random.Generator) -> None:
        slopes = (2.0, 1.5, 0.4, 1.0)  # amplitude falls with this power of the frequency
        self.tiles = [_clouds(rng, slope) for slope in slopes]
        self.cells = _cells(rng)

    def at(self, tile: int, y: FloatArray, x: FloatArray) -> FloatArray:
        """Noise of mean 0 and variance 1 at texel coordinates, bilinear; shapes (N,)."""
        return _bilinear(self.tiles[tile], y, x)

    def nearest(self, tile: int, y: FloatArray, x: FloatArray) -> FloatArray:
        """As `at`, from the nearest texel, for noise that is fine anyway."""
        rows, columns = y.astype(np.int32) & (TILE - 1), x.astype(np.int32) & (TILE - 1)
        noise: FloatArray = self.tiles[tile].ravel()[rows * TILE + columns]
        return noise


def _clouds(rng: np.random.Generator, slope: float) -> FloatArray:
    """Gaussian noise with a power-law spectrum above one wave in `LONGEST` texels."""
    spectrum = np.fft.rfft2(rng.normal(size=(TILE, TILE)))
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None])
    passed = frequency >= 1 / LONGEST
    spectrum *= np.where(passed, np.maximum(frequency, 1 / TILE) ** -slope, 0)
    tile = np.fft.irfft2(spectrum, (TILE, TILE))
    return np.asarray(tile / tile.std(), np.float32)


def _cells(rng: np.random.Generator) -> FloatArray:
    """Distance to the nearest of jittered points, -1 at a point to about 1 (Worley 1996)."""
    count = TILE // LONGEST  # points along a side; one per LONGEST texels
    jitter = rng.uniform(0, 1, (2, count, count)).astype(np.float32)
    axis = np.arange(TILE, dtype=np.float32) / LONGEST
    cell = axis.astype(np.int32)
    nearest = np.full((TILE, TILE), np.inf, np.float32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            index = np.ix_((cell + down) % count, (cell + right) % count)
            point_y = (cell + down)[:, None] + jitter[0][index]
            point_x = (cell + right)[None] + jitter[1][index]
            away = np.hypot(axis[:, None] - point_y, axis[None] - point_x)
            np.minimum(nearest, away, out=nearest)
    return np.float32(2.2) * nearest - np.float32(1)


def _bilinear(tile: FloatArray, y: FloatArray, x: FloatArray) -> FloatArray:
    row, column = np.floor(y), np.floor(x)
    down, right = y - row, x - column
    top, left = row.astype(np.int32) & (TILE - 1), column.astype(np.int32) & (TILE - 1)
    bottom, beside = ((top + 1) & (TILE - 1)) * TILE, (left + 1) & (TILE - 1)
    top *= TILE
    flat = tile.ravel()
    upper = flat[top + left] * (1 - right) + flat[top + beside] * right
    lower = flat[bottom + left] * (1 - right) + flat[bottom + beside] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float32)


def _sharpen(surface: Surface, tone: FloatArray) -> FloatArray:
    if surface.sharpness == 0:
        return tone
    return np.asarray(np.tanh(np.float32(1 + surface.sharpness) * tone), np.float32)


def _noise(surface: Surface, u: FloatArray, v: FloatArray, bank: NoiseBank) -> FloatArray:
    tone = bank.at(surface.tile, u * LONGEST * 0.5, v * LONGEST * 0.5)
    return np.float32(0.75) * _sharpen(surface, tone)


def _grating(surface: Surface, u: FloatArray, v: FloatArray, bank: NoiseBank) -> FloatArray:
    return _sharpen(surface, np.sin(np.float32(2 * np.pi) * u))


def _checks(surface: Surface, u: FloatArray, v: FloatArray, bank: NoiseBank) -> FloatArray:
    turn = np.float32(2 * np.pi)
    return _sharpen(surface, 1.5 * np.sin(turn * u) * np.sin(turn * v))


def _dots(surface: Surface, u: FloatArray, v: FloatArray, bank: NoiseBank) -> FloatArray:
    turn = np.float32(2 * np.pi)
    return np.asarray(np.tanh(2 * (np.cos(turn * u) + np.cos(turn * v)) - 1.2), np.float32)


def _bricks(surface: Surface, u: FloatArray, v: FloatArray, bank: NoiseBank) -> FloatArray:
    row = np.floor(v)
    across = np.abs((0.5 * u + 0.5 * (row % 2)) % 1 - 0.5)  # 0.5 at the joint between two bricks
    down = np.abs(v % 1 - 0.5)
    brick = np.floor(0.5 * u + 0.5 * (row % 2))
    tint = np.sin(brick * np.float32(12.9898) + row * np.float32(78.233))
    joint = (across > 0.46) | (down > 0.42)
    return np.where(joint, np.float32(-1), np.float32(0.4) + np.float32(0.4) * tint)


def _cobbles(surface: Surface, u: FloatArray, v: FloatArray, bank: NoiseBank) -> FloatArray:
    return _sharpen(surface, _bilinear(bank.cells, u * LONGEST, v * LONGEST))


PATTERNS: tuple[Pattern, ...] = (_noise, _grating, _checks, _dots, _bricks, _cobbles)
PATTERN_SHARES = (0.42, 0.2, 0.1, 0.1, 0.08, 0.1)
