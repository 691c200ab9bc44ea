"""What the shipped model makes of images unlike those it was trained on: a page of strips.

    python experiments/beyond/images.py

Writes to runs/beyond a page, index.html, with one strip for each image: the image, its features as
colors, ultrametric contour map, granularity 0.5, and 100 segments. The images of a set that
are kept in experiments/beyond show the same without the images, which may not be handed on; of
drawn scenes with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track

import maskfeat
from maskfeat.data.folder import read_image
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.evaluate.drawing import (
    ColorProjection,
    RgbImage,
    contour_image,
    draw_borders,
    feature_colors,
    label_colors,
    strip,
)
from maskfeat.evaluate.scoring import evenly_spaced
from maskfeat.features.pyramid import FeaturePyramid

SHARDS = {
    "camvid": "{root}/camvid/val-*.tar",
    "ade20k": "{root}/ade20k_sample/train-*.tar",
    "carparts": "{root}/carparts/val-*.tar",
    "drawn": "data_shards/val-*.tar",
}
PHOTOGRAPHS = {"sa1b": "{root}/sa1b_sample/images"}
WIDTH = 320  # pixels of an image on the page


def images_of(root: str, count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name of the set and image, uint8 (H, W, 3); some of each set, at regular steps."""
    for name, folder in PHOTOGRAPHS.items():
        for path in sorted(Path(folder.format(root=root)).glob("*.jpg")):
            yield name, read_image(path)
    for name, pattern in SHARDS.items():
        shards = IndexedShards(pattern.format(root=root))
        for number in evenly_spaced(len(shards), count):
            yield name, shards[number].decode()


def panels(net: FeaturePyramid, rgb: np.ndarray) -> list[RgbImage]:
    """Image, features, contours, granularity 0.5, 100 segments, all `WIDTH` wide."""
    features = net.features(rgb)
    tree = maskfeat.hierarchy(features)
    images = [rgb, feature_colors(features, ColorProjection())]
    images.append(np.repeat(255 - contour_image(tree.ucm())[..., None], 3, axis=2))
    for labels in (tree.cut(granularity=0.5), maskfeat.partition(features, 100)):
        images.append(draw_borders(label_colors(labels), labels))
    size = WIDTH, round(rgb.shape[0] * WIDTH / rgb.shape[1])
    return [np.asarray(Image.fromarray(p).resize(size, Image.Resampling.BOX)) for p in images]


def stacked(strips: list[RgbImage]) -> RgbImage:
    """Strips of one width below each other: a strip turned on its side."""
    return strip([one.swapaxes(0, 1) for one in strips]).swapaxes(0, 1)


def main() -> None:
    """Draw all, write the page and the images that may be kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="maskfeat-b0", help="a name, .ckpt or .safetensors")
    parser.add_argument("--root", default="../shared/data", help="folder of the data sets")
    parser.add_argument("--count", type=int, default=4, help="images of a set of shards")
    parser.add_argument("--page", type=Path, default=Path("runs/beyond"))
    parser.add_argument("--out", type=Path, default=Path("experiments/beyond"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    net = maskfeat.load(args.model)
    args.page.mkdir(parents=True, exist_ok=True)
    args.out.mkdir(parents=True, exist_ok=True)
    lines = ["<!doctype html><meta charset=utf-8><title>maskfeat beyond its masks</title>"]
    lines.append("<p>Image, features as colors, contours, granularity 0.5, 100 segments.</p>")
    kept: dict[str, list[RgbImage]] = {}
    for number, (name, rgb) in enumerate(track(list(images_of(args.root, args.count)), "drawing")):
        shown = panels(net, rgb)
        Image.fromarray(strip(shown)).save(args.page / f"{number}.png")
        lines.append(f"<h3>{name}</h3><img src='{number}.png'>")
        kept.setdefault(name, []).append(strip(shown if name == "drawn" else shown[1:]))
    (args.page / "index.html").write_text("\n".join(lines) + "\n")
    for name, strips in kept.items():
        image = Image.fromarray(stacked(strips))
        image.quantize(128).save(args.out / f"{name}.png", optimize=True)
    print(f"{args.page / 'index.html'} and {', '.join(f'{n}.png' for n in kept)} in {args.out}")


if __name__ == "__main__":
    main()
