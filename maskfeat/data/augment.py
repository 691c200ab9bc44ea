"""An annotated image becomes a training example: crop, flip and color, points and masks.

Masks are never decoded: points are chosen in the crop, traced back to pixels of the annotated
image, and looked up in the run-length masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.arrays import BoolArray, IntArray
from maskfeat.batch import Example
from maskfeat.data.annotations.image import within_memory
from maskfeat.data.annotations.rle import Runs, membership, sample_border_points
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.composition import LUMA, paste, pasteable, runs_of
from maskfeat.data.local_targets import boundary_map, pair_similarity
from maskfeat.data.settings import Augmentation, ExampleSettings

# Gives the image that objects are pasted from, or None.
Donor = Callable[[np.random.Generator], AnnotatedImage | None]


class Window(NamedTuple):
    """The part of the annotated image that becomes a crop, in its pixels (left of pixel 0 is 0)."""

    top: float
    left: float
    height: float
    width: float
    flip: bool


@dataclass(frozen=True)
class ExampleMaker:
    """Cuts examples out of images; workers receive it by pickle.

    Args:
        settings: What is cut out.
        augmentation: How much to vary; None takes the middle of the image, as it is.
    """

    settings: ExampleSettings
    augmentation: Augmentation | None = None

    @within_memory("to cut an example out of it")
    def __call__(
        self, sample: AnnotatedImage, rng: np.random.Generator, donor: Donor | None = None
    ) -> Example:
        """Cut one example.

        Beyond the image, where the crop is larger, the border pixels are repeated and no mask
        holds anything.

        Args:
            sample: The image.
            rng: Source of all randomness.
            donor: Gives another image to paste objects of, or None.

        Raises:
            SampleError: If the image cannot be decoded.
        """
        of, runs = self.settings, sample.runs
        size = of.crop_size
        window = choose_window(runs.size, size, rng, self.augmentation, of.short_side)
        pil_image = cut_image(sample, window, size)
        # Without pasting no random number is drawn for it.
        paste = self.augmentation.paste if self.augmentation else 0
        if paste and donor is not None and rng.random() < paste:
            other = donor(rng)
            if other is not None:
                pil_image, runs = self._pasted(pil_image, runs, window, other, rng)
                window = Window(0, 0, size, size, flip=False)
        if self.augmentation is not None:
            pil_image = pil_image.convert("RGB", _color_matrix(self.augmentation, rng))
        image = np.asarray(pil_image)
        points = sample_points(runs, window, size, of.num_points, of.border_share, rng)
        held = _membership_in(runs, window, size, points)
        held = held[held.any(axis=1)]
        if len(held) > of.max_masks:
            held = held[np.sort(rng.choice(len(held), of.max_masks, replace=False))]
        local = self._local(runs, window, rng)
        share = 0.0 if self.augmentation is None else self.augmentation.transpose
        if share and rng.random() < share:
            # Rows and columns are exchanged; what lay below a pixel lies right of it.
            image, points = image.transpose(1, 0, 2).copy(), points[:, ::-1].copy()
            if "pairs_yx" in local:
                local["pairs_yx"] = local["pairs_yx"][..., ::-1].copy()
            if "boundary" in local:
                local["boundary"] = local["boundary"][::-1].transpose(0, 2, 1).copy()
        return Example(sample.key, image, points, held, local, sample.shard, sample.num_crowds)

    def _pasted(
        self,
        pil_image: Image.Image,
        runs: Runs,
        window: Window,
        other: AnnotatedImage,
        rng: np.random.Generator,
    ) -> tuple[Image.Image, Runs]:
        """A crop with objects of another image on it, and its masks, in pixels of the crop."""
        size, short_side = self.settings.crop_size, self.settings.short_side
        grid = np.argwhere(np.ones((size, size), bool))
        masks = _membership_in(runs, window, size, grid).reshape(-1, size, size)
        # Cut out of the other image as any crop is; objects at its edge may be cut there.
        other_window = choose_window(other.runs.size, size, rng, self.augmentation, short_side)
        other_masks = _membership_in(other.runs, other_window, size, grid).reshape(-1, size, size)
        pixels = _to_image(grid, other_window, size)
        is_cut = ((pixels <= 0) | (pixels >= np.array(other.runs.size) - 1)).any(axis=1)
        numbers = pasteable(other_masks, is_cut.reshape(size, size))
        if not len(numbers):
            return pil_image, runs_of(masks)
        assert self.augmentation is not None
        count = int(rng.integers(1, self.augmentation.max_pasted + 1))
        image, other_image = np.asarray(pil_image), np.asarray(cut_image(other, other_window, size))
        for number in rng.choice(numbers, min(count, len(numbers)), replace=False):
            image, masks = paste(image, masks, other_image, other_masks, int(number))
        return Image.fromarray(image), runs_of(masks)

    def _local(
        self, runs: Runs, window: Window, rng: np.random.Generator
    ) -> dict[str, npt.NDArray[Any]]:
        """Similarity of pairs of nearby pixels, and the map of boundaries, where asked for."""
        of, found = self.settings, dict[str, npt.NDArray[Any]]()
        size, radius = of.crop_size, of.pair_radius
        if of.num_pairs:
            first = sample_points(runs, window, size, of.num_pairs, of.border_share, rng)
            steps = rng.integers(-radius, radius + 1, first.shape)
            steps[(steps == 0).all(axis=1)] = 1
            inside = ((first + steps >= 0) & (first + steps < size)).all(axis=1, keepdims=True)
            # Most steps that leave the crop lead back into it when they are turned round.
            second = (first + np.where(inside, steps, -steps)).clip(0, size - 1)
            pixels = [_to_image(points, window, size) for points in (first, second)]
            found["pairs_yx"] = np.stack([first, second])
            found["pair_similarity"] = pair_similarity(runs, *pixels)
        if of.boundaries:
            diagonal = np.arange(size).repeat(2).reshape(-1, 2)
            rows, columns = _to_image(diagonal, window, size).T
            found["boundary"] = boundary_map(runs, rows, columns)
        return found


def choose_window(
    size: tuple[int, int],
    crop_size: int,
    rng: np.random.Generator,
    augmentation: Augmentation | None,
    short_side: int | None = None,
) -> Window:
    """Choose where the crop lies: scale, stretch, place and flip.

    Args:
        size: Height and width of the annotated image.
        crop_size: Height and width of the crop.
        rng: Source of randomness.
        augmentation: How much to vary; None takes the middle at scale 1.
        short_side: Scales count from the image reduced to this short side.
    """
    base = min(1.0, short_side / min(size)) if short_side else 1.0
    fit = crop_size / min(size)  # the scale at which the crop is as large as the short side
    if augmentation is None:
        scale = max(base, fit) if fit <= 1 else base
        side = crop_size / scale
        return Window((size[0] - side) / 2, (size[1] - side) / 2, side, side, flip=False)
    if augmentation.native and rng.random() < augmentation.native:
        top, left = (int(rng.integers(max(0, side - crop_size) + 1)) for side in size)
        is_flipped = bool(rng.random() < augmentation.flip)
        return Window(top, left, crop_size, crop_size, is_flipped)
    low, high = base * augmentation.min_scale, base * augmentation.max_scale
    if not augmentation.margins:
        low = min(max(low, fit), high)
    scale = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    stretch = augmentation.max_stretch ** (rng.uniform(-1, 1) / 2)
    height, width = crop_size / scale * stretch, crop_size / scale / stretch
    if not augmentation.margins:
        height = min(height, max(size[0], crop_size / high))
        width = min(width, max(size[1], crop_size / high))
    top = rng.uniform(min(0, size[0] - height), max(0, size[0] - height))
    left = rng.uniform(min(0, size[1] - width), max(0, size[1] - width))
    return Window(top, left, height, width, flip=bool(rng.random() < augmentation.flip))


def jitter_color(
    image: npt.NDArray[np.uint8], augmentation: Augmentation, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Change brightness, contrast, saturation and hue by one affine map, uint8 to uint8."""
    pil_image = Image.fromarray(image)
    return np.asarray(pil_image.convert("RGB", _color_matrix(augmentation, rng)))


