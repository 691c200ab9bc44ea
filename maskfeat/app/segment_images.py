"""One image becomes a hierarchy, a cut through it, and the files that show both."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskfeat.app.nested_masks import annotate_cut
from maskfeat.app.segment_task import KEY, OUTPUTS, Task, Work
from maskfeat.arrays import RgbImage
from maskfeat.evaluate.drawing import contour_image, overlay_labels
from maskfeat.features.reading import Features
from maskfeat.features.weights import load_fused
from maskfeat.files import whole_file
from maskfeat.formats.sa1b import image_entry, json_bytes
from maskfeat.segment.hierarchy import Hierarchy, hierarchy
from maskfeat.segment.inputs import enlarged, reduced
from maskfeat.segment.tiles import superpixels_by_tiles

# What a hierarchy is built from.
Encoder = Callable[[RgbImage], Features | RgbImage]

MAX_SEGMENTS = 2**16  # numbers of 16 bits
_STRIP_PX = 512
# Of zlib, for images with texture: the usual 6 makes them 4 to 16 % smaller in four times as long.
_QUICK = 2


def encoder_of(model: str, device: str) -> Encoder:
    """What gives features of an image: a trained network, or for "lab" the image itself."""
    if model == "lab":
        return lambda rgb: rgb
    return load_fused(model, device).features


def segment_image(
    rgb: RgbImage, task: Task, origin: dict[str, Any], encoder: Encoder, work: Work
) -> None:
    """Segment one image, uint8, (H, W, 3), and write what `maskfeat segment` says it writes.

    The annotations come last, and earlier results go first: with them all is there, of one origin,
    see `origin_of`.

    Raises:
        ValueError: If it has more than 65,536 segments.
    """
    path, folder = task.path, task.folder
    if work.tile and rgb.shape[0] * rgb.shape[1] > work.max_megapixels * 1e6:
        graph = superpixels_by_tiles(rgb, encoder)
        tree = hierarchy(graph, merge_classifier=None if work.model == "lab" else "default")
    else:
        small = reduced(rgb, work.max_megapixels)  # means of its pixels in boxes
        if small is not rgb:
            logging.getLogger("maskfeat").info(
                "'%s', %d x %d, is reduced to %d x %d before it is segmented, and its segments are "
                "enlarged again",
                *(path, *rgb.shape[1::-1], *small.shape[1::-1]),
            )
        tree = hierarchy(encoder(small))
    segments = tree.segments_of_superpixels(**work.cut)
    num_segments = int(segments.max()) + 1
    if num_segments > MAX_SEGMENTS:
        raise ValueError(
            f"'{path}' has {num_segments} segments, and 16 bits number {MAX_SEGMENTS}; "
            "ask for fewer"
        )
    labels = segments.astype(np.uint16)[tree.superpixel_labels]
    key, size = path.stem, rgb.shape[:2]
    for former in (f"{key}.json", *(f"{key}_{name}.png" for name in OUTPUTS)):
        (folder / former).unlink(missing_ok=True)
    if "labels" in work.outputs:
        _write_png(folder / f"{key}_labels.png", enlarged(labels, size))
    if "contours" in work.outputs:
        _write_png(folder / f"{key}_contours.png", enlarged(_contours(tree), size), _QUICK)
    if "overlay" in work.outputs:
        _write_png(folder / f"{key}_overlay.png", overlay_labels(rgb, labels), _QUICK)
    image = image_entry(task.number, size, path, folder, work.read_as)
    annotations = annotate_cut(tree, labels, (size[0], size[1]))
    content = {"image": image, KEY: origin, "annotations": annotations}
    with whole_file(folder / f"{key}.json") as file:
        file.write(json_bytes(content))


def _contours(tree: Hierarchy) -> npt.NDArray[np.uint8]:
    """`contour_image`, by strips: that of a large image in floats takes gigabytes."""
    labels = tree.superpixel_labels
    drawn = np.empty(labels.shape, np.uint8)
    for top in range(0, len(labels), _STRIP_PX):
        first = max(0, top - 1)  # sides above and below a strip belong to it
        strip = Hierarchy(labels[first : top + _STRIP_PX + 1], tree.tree)
        drawn[top : top + _STRIP_PX] = contour_image(strip.ucm())[top - first :][:_STRIP_PX]
    return drawn


def _write_png(path: Path, pixels: npt.NDArray[Any], compress_level: int = 6) -> None:
    with whole_file(path) as file:
        Image.fromarray(pixels).save(file, "PNG", compress_level=compress_level)
