"""Draw the animation of the README: granularity on the left, clicks on the right.

Run it in the repository's root: `python docs/animation.py`. The image is a held-out drawn
scene, the model is maskfeat-b0, and the clicks are those of the standard simulated user.
"""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import maskfeat
from maskfeat.data.annotations.painting import decode_annotations
from maskfeat.evaluate.drawing import draw_borders, draw_clicks, overlay_mask
from maskfeat.evaluate.simulated_users import next_click

SCENE, OBJECT = "synth_000001_s8", 2  # of its masks, the largest first: an object of five parts
GRANULARITIES = [*np.linspace(0.9, 0.15, 16), *np.linspace(0.15, 0.9, 16)]
CLICKS, FRAMES_PER_CLICK, ENLARGED = 6, 4, 2
OUT = "docs/images/maskfeat.webp"


def read_scene(key: str) -> tuple[np.ndarray, list[np.ndarray]]:
    """The RGB image of a held-out drawn scene, and its masks, largest first."""
    with tarfile.open("data_shards/val-000000.tar") as shard:
        files = {ending: shard.extractfile(f"{key}.{ending}").read() for ending in ("jpg", "json")}
    rgb = np.asarray(Image.open(io.BytesIO(files["jpg"])).convert("RGB"))
    counts = [entry["segmentation"]["counts"] for entry in json.loads(files["json"])["annotations"]]
    return rgb, sorted(decode_annotations(counts, rgb.shape[:2]), key=lambda mask: -mask.sum())


def partition_frame(rgb: np.ndarray, labels: np.ndarray, granularity: float) -> np.ndarray:
    """Segments in their mean colors, with white borders."""
    numbers = np.arange(labels.max() + 1)
    means = np.stack([ndimage.mean(rgb[..., c], labels, numbers) for c in range(3)], axis=1)
    frame = enlarged(means.round().astype(np.uint8)[labels])
    frame = draw_borders(frame, enlarged(labels.astype(np.int32)))
    return titled(frame, f"granularity {granularity:.2f}: {len(numbers)} segments")


def click_frames(rgb: np.ndarray, target: np.ndarray, model: object) -> list[np.ndarray]:
    """The object after each click of the standard simulated user."""
    segmenter = maskfeat.InteractiveSegmenter(model)
    segmenter.set_image(rgb)
    mask, clicks, signs, frames = np.zeros_like(target), [], [], []
    for number in range(1, CLICKS + 1):
        place, is_positive = next_click(mask, target.astype(np.int8))
        mask = segmenter.click(*place, is_positive=is_positive)
        clicks.append(place)
        signs.append(is_positive)
        frame = overlay_mask(enlarged(rgb), enlarged(mask))
        frame = draw_clicks(frame, np.array(clicks) * ENLARGED, np.array(signs))
        iou = (mask & target).sum() / (mask | target).sum()
        ending = "" if number == 1 else "s"
        frames.append(titled(frame, f"{number} click{ending}: IoU {iou:.2f}"))
    return frames


def enlarged(pixels: np.ndarray) -> np.ndarray:
    """Each pixel as a square of pixels."""
    return pixels.repeat(ENLARGED, axis=0).repeat(ENLARGED, axis=1)


def titled(frame: np.ndarray, text: str) -> np.ndarray:
    """The frame under a line of text."""
    canvas = Image.new("RGB", (frame.shape[1], frame.shape[0] + 26), "white")
    canvas.paste(Image.fromarray(frame), (0, 26))
    ImageDraw.Draw(canvas).text((4, 3), text, fill="black", font_size=16)
    return np.asarray(canvas)


def main() -> None:
    """Write the animation."""
    rgb, masks = read_scene(SCENE)
    model = maskfeat.load()
    tree = maskfeat.hierarchy(model.features(rgb))
    left = [partition_frame(rgb, tree.cut(granularity=g), g) for g in GRANULARITIES]
    right = click_frames(rgb, masks[OBJECT], model)
    frames = []
    for number, partition in enumerate(left):
        clicked = right[min(number // FRAMES_PER_CLICK, CLICKS - 1)]
        gap = np.full((len(partition), 8, 3), 255, np.uint8)
        frames.append(Image.fromarray(np.concatenate([partition, gap, clicked], axis=1)))
    frames[0].save(
        OUT, save_all=True, append_images=frames[1:], duration=300, loop=0, quality=60, method=6
    )


if __name__ == "__main__":
    main()
