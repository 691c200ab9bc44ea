"""Label maps of drawn scenes, written as polygons and read again by shapely.

    python experiments/formats/round_trip.py --num 1000

For each map: the IoU of the worst label, the area of overlaps and of gaps between the polygons of
all labels, and how many corners they have for each step of the borders between pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import shapely
from rich.progress import track

from maskfeat.arrays import IntArray
from maskfeat.data.synth.scene import draw_scene
from maskfeat.formats.coverage import label_polygons

SIZE, SEED = (96, 128), 26


def score(labels: IntArray, tolerance_px: float) -> dict[str, float]:
    """What is lost of a label map in its polygons."""
    rows, columns = np.mgrid[: labels.shape[0], : labels.shape[1]] + 0.5
    worst, shapes, num_corners = 1.0, list[shapely.Geometry](), 0
    for label, parts in label_polygons(labels, tolerance_px).items():
        shape = shapely.union_all([shapely.Polygon(rings[0], rings[1:]) for rings in parts])
        found, true = shapely.contains_xy(shape, columns, rows), labels == label
        worst = min(worst, float((found & true).sum() / (found | true).sum()))
        shapes.append(shape)
        num_corners += shapely.get_num_coordinates(shape)
    whole = shapely.union_all(shapes)
    steps = (labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()
    return {
        "worst_iou": worst,
        "overlap_px": float(shapely.area(shapes).sum() - whole.area),
        "gap_px": float(labels.size - whole.area),
        "corners_per_step": num_corners / max(1, 2 * int(steps) + 2 * sum(labels.shape)),
    }


def main() -> None:
    """Score many maps at some tolerances, print a table and keep it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--tolerances", type=float, nargs="+", default=[0.5, 1.0])
    parser.add_argument("--out", type=Path, default=Path("experiments/formats/results.json"))
    args = parser.parse_args()
    numbers = track(range(args.num), "drawing")
    maps = [draw_scene(SEED, number, SIZE).levels["subpart"] for number in numbers]
    results = {}
    for tolerance in args.tolerances:
        found = [score(labels, tolerance) for labels in track(maps, f"tolerance {tolerance}")]
        results[str(tolerance)] = {
            "maps": len(found),
            "worst_iou": min(one["worst_iou"] for one in found),
            "mean_worst_iou": float(np.mean([one["worst_iou"] for one in found])),
            "most_overlap_px": max(abs(one["overlap_px"]) for one in found),
            "most_gap_px": max(abs(one["gap_px"]) for one in found),
            "corners_per_step": float(np.mean([one["corners_per_step"] for one in found])),
        }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print("| tolerance | worst IoU | mean of each map's worst | overlap | gap | corners a step |")
    print("|--:|--:|--:|--:|--:|--:|")
    for tolerance, row in results.items():
        print(
            f"| {tolerance} | {row['worst_iou']:.4f} | {row['mean_worst_iou']:.4f} | "
            f"{row['most_overlap_px']:.1e} | {row['most_gap_px']:.1e} | "
            f"{row['corners_per_step']:.2f} |"
        )


if __name__ == "__main__":
    main()
