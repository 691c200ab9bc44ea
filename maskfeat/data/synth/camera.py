"""What a camera does to the light of a drawn scene: blur, exposure, noise, tone curve, JPEG."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from maskfeat.arrays import FloatArray


def take_image(light: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Image a scene with a random lens, exposure and sensor.

    Args:
        light: Linear RGB, about 0..1, float32, shape (H, W, 3). Brighter light saturates.
        rng: Source of all choices.

    Returns:
        RGB in the sRGB encoding, uint8, shape (H, W, 3).
    """
    blur = rng.uniform(0.15, 0.5) * np.exp(rng.normal(0, 0.15, 2))  # pixels, down and right
    exposure = np.exp(rng.normal(0.1, 0.2)) * np.exp(rng.normal(0, 0.05, 3))  # and white balance
    seen = ndimage.gaussian_filter(light, (*blur, 0), truncate=3)
    seen = np.clip(seen * exposure.astype(np.float32), 0, None)
    shot, read = rng.uniform(0.0002, 0.0015), rng.uniform(0.001, 0.006)
    sigma = np.sqrt(np.float32(shot) * seen + np.float32(read) ** 2)
    seen += sigma * rng.standard_normal(seen.shape, np.float32)
    return np.rint(255 * _srgb(np.clip(seen, 0, 1))).astype(np.uint8)


def encode_jpg(image: npt.NDArray[np.uint8], quality: int) -> bytes:
    """Encode an RGB image.

    Args:
        image: RGB, uint8, shape (H, W, 3).
        quality: JPEG quality, 1..95.

    Returns:
        The bytes of a JPEG file, colors at half resolution.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _srgb(linear: FloatArray) -> FloatArray:
    """The sRGB tone curve (IEC 61966-2-1)."""
    curve = np.float32(1.055) * linear ** np.float32(1 / 2.4) - np.float32(0.055)
    return np.where(linear <= 0.0031308, np.float32(12.92) * linear, curve)
