"""What it takes to segment SA-1B to shards: measured seconds and bytes, assumed machines.

    python experiments/scale/segment_cost.py PHOTOS --out experiments/scale

PHOTOS is a folder of images of the size that SA-1B has. `segment_cost.json` keeps what was
measured, `segment_cost.md` the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from maskfeat.app.segment_shards import SegmentRecipe
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.convert.images import list_image_folder

IMAGES, TARS, TERABYTES = 11_185_362, 1000, 11  # of SA-1B, as published
SHARD_MB = 256
# Assumed.
READ_GB_S = 1.0  # that a shared disk gives to all
SETUPS = (
    ("processes, one machine of 64 cores", 64),
    ("Slurm array or submitit, 1000 jobs of one core", 1000),
    ("dask, 16 machines of 64 cores", 1024),
    ("ray, 16 machines of 64 cores", 1024),
)
START = (
    "from maskfeat.app.segment_shards import _encoder; import maskfeat.segment.hierarchy;"
    "import maskfeat.app.nested_masks; _encoder('maskfeat-b0', 'cpu')"
)


def measured(photos: Path) -> dict:
    """CPU seconds and bytes of an image, and CPU seconds that a worker takes to start."""
    subprocess.run([sys.executable, "-c", START], check=True)
    times = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start_s = (int(times[13]) + int(times[14])) / 100  # of children that have ended
    recipe = SegmentRecipe("maskfeat-b0", "cpu", {"granularity": 0.4})
    records = list_image_folder(photos, Limits())
    recipe.make("warm", 1, records[0])
    began = time.process_time()
    made = [recipe.make(record.key, 1, record) for record in records]
    return {
        "images": len(made),
        "size_px": recipe.size,
        "cpu_s_per_image": round((time.process_time() - began) / len(made), 3),
        "jpg_kb": round(sum(len(one.jpg) for one in made) / len(made) / 1e3, 1),
        "json_kb": round(sum(len(one.json) for one in made) / len(made) / 1e3, 1),
        "masks": round(sum(one.num_masks for one in made) / len(made), 1),
        "start_cpu_s": round(start_s, 1),
    }


def table(found: dict) -> str:
    """The table, Markdown."""
    image_s, kilobytes = found["cpu_s_per_image"], found["jpg_kb"] + found["json_kb"]
    in_shard = SHARD_MB * 1e3 / kilobytes
    lost_minutes = in_shard / 2 * image_s / 60
    lines = [
        "| executor, machines (assumed) | core hours | hours | reading at most | a killed worker |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, cores in SETUPS:
        workers = min(cores, TARS) if cores > 64 else cores
        waves = -(-TARS // workers) if cores > 64 else TARS / workers
        core_hours = (IMAGES * image_s + max(TARS, workers) * found["start_cpu_s"]) / 3600
        hours = waves * (IMAGES / TARS * image_s + found["start_cpu_s"]) / 3600
        reading = TERABYTES * 1e3 / READ_GB_S / 3600
        lines.append(
            f"| {name} | {core_hours:,.0f} | {hours:,.1f} | {reading:.1f} h "
            f"| {lost_minutes:.0f} min of one core |"
        )
    disk = IMAGES * kilobytes / 1e9
    lines.append("")
    lines.append(f"Shards: {disk:.2f} TB, {in_shard:,.0f} images in one of {SHARD_MB} MB.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, or take what was measured, and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    found = measured(given.photos)
    (given.out / "segment_cost.json").write_text(json.dumps(found, indent=1) + "\n")
    (given.out / "segment_cost.md").write_text(table(found))


if __name__ == "__main__":
    main()
