"""Screenshots of TensorBoard's real pages of a run, by a headless Chromium.

    python experiments/tensorboard/screenshots.py --logdir runs --out experiments/tensorboard

Starts TensorBoard on a free port of this machine, has Chromium draw each page, ends it, and writes
PAGE.png in 128 colors. Show none of images that you may not pass on: images of the run are
on the page `images`.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

PAGES = ("timeseries", "scalars", "images", "custom_scalars", "hparams")
PATIENCE_S = 120


def main() -> None:
    """Read the command line, draw, tell sizes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logdir", type=Path, required=True, help="folder of runs")
    parser.add_argument("--out", type=Path, required=True, help="folder for the images")
    parser.add_argument("--pages", nargs="+", default=list(PAGES), choices=PAGES)
    parser.add_argument("--size", type=int, nargs=2, default=[1400, 900], help="width, height")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with tensorboard(options.logdir) as address:
        for page in options.pages:
            path = options.out / f"{page}.png"
            screenshot(options.chromium, f"{address}/#{page}", path, tuple(options.size))
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


@contextlib.contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """A TensorBoard that has read the run; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Its fast loader is a program of its own, which not every system has.
    words = ["--logdir", logdir.name, "--port", str(port), "--load_fast=false"]
    process = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words],
        cwd=logdir.resolve().parent,  # the page names the folder as it is given
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        give_up = time.monotonic() + PATIENCE_S
        while not has_read(address):
            if process.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"TensorBoard shows nothing of '{logdir}'")
            time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


def has_read(address: str) -> bool:
    """Whether it answers, and has found curves."""
    try:
        with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=60) as answer:
            return len(answer.read()) > 2  # not {}
    except OSError:
        return False


def screenshot(chromium: str, url: str, path: Path, size: tuple[int, int]) -> None:
    """Draw a page as it is after 15 seconds of its own time, in 128 colors."""
    with tempfile.TemporaryDirectory() as profile:
        words = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={profile}", "--virtual-time-budget=15000"),
            *(f"--window-size={size[0]},{size[1]}", f"--screenshot={path.resolve()}"),
        ]
        subprocess.run([chromium, *words, url], check=True, capture_output=True, timeout=PATIENCE_S)
    with Image.open(path) as image:
        image.convert("RGB").quantize(128).save(path, optimize=True)


if __name__ == "__main__":
    main()