def sample_points(
    runs: Runs,
    window: Window,
    crop_size: int,
    num_points: int,
    border_share: float,
    rng: np.random.Generator,
) -> IntArray:
    """Choose pixels of the crop, a share of them near mask borders, the rest uniformly.

    Returns:
        int64, shape (num_points, 2), rows and columns in [0, crop_size).
    """
    box = (
        max(0, int(np.floor(window.top))),
        max(0, int(np.floor(window.left))),
        min(runs.size[0], int(np.ceil(window.top + window.height))),
        min(runs.size[1], int(np.ceil(window.left + window.width))),
    )
    border = sample_border_points(runs, round(num_points * border_share), rng, box)
    # The pixels of the crop that hold the centers of those; some lie just outside.
    y = np.floor((border[:, 0] + 0.5 - window.top) * (crop_size / window.height))
    x = np.floor((border[:, 1] + 0.5 - window.left) * (crop_size / window.width))
    columns = crop_size - 1 - x if window.flip else x
    near = np.stack([y, columns], axis=1).astype(np.int64)
    near += rng.integers(-2, 3, size=border.shape)
    uniform = rng.integers(0, crop_size, size=(num_points - len(near), 2))
    return np.concatenate([near.clip(0, crop_size - 1), uniform])


def cut_image(sample: AnnotatedImage, window: Window, crop_size: int) -> Image.Image:
    """Decode, crop and resize in one go; RGB, `crop_size` on both sides.

    It stays an image of Pillow's: each way to NumPy and back is a copy.
    """
    scale = crop_size / max(window.height, window.width)
    pil_image = sample.decode_image(at_least=min(1.0, scale))
    width, height = pil_image.size
    shrink_y, shrink_x = height / sample.runs.size[0], width / sample.runs.size[1]
    top, left = window.top * shrink_y, window.left * shrink_x
    bottom = top + window.height * shrink_y
    right = left + window.width * shrink_x
    before = [max(0, int(np.ceil(-edge))) for edge in (top, left)]
    after = [max(0, int(np.ceil(e - s))) for e, s in ((bottom, height), (right, width))]
    if any(before) or any(after):  # a small image: repeat its border
        margins = ((before[0], after[0]), (before[1], after[1]), (0, 0))
        pil_image = Image.fromarray(np.pad(np.asarray(pil_image), margins, mode="edge"))
        top, bottom = top + before[0], bottom + before[0]
        left, right = left + before[1], right + before[1]
    box = (left, top, min(right, pil_image.size[0]), min(bottom, pil_image.size[1]))
    crop = pil_image.resize(
        (crop_size, crop_size), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0
    )
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if window.flip else crop


