"""`maskfeat shards segment` under each executor: a worker and the driver die, bytes are compared.

    python experiments/scale/executors.py DATA --out experiments/scale --num 2000 --side 64

DATA holds folders of tars of photographs. NUM of them, reduced to a short side of SIDE pixels, are
put into 8 tars. They are segmented once without disturbance, then under each executor: a worker is
killed by SIGKILL after the first shard, the driver four shards later; then the same command is
called again to the end.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from PIL import Image

NUM_TARS = 8
SETS = ("animals", "ccp", "carparts", "coco_mini", "facades", "bsds500")
OPTIONS = {
    "processes": None,
    "dask": {"n_workers": 2, "dashboard_address": None},
    "submitit": {"cluster": "local"},
    "ray": {"include_dashboard": False},
}
PARTS = {"submitit": 2}  # jobs of this machine all run at once


def write_tars(data: Path, folder: Path, num: int, side: int) -> None:
    """Reduced photographs, dealt out to tars."""
    folder.mkdir()
    tars = [tarfile.open(folder / f"photos_{n}.tar", "w") for n in range(NUM_TARS)]
    for number, photo in zip(range(num), photographs(data), strict=False):
        photo.thumbnail((4 * side, side) if photo.width > photo.height else (side, 4 * side))
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=90)
        member = tarfile.TarInfo(f"photo_{number:05d}.jpg")
        member.size = file.tell()
        file.seek(0)
        tars[number % NUM_TARS].addfile(member, file)
    for tar in tars:
        tar.close()


def photographs(data: Path):
    """The photographs of the sets, one after the other."""
    for name in SETS:
        for path in sorted((data / name).glob("*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    if member.name.endswith(".jpg"):
                        file = tar.extractfile(member)
                        assert file is not None
                        yield Image.open(file).convert("RGB")


def command(work: Path, out: Path, name: str) -> list[str]:
    """The command under an executor; shards are small, so that there is much to be cut off."""
    words = [sys.executable, "-m", "maskfeat", "shards", "segment", str(work / "in")]
    words += [f"--out={out}", "--shard-mb=0.1", f"--executor={name}"]
    options = OPTIONS[name]
    words += (
        ["--num-workers=1"] if options is None else [f"--executor-options={json.dumps(options)}"]
    )
    return words + ([f"--parts={PARTS[name]}"] if name in PARTS else [])


def notes(out: Path) -> list[dict]:
    """What is known of each finished shard."""
    return [json.loads(p.read_bytes()) for p in out.glob(".convert/*-[0-9]*.json")]


def wait_for(condition, process: subprocess.Popen) -> None:
    """Wait until something is so; it must be before the driver ends."""
    while not condition():
        if process.poll() is not None:
            raise RuntimeError(f"the driver has ended too soon: {process.args}")
        time.sleep(0.1)


def worker_of(out: Path, driver: int) -> int | None:
    """A process that writes an input: as its lock says, or of the pool of the driver."""
    for lock in out.glob(".convert/*.lock"):
        try:
            process = int(json.loads(lock.read_text())["process"])
        except (OSError, ValueError):
            continue
        if process != driver:
            return process
        listed = [p.read_text().split() for p in Path(f"/proc/{driver}/task").glob("*/children")]
        pools = [int(one) for some in listed for one in some if is_pool(int(one))]
        return pools[0] if pools else None
    return None


def is_pool(process: int) -> bool:
    """Whether a child of the driver is a worker of its pool."""
    return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()


def bytes_of(out: Path) -> dict[str, str]:
    """Checksums of all that a user sees."""
    paths = [p for p in out.iterdir() if p.is_file()]
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def disturbed(work: Path, name: str, log: Path) -> dict:
    """Kill a worker, then the driver, then call the command again."""
    out, words = work / name, command(work, work / name, name)
    began = time.monotonic()
    with log.open("w") as file:
        driver = subprocess.Popen(words, stdout=file, stderr=file)
        wait_for(lambda: notes(out), driver)
        first_s = time.monotonic() - began
        worker = worker_of(out, driver.pid)
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        before = len(notes(out))
        wait_for(lambda: len(notes(out)) >= before + 4, driver)
        driver.kill()
        driver.wait()
        done = sum(note["samples"] for note in notes(out))
        again_at = time.monotonic()
        subprocess.run(words, stdout=file, stderr=file, check=True)
    return {
        "executor": name,
        "first_shard_s": round(first_s, 1),
        "images_done_at_kill": done,
        "to_the_end_s": round(time.monotonic() - again_at, 1),
        "total_s": round(time.monotonic() - began, 1),
        "same_bytes": bytes_of(out) == bytes_of(work / "whole"),
    }


def main() -> None:
    """Run all, and write executors.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--executors", nargs="+", default=list(OPTIONS))
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp())
    work.mkdir(exist_ok=True)
    result = given.out / "executors.json"
    if not (work / "whole/index.json").exists():
        found = undisturbed(given.data, work, given.num, given.side)
    else:  # another executor, on the same images
        found = json.loads(result.read_bytes())
    for name in given.executors:
        others = [one for one in found["executors"] if one["executor"] != name]
        found["executors"] = [*others, disturbed(work, name, work / f"{name}.log")]
        print(found["executors"][-1], flush=True)
        result.write_text(json.dumps(found, indent=1) + "\n")


def undisturbed(data: Path, work: Path, num: int, side: int) -> dict:
    """Segment all in one process, and say what it takes."""
    write_tars(data, work / "in", num, side)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command(work, work / "whole", "processes"), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    index = json.loads((work / "whole/index.json").read_bytes())
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "images": index["samples"],
        "masks": index["masks"],
        "megabytes": round(index["bytes"] / 1e6, 1),
        "shards": len(index["shards"]),
        "side_px": side,
        "undisturbed_s": round(time.monotonic() - began, 1),
        "undisturbed_cpu_s": round(cpu_s, 1),
        "executors": [],
    }


if __name__ == "__main__":
    main()
