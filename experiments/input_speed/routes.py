"""From a sample in a tar to a training example: our route, and the plain ones.

The plain routes are written as one does who has pycocotools, Pillow and NumPy at hand, and with
every favor that costs no thought: files are read by the same index, all masks are decoded in one
call, masks are resized by indexing (nearest), points are looked up in one go, and their points
are all uniform, where ours have half of them drawn at borders.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from maskfeat.batch import Example
from maskfeat.data.augment import (
    ExampleMaker,
    choose_window,
    jitter_color,
)
from maskfeat.data.settings import Augmentation, ExampleSettings
from maskfeat.data.shards.index import index_shard
from maskfeat.data.shards.indexed import IndexedShards

Route = Callable[[int, np.random.Generator], Example]


@dataclass(frozen=True)
class Setting:
    """How examples are cut.

    Attributes:
        crop_size: Height and width of an example, pixels.
        short_side: Scales count from the image reduced to it.
        num_points: Points of each example.
        max_masks: Most masks.
    """

    crop_size: int
    short_side: int
    num_points: int = 1024
    max_masks: int = 256

    def maker(self) -> ExampleMaker:
        """The very object that workers hold in training."""
        settings = ExampleSettings(
            self.crop_size, self.short_side, self.num_points, max_masks=self.max_masks
        )
        return ExampleMaker(settings, Augmentation())


def our_route(tars: list[str], setting: Setting) -> Route:
    """The code of training: indexed tars, an example maker."""
    shards, make = IndexedShards(tars), setting.maker()
    return lambda number, rng: make(shards[number % len(shards)], rng)


def plain_route(tars: list[str], setting: Setting, crop_first: bool) -> Route:
    """Full decoding of image and masks, resizing, cropping, looking up.

    Args:
        tars: The tars.
        setting: How examples are cut.
        crop_first: Crop at full size and resize the crop (as `RandomResizedCrop`) instead of
            resizing everything to the training scale and cropping then.
    """
    places = []
    for path in tars:
        index = index_shard(path)
        places += [(path, *span) for span in index.spans.tolist()]
    size, augmentation = setting.crop_size, Augmentation()

    def make(number: int, rng: np.random.Generator) -> Example:
        path, jpg_at, jpg_size, json_at, json_size = places[number % len(places)]
        with open(path, "rb") as tar:
            tar.seek(jpg_at)
            jpg = tar.read(jpg_size)
            tar.seek(json_at)
            content = json.loads(tar.read(json_size))
        pil_image = Image.open(io.BytesIO(jpg)).convert("RGB")
        masks = coco.decode([one["segmentation"] for one in content["annotations"]])  # (H, W, N)
        masks = masks.T  # (N, W, H), as they lie in memory: quicker to index
        window = choose_window(masks.shape[:0:-1], size, rng, augmentation, setting.short_side)
        if crop_first:
            image, masks = _crop_and_resize(pil_image, masks, window, size)
        else:
            image, masks = _resize_and_crop(pil_image, masks, window, size)
        if window.flip:
            image, masks = image[:, ::-1], masks[:, ::-1, :]
        image = jitter_color(np.ascontiguousarray(image), augmentation, rng)
        points = rng.integers(0, size, (setting.num_points, 2))
        held = masks[:, points[:, 1], points[:, 0]].astype(bool)
        return Example(path, image, points, held[held.any(axis=1)][: setting.max_masks])

    return make


def _resize_and_crop(pil_image, masks, window, size):
    height, width = masks.shape[:0:-1]
    new_height = max(size, round(height * size / window.height))
    new_width = max(size, round(width * size / window.width))
    resized = pil_image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    rows = (np.arange(new_height) + 0.5) * (height / new_height)
    columns = (np.arange(new_width) + 0.5) * (width / new_width)
    masks = masks[:, columns.astype(int)[:, None], rows.astype(int)[None, :]]
    top = min(max(0, round(window.top * size / window.height)), new_height - size)
    left = min(max(0, round(window.left * size / window.width)), new_width - size)
    image = np.asarray(resized)[top : top + size, left : left + size]
    return image, masks[:, left : left + size, top : top + size]


def _crop_and_resize(pil_image, masks, window, size):
    height, width = masks.shape[:0:-1]
    box = (window.left, window.top, window.left + window.width, window.top + window.height)
    box = (max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height))
    image = np.asarray(pil_image.resize((size, size), Image.Resampling.BILINEAR, box=box))
    rows = box[1] + (np.arange(size) + 0.5) * ((box[3] - box[1]) / size)
    columns = box[0] + (np.arange(size) + 0.5) * ((box[2] - box[0]) / size)
    rows = np.minimum(rows.astype(int), height - 1)
    columns = np.minimum(columns.astype(int), width - 1)
    return image, masks[:, columns[:, None], rows[None, :]]
