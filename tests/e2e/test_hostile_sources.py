"""Data as people have it, through the commands: nothing stale, nothing lost in silence."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from source_layouts import SIZE, save, write_coco, write_jpg

from maskfeat.data.annotations.image import SampleError, decode_image, known_formats
from maskfeat.data.convert import Settings, find_inputs
from maskfeat.data.convert.files import read_png
from maskfeat.data.convert.sample import shrink
from maskfeat.data.folder import read_image
from maskfeat.data.shards.index import scan_shard

FORMATS = known_formats()
RGB = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def areas(out: Path) -> list[int]:
    found = []
    for path in sorted(out.glob("*.tar")):
        data = path.read_bytes()
        for _, _, start, size in scan_shard(path).spans.tolist():
            found += [one["area"] for one in json.loads(data[start : start + size])["annotations"]]
    return found


def test_a_mask_redrawn_under_its_name_is_told_and_then_served(
    command: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "300")  # so that no line of the table is folded

    def draw(side: int) -> None:
        mask = np.zeros(SIZE, np.uint8)
        mask[2 : 2 + side, 2 : 2 + side] = 1
        save(tmp_path / "in/a.png", mask)
        os.utime(tmp_path / "in/a.png", ns=(side * 10**9, side * 10**9))  # ticks of any clock

    write_jpg(tmp_path / "in/a.jpg", RGB)
    draw(10)
    run = ("shards", "convert", "in", "--out", "out", "--num_workers", "0")
    command(*run)
    command("shards", "verify", "out", "--num_workers", "0")
    assert areas(tmp_path / "out") == [100]
    assert "1 shards are sound" in capsys.readouterr().out

    draw(40)
    with pytest.raises(SystemExit) as stop:
        command("shards", "verify", "out", "--num_workers", "0")
    assert stop.value.code == 1
    assert "its source has changed since; run shards convert again" in capsys.readouterr().out

    command(*run)
    command("shards", "verify", "out", "--num_workers", "0")
    assert areas(tmp_path / "out") == [1600]
    assert "1 shards are sound" in capsys.readouterr().out


def test_a_coco_file_as_it_comes_is_converted_or_refused_in_one_sentence(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    square = [[3, 2, 13, 2, 13, 12, 3, 12]]
    whole = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}
    instances = [
        {"segmentation": square},
        {"segmentation": whole, "iscrowd": 1},
        {"segmentation": None, "bbox": [1, 1, 5, 5]},
        {"segmentation": [[1, 1, 9, 9]]},
    ]
    path = write_coco(tmp_path / "in", {"a.jpg": instances, "b.jpg": []}, RGB)
    content = json.loads(path.read_bytes())
    for one in content["annotations"]:
        one["image_id"] = f"{one['image_id']}"
    path.write_text(json.dumps(content))
    run = ("shards", "convert", path, "--num_workers", "0")
    command(*run, "--out", "out")
    told = capsys.readouterr().out
    assert areas(tmp_path / "out") == [100]
    for reason in ("crowd", "no segmentation", "polygon of fewer than 3 corners"):
        assert f"masks left out: {reason}" in told
    command(*run, "--out", "kept", "--keep_crowds", "true")
    assert sorted(areas(tmp_path / "kept")) == [100, 3072]

    content["images"][1]["id"] = content["images"][0]["id"]
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit, match=r"two images have one id, 7: 'a\.jpg' and 'b\.jpg'"):
        command(*run, "--out", "third")


def test_a_folder_of_odd_images_is_segmented_and_the_log_says_how_they_are_read(
    command: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "photos"
    (place / "deeper").mkdir(parents=True)
    for name in ("one.jfif", "two.JPE"):
        Image.fromarray(RGB).save(place / name, "JPEG")
    Image.fromarray(RGB).save(place / "three.gif")
    frames = [Image.fromarray(255 - RGB)]
    Image.fromarray(RGB).save(place / "moves.gif", save_all=True, append_images=frames)
    deep = RGB.astype(np.uint16) * 256
    tifffile.imwrite(place / "full.tif", deep, photometric="rgb")
    tifffile.imwrite(place / "dark.tif", deep >> 4, photometric="rgb")
    planes = np.moveaxis(deep, 2, 0)
    tifffile.imwrite(place / "planes.tif", planes, photometric="rgb", planarconfig="separate")
    tifffile.imwrite(place / "stack.tif", np.stack([RGB] * 3), photometric="rgb")
    (place / "camera.raw").write_bytes(b"no")

    command("segment", "photos", "--model", "lab", "--out", "out")

    done = sorted(path.stem for path in (tmp_path / "out").glob("*.json"))
    assert done == ["dark", "full", "moves", "one", "planes", "stack", "three", "two"]
    told = capsys.readouterr()
    assert "left out" not in told.out
    for words in (
        "moves.gif': of its 2 pages the first is taken (--page)",
        "stack.tif': of its 3 pages the first is taken (--page)",
        "1 file and 1 folder (camera.raw, deeper/)",
    ):
        assert words in told.err.replace("\n", " ")
    for name in ("full", "dark", "planes"):  # the darkest and the brightest value become 0 and 255
        said = re.search(rf"{name}.tif': its values 0 to (\d+) become 0 to 255", told.err)
        assert said
        assert int(said[1]) == deep.max() >> (4 if name == "dark" else 0)


ODD: list[Any] = [
    *("a\0b", "x", "", "9" * 5000, "\ud800", None, True, 1.5, -1, 1e308, 2**70, [], {}),
    *(float("nan"), float("inf"), [[]], [None], [1, 2], [[1, 2, 3, 4, 5]], [["a"]]),
    *([[float("inf")] * 6], [[1e300] * 6], [[-1e9, 2, 3, 1e9, 5, 6]]),
    *({"size": [48, 64], "counts": None}, {"size": "x", "counts": [1]}, {"a": 1}),
]


def places(node: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value of a JSON."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node)
    for name, value in pairs:
        yield (*above, name)
        if isinstance(value, dict | list):
            yield from places(value, (*above, name))


def test_an_odd_value_anywhere_in_a_coco_file_is_a_sentence_or_a_skip(tmp_path: Path) -> None:
    square = {"segmentation": [[3, 2, 13, 2, 13, 12, 3, 12]]}
    counts = {"segmentation": {"size": list(SIZE), "counts": [5, 10, 48 * 64 - 15]}}
    path = write_coco(tmp_path, {"a.jpg": [square, counts], "b.jpg": [square]}, RGB)
    text, rng = path.read_text(), random.Random(0)
    ways = list(places(json.loads(text)))
    num_read = num_refused = 0
    for _ in range(250):
        content = json.loads(text)
        *above, name = rng.choice(ways)
        node = content
        for step in above:
            node = node[step]
        if isinstance(node, dict) and rng.random() < 0.2:
            del node[name]
        else:
            node[name] = rng.choice(ODD)
        path.write_text(json.dumps(content))
        try:
            inputs = find_inputs([str(path)])
        except (ValueError, FileNotFoundError):
            num_refused += 1
            continue
        for record in inputs[0].list_records():
            try:
                num_read += shrink("k", 1, record.read(), Settings()).num_masks > 0
            except SampleError:
                num_refused += 1
    assert num_read > 100
    assert num_refused > 20


@pytest.mark.filterwarnings("ignore")  # Pillow's, of broken files
def test_flipped_bytes_of_any_format_are_a_sentence_or_an_image(tmp_path: Path) -> None:
    rng = random.Random(0)
    frames = [Image.fromarray(255 - RGB)]
    for name in ("a.tif", "a.png", "a.gif", "a.webp", "a.jp2", "a.jpg", "a.bmp"):
        Image.fromarray(RGB).save(tmp_path / name)
    Image.fromarray(RGB).save(tmp_path / "b.tif", save_all=True, append_images=frames)
    tifffile.imwrite(tmp_path / "c.tif", RGB.astype(np.uint16) * 256, photometric="rgb")
    if "AVIF" in FORMATS:
        Image.fromarray(RGB).save(tmp_path / "a.avif")
    whole = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    for path, data in whole.items():
        for number in range(25):
            broken = bytearray(data[: rng.randrange(1, len(data))] if number % 5 == 0 else data)
            for _ in range(number % 4):
                broken[rng.randrange(min(len(broken), 400))] = rng.randrange(256)
            path.write_bytes(broken)
            for read, wrong in (
                (lambda path=path: read_image(path), ValueError),
                (lambda data=bytes(broken): decode_image(data, SIZE), SampleError),
                (lambda path=path: read_png(str(path), "mask"), SampleError),
            ):
                with contextlib.suppress(wrong):
                    assert read() is not None