def _color_matrix(augmentation: Augmentation, rng: np.random.Generator) -> tuple[float, ...]:
    """A random affine map of colors, as Pillow takes it: three rows of r, g, b and offset."""
    contrast = 1 + augmentation.contrast * rng.uniform(-1, 1)
    saturation = 1 + augmentation.saturation * rng.uniform(-1, 1)
    if rng.random() < augmentation.grey:
        saturation = 0.0
    turn = np.deg2rad(augmentation.hue_degrees * rng.uniform(-1, 1))
    offset = 255 * augmentation.brightness * rng.uniform(-1, 1)
    channels = np.eye(3)
    if augmentation.recolor and rng.random() < augmentation.recolor:
        channels = channels[rng.permutation(3)]
        saturation, turn = 2 * rng.random(), rng.uniform(-np.pi, np.pi)
    sign = -1 if augmentation.invert and rng.random() < augmentation.invert else 1

    cosine, sine, axis = np.cos(turn), np.sin(turn), np.full(3, 1 / np.sqrt(3))
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = cosine * np.eye(3) + sine * cross + (1 - cosine) * np.outer(axis, axis)
    # Luminance is the axis that saturation and hue turn around.
    grey = np.outer(np.ones(3), LUMA)  # rgb -> luminance in every channel
    color = saturation * (rotation @ (np.eye(3) - grey)) + grey
    contrast *= sign  # about the middle grey
    middle = np.full((3, 1), 127.5 * (1 - contrast) + offset)
    return tuple(np.hstack([contrast * color @ channels, middle]).ravel().tolist())


def _membership_in(runs: Runs, window: Window, crop_size: int, points: IntArray) -> BoolArray:
    """Membership of crop pixels; those beyond the image belong to nothing."""
    pixels = _to_image(points, window, crop_size)
    inside = ((pixels >= 0) & (pixels < np.array(runs.size))).all(axis=1)
    held = membership(runs, pixels.clip(0, np.array(runs.size) - 1))
    return held & inside


def _to_image(points: IntArray, window: Window, crop_size: int) -> IntArray:
    """The image pixel under the center of each crop pixel."""
    columns = crop_size - 1 - points[:, 1] if window.flip else points[:, 1]
    y = window.top + (points[:, 0] + 0.5) * (window.height / crop_size)
    x = window.left + (columns + 0.5) * (window.width / crop_size)
    return np.floor(np.stack([y, x], axis=1)).astype(np.int64)
