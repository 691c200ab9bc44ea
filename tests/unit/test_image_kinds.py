"""Images of every kind: read whole and right, or refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from source_layouts import save, write_jpg

from maskfeat.data import folder as image_files
from maskfeat.data.annotations.image import SampleError, check_image, decode_image
from maskfeat.data.annotations.read_as import ReadAs, read_as_of_words
from maskfeat.data.annotations.sample import read_sample
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.convert.files import read_labels, read_png
from maskfeat.data.folder import find_images, read_image
from maskfeat.data.shards.index import scan_shard

RAMP = np.linspace(0, 65535, 64).astype(np.uint16)
DEEP = np.stack([np.tile(RAMP, (48, 1)), np.tile(RAMP[::-1], (48, 1)), np.full((48, 64), 30000)], 2)
DEEP = DEEP.astype(np.uint16)  # 16 bits a channel
FLAT = (DEEP >> 8).astype(np.uint8)


def deep_png(path: Path, rgb: np.ndarray) -> None:
    """An RGB PNG of 16 bits, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", rgb.shape[1], rgb.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in rgb)
    chunks = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def tif(path: Path, values: np.ndarray, **options: Any) -> None:
    tifffile.imwrite(path, values, **{"photometric": "rgb", **options})


def frames(path: Path, **options: Any) -> None:
    other = Image.fromarray(255 - FLAT)
    Image.fromarray(FLAT).save(path, save_all=True, append_images=[other], **options)


def with_thumbnail(path: Path) -> None:
    with tifffile.TiffWriter(path) as file:
        file.write(FLAT, photometric="rgb")
        file.write(FLAT[::4, ::4], photometric="rgb", subfiletype=1)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("deep.tif", lambda p: tif(p, DEEP)),
        ("deep_zipped.tif", lambda p: tif(p, DEEP, compression="zlib")),
        ("planes.tif", lambda p: tif(p, np.moveaxis(FLAT, 2, 0), planarconfig="separate")),
        ("thumbnail.tif", with_thumbnail),
        ("deep.png", lambda p: deep_png(p, DEEP)),
        ("preview.mpo", frames),
        ("one.gif", lambda p: Image.fromarray(FLAT).save(p)),
        ("a.jp2", lambda p: Image.fromarray(FLAT).save(p)),
        ("a.JFIF", lambda p: Image.fromarray(FLAT).save(p, "JPEG", quality=95)),
    ],
)
def test_what_can_be_read_whole_is_read_right(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    assert find_images(str(tmp_path)) == [tmp_path / name]
    rgb = read_image(tmp_path / name)
    assert np.abs(rgb.astype(int) - FLAT).mean() < 3
    data = (tmp_path / name).read_bytes()
    assert np.array_equal(decode_image(data, (48, 64)), rgb)


FLOATS = (DEEP / 65535).astype(np.float32)


def many(path: Path, values: np.ndarray, **options: Any) -> None:
    tif(path, values, photometric="minisblack", **options)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("12_in_16.tif", lambda p: tif(p, DEEP >> 4)),
        ("12_in_16.png", lambda p: deep_png(p, DEEP >> 4)),
        ("dark.tif", lambda p: tif(p, DEEP // 100, compression="zlib")),
        ("deep_planes.tif", lambda p: tif(p, np.moveaxis(DEEP, 2, 0), planarconfig="separate")),
        ("floats.tif", lambda p: tif(p, FLOATS)),
        ("doubles.tif", lambda p: tif(p, 1e6 + 1e9 * FLOATS.astype(np.float64))),
        ("halves.tif", lambda p: tif(p, FLOATS.astype(np.float16))),
        ("signed.tif", lambda p: tif(p, DEEP.astype(np.int32) - 30000)),
    ],
)
def test_values_of_more_bits_are_scaled_by_percentiles_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    rgb = read_image(tmp_path / name)
    assert np.abs(rgb.astype(int) - DEEP / 257).max() < 2  # all channels by one rule
    assert "become 0 to 255 (--value_range)" in caplog.text
    data = (tmp_path / name).read_bytes()
    assert np.array_equal(decode_image(data, (48, 64)), rgb)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gray.png", DEEP[..., 0]),
        ("gray.tif", DEEP[..., 0]),
        ("float.tif", FLOATS[..., 0]),
        ("int.tif", DEEP[..., 0].astype(np.int32)),
    ],
)
def test_gray_of_more_bits_is_scaled(tmp_path: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values).save(tmp_path / name)
    rgb = read_image(tmp_path / name)
    assert np.abs(rgb.astype(int) - DEEP[..., :1] / 257).max() < 2


def test_a_range_is_what_the_user_says(tmp_path: Path) -> None:
    tif(tmp_path / "a.tif", DEEP)
    rgb = read_image(tmp_path / "a.tif", read_as=ReadAs(value_range=(10000, 20000)))
    expected = np.clip((DEEP.astype(float) - 10000) / 10000, 0, 1) * 255
    assert np.abs(rgb - expected).max() <= 0.5
    save(tmp_path / "b.png", FLAT)
    rgb = read_image(tmp_path / "b.png", read_as=ReadAs(value_range=(0, 127.5)))
    assert np.array_equal(rgb, np.minimum(FLAT.astype(int) * 2, 255))


def test_what_is_no_number_does_not_decide_the_range(tmp_path: Path) -> None:
    values = FLOATS[..., 0].copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    tif(tmp_path / "a.tif", values, photometric="minisblack")
    rgb = read_image(tmp_path / "a.tif")
    assert np.abs(rgb[1:].astype(int) - DEEP[1:, :, :1] / 257).max() < 2
    assert rgb[0, :3, 0].tolist() == [0, 255, 0]
    tif(tmp_path / "b.tif", np.full((8, 8), np.nan, np.float32), photometric="minisblack")
    with pytest.raises(ValueError, match="it holds no finite value"):
        read_image(tmp_path / "b.tif")


@pytest.mark.parametrize("name", ["a.tif", "a.gif", "a.png", "a.webp"])
def test_a_stack_says_which_page_is_taken_and_lets_choose(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = tmp_path / name
    if name == "a.tif":
        tif(path, np.stack([FLAT, 255 - FLAT]))
    else:
        frames(path, **({"lossless": True} if name == "a.webp" else {}))
    first = read_image(path).astype(int)
    assert np.abs(first - FLAT).mean() < 3
    assert "of its 2 pages the first is taken (--page)" in caplog.text
    second = read_image(path, read_as=ReadAs(page=2)).astype(int)
    assert np.abs(second - (255 - FLAT)).mean() < 3
    with pytest.raises(ValueError, match="it holds 2 pages or frames, so there is no 3"):
        read_image(path, read_as=ReadAs(page=3))


def test_any_of_five_pages_can_be_chosen(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pages = np.stack([FLAT // (n + 1) for n in range(5)])
    tif(tmp_path / "a.tif", pages)
    for number in range(1, 6):
        chosen = read_image(tmp_path / "a.tif", read_as=ReadAs(page=number))
        assert np.array_equal(chosen, pages[number - 1])
    read_image(tmp_path / "a.tif")
    assert "of its 5 pages the first is taken (--page)" in caplog.text


def test_a_page_of_deep_values_is_checked_by_its_own_header(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(DEEP[:8, :8], photometric="rgb")
        file.write(DEEP[:30, :40], photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    data, second = path.read_bytes(), ReadAs(page=2)
    check_image(data, (40, 30), second)  # it is turned, the first is not
    assert decode_image(data, (40, 30), read_as=second).size == (30, 40)
    with pytest.raises(SampleError) as wrong:
        check_image(data, (8, 8), second)
    assert wrong.value.reason == "size mismatch"
    with pytest.raises(ValueError, match="megapixels"):
        read_image(path, 0.0001, second)
    with pytest.raises(SampleError, match="there is no 3"):
        check_image(data, (8, 8), ReadAs(page=3))


@pytest.mark.parametrize("layout", ["contig", "separate", "imagej"])
@pytest.mark.parametrize("num", [2, 6])
def test_of_many_channels_three_are_chosen(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, layout: str, num: int
) -> None:
    values = np.stack([(FLAT[..., 0] // (n + 1)).astype(np.uint8) for n in range(num)])
    path = tmp_path / "a.tif"
    if layout == "imagej":
        tifffile.imwrite(path, values, imagej=True, metadata={"axes": "CYX"})
    else:
        many(
            path, values if layout == "separate" else np.moveaxis(values, 0, 2), planarconfig=layout
        )
    rgb = read_image(path)
    taken = [values[0], values[1], values[2] if num > 2 else 0 * values[0]]
    assert np.array_equal(rgb, np.stack(taken, 2))
    assert f"of its {num} channels" in caplog.text
    assert np.array_equal(read_image(path, read_as=ReadAs(channels=(2,)))[..., 0], values[1])
    chosen = read_image(path, read_as=ReadAs(channels=(2, 1, 2)))
    assert np.array_equal(chosen, np.stack([values[1], values[0], values[1]], 2))
    with pytest.raises(ValueError, match=f"it has {num} channels, so there is no channel 7"):
        read_image(path, read_as=ReadAs(channels=(7,)))


def test_channels_that_are_no_colors_are_scaled_each_by_itself(tmp_path: Path) -> None:
    values = np.stack([DEEP[..., 0], DEEP[..., 0] // 50, DEEP[..., 0] // 7, DEEP[..., 1]], 2)
    many(tmp_path / "a.tif", values, planarconfig="contig")
    rgb = read_image(tmp_path / "a.tif").astype(int)
    assert np.abs(rgb - DEEP[..., :1] / 257).max() < 2


def test_alpha_and_palettes_keep_their_colors(tmp_path: Path) -> None:
    alpha = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    Image.fromarray(np.dstack([FLAT, alpha])).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), FLAT)
    tif(tmp_path / "b.tif", np.dstack([DEEP, DEEP[..., :1]]), extrasamples=["unassalpha"])
    assert np.abs(read_image(tmp_path / "b.tif").astype(int) - DEEP / 257).max() < 2
    palette = Image.fromarray(FLAT).quantize(16)
    palette.save(tmp_path / "c.png", transparency=3)
    assert np.array_equal(read_image(tmp_path / "c.png"), np.asarray(palette.convert("RGB")))


def test_what_is_no_image_is_said_in_one_sentence(tmp_path: Path) -> None:
    tif(tmp_path / "a.tif", np.zeros((8, 8), np.complex64), photometric="minisblack")
    with pytest.raises(ValueError, match="must hold real numbers, got complex64"):
        read_image(tmp_path / "a.tif")
    ranges = [{"value_range": span} for span in ((3, 3), (0, np.inf), (-np.inf, 0), (0, np.nan))]
    for words in ({"page": 0}, {"channels": (1, 2)}, *ranges):
        with pytest.raises(ValueError, match=next(iter(words))):
            ReadAs(**words)


@pytest.mark.parametrize(
    "read_as", ['{"channels": [Infinity]}', f'{{"value_range": [0, {10**400}]}}']
)
def test_a_way_to_read_beyond_all_numbers_costs_its_sample_alone(read_as: str) -> None:
    mask = '{"segmentation": {"size": [8, 8], "counts": [0, 64]}}'
    content = f'{{"image": {{"read_as": {read_as}}}, "annotations": [{mask}]}}'
    with pytest.raises(SampleError, match="read_as of its image") as wrong:
        read_sample("a", "a.tar", b"", content.encode())
    assert wrong.value.reason == "bad json"


def test_channels_without_end_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="channels must be finite numbers"):
        read_as_of_words(None, "inf", None)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_tiff_lies_upright_as_a_turned_jpeg_does(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for ending in ("tif", "jpg"):
        Image.fromarray(FLAT).save(tmp_path / f"a.{ending}", exif=exif.tobytes(), quality=95)
    expected = read_image(tmp_path / "a.jpg").astype(int)
    size = (expected.shape[0], expected.shape[1])
    decoded = decode_image((tmp_path / "a.tif").read_bytes(), size)
    for rgb in (read_image(tmp_path / "a.tif"), np.asarray(decoded)):
        assert rgb.shape == expected.shape
        assert np.abs(rgb - expected).mean() < 3


def test_what_is_passed_over_in_a_folder_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (
        "a.jfif",
        "b.JPE",
        "c.gif",
        "d.avif",
        "e.jp2",
        "f.heic",
        "notes.txt",
        "g.svg",
        ".hidden",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "more.jpg").mkdir()
    (tmp_path / os.fsdecode(b"z\xff.doc")).write_bytes(b"")
    for _ in range(2):  # asked for twice, said once
        found = find_images(str(tmp_path))
    names = ["a.jfif", "b.JPE", "c.gif", "d.avif", "e.jp2", "f.heic"]
    assert [path.name for path in found] == names
    lines = [one for one in caplog.text.splitlines() if "passed over" in one]
    assert len({line.split("passed over")[1] for line in lines}) == 1
    assert r"3 files and 1 folder (g.svg, notes.txt, z\udcff.doc, more.jpg/)" in lines[0]


def test_a_folder_without_an_image_tells_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.svg").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"but 1 file and 1 folder \(a\.svg, sub/\); name"):
        find_images(str(tmp_path))


def test_images_in_folders_within_are_found_but_not_the_results(tmp_path: Path) -> None:
    for name in ("b.png", "in/a.png", "in/deep/c.tif", "out/b_overlay.png", ".hidden/d.png"):
        save(tmp_path / name, FLAT)
    found = find_images(str(tmp_path), is_recursive=True, left_out=tmp_path / "out")
    names = [path.relative_to(tmp_path).as_posix() for path in found]
    assert names == ["b.png", "in/a.png", "in/deep/c.tif"]


def test_heic_is_read_with_its_reader_and_else_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic")
    monkeypatch.setattr(image_files, "known_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(ValueError, match=r"reading \.heic takes pip install 'maskfeat\[images\]'"):
        read_image(tmp_path / "b.heic")
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.from_pillow(Image.fromarray(FLAT)).save(tmp_path / "a.heic", quality=95)
    assert np.abs(read_image(tmp_path / "a.heic").astype(int) - FLAT).mean() < 5


def convert(source: Path, **settings: Any) -> dict[str, Any]:
    out = source.parent / "out"
    return convert_inputs(
        find_inputs([str(source)]), out, Settings(**settings), num_workers=0
    ).summary()


def test_images_of_every_format_become_shards(tmp_path: Path) -> None:
    endings = [".jpg", ".JPE", ".jfif", ".png", ".webp", ".bmp", ".tif", ".jp2", ".gif"]
    for number, ending in enumerate(endings):
        path = tmp_path / f"in/images/k{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            Image.fromarray(FLAT).save(file, Image.registered_extensions()[ending.lower()])
        save(tmp_path / f"in/masks/k{number}.png", np.ones((48, 64), np.uint8))
    save(tmp_path / "in/masks/stray.png", np.ones((48, 64), np.uint8))
    summary = convert(tmp_path / "in")
    assert summary["samples"] == len(endings)
    assert summary["skipped"] == {"incomplete": 1}
    [path] = (tmp_path / "out").glob("*.tar")
    data = path.read_bytes()
    for key, (start, size, at, length) in zip(
        (index := scan_shard(path)).keys, index.spans.tolist(), strict=True
    ):
        sample = read_sample(key, "", data[start : start + size], data[at : at + length])
        with Image.open(io.BytesIO(sample.jpg)) as image:
            assert image.format == "JPEG"
        assert np.abs(sample.decode().astype(int) - FLAT).mean() < 8


def test_what_is_neither_image_nor_mask_is_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "in"
    for key in "abc":
        write_jpg(place / f"{key}.jpg", FLAT)
    for name in ("a.png", "b.png", "b.bmp", "lone.png", "c/0.PNG", "c/1.tif"):
        save(place / name, np.ones((48, 64), np.uint8))
    (place / "d.webp").write_bytes(b"")
    (place / "deeper").mkdir()
    (place / "notes.txt").write_bytes(b"")
    summary = convert(place)
    assert summary["samples"] == 2
    assert summary["masks"] == 3  # c has two, in files of other endings
    assert summary["skipped"] == {"bad mask": 1, "incomplete": 3}
    assert "its masks are in 'b.bmp' and 'b.png'; keep one of them" in caplog.text
    for name in ("lone.png", "d.webp", "deeper"):
        assert f"'{place / name}' is " in caplog.text
    assert "1 file (notes.txt)" in caplog.text


def test_two_images_of_one_name_are_refused_by_their_names(tmp_path: Path) -> None:
    for name in ("a.jpeg", "a.jpg"):
        write_jpg(tmp_path / name, FLAT)
    with pytest.raises(ValueError, match=r"two images of one name, 'a\.jpeg' and 'a\.jpg'; keep"):
        find_inputs([str(tmp_path)])


MASK = np.zeros((48, 64), np.uint8)
MASK[5:25, 10:30] = 255


@pytest.mark.parametrize("color", [0, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_in_the_alpha_of_one_color_is_read(tmp_path: Path, color: int, mode: str) -> None:
    image = Image.new(mode[:-1], (64, 48), color if mode == "LA" else (color,) * 3)
    image.putalpha(Image.fromarray(MASK))
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_png(str(tmp_path / "a.png"), "mask") > 0, MASK > 0)


def test_color_and_alpha_that_agree_are_one_and_others_are_refused(tmp_path: Path) -> None:
    labels = np.where(MASK > 0, 7, 0).astype(np.uint8)
    for name, alpha in (("same", MASK), ("full", np.full_like(MASK, 255)), ("half", MASK.T)):
        image = Image.fromarray(labels)
        image.putalpha(Image.fromarray(np.resize(alpha, MASK.shape)))
        image.save(tmp_path / f"{name}.png")
    for name in ("same", "full"):
        assert np.array_equal(read_png(str(tmp_path / f"{name}.png"), "mask"), labels)
    with pytest.raises(SampleError, match="color and its alpha tell different masks"):
        read_png(str(tmp_path / "half.png"), "mask")


def test_numbers_of_16_bits_in_color_and_pages_are_no_masks(tmp_path: Path) -> None:
    deep_png(tmp_path / "a.png", DEEP)
    tif(tmp_path / "b.tif", np.stack([MASK] * 3), photometric="minisblack")
    for name, told in (("a.png", "in color it must hold 8 bits"), ("b.tif", "several pages")):
        with pytest.raises(SampleError, match=told):
            read_png(str(tmp_path / name), "mask")


def voc_palette() -> list[int]:
    """Of PASCAL VOC: the bits of a number go to the high bits of red, green and blue in turn."""
    colors = np.zeros((256, 3), int)
    for number in range(256):
        for bit in range(8):
            colors[number, bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return colors.ravel().tolist()


def test_255_is_void_in_maps_of_voc_and_nowhere_else_unless_wanted(tmp_path: Path) -> None:
    labels = np.zeros((48, 64), np.uint8)
    labels[:, :30], labels[:, 30:34] = 1, 255
    for key in ("voc", "gray"):
        write_jpg(tmp_path / f"in/{key}.jpg", FLAT)
    save(tmp_path / "in/gray.png", labels)
    image = Image.fromarray(labels)
    image.putpalette(voc_palette())
    image.save(tmp_path / "in/voc.png")

    def values(name: str, void: str) -> list[int]:
        return np.unique(read_labels(str(tmp_path / f"in/{name}.png"), void)[0]).tolist()

    assert image.getpalette()[765:] == [224, 224, 192]
    assert [values("voc", void) for void in ("auto", "255", "none")] == [
        [0, 1],
        [0, 1],
        [0, 1, 255],
    ]
    assert [values("gray", void) for void in ("auto", "255", "1")] == [
        [0, 1, 255],
        [0, 1],
        [0, 255],
    ]
    summary = convert(tmp_path / "in")
    assert summary["masks"] == 3
    assert summary["masks_left_out"] == {"void": 1}
    with pytest.raises(
        ValueError, match="void_label must be auto, none or a whole number, got 'x'"
    ):
        Settings(void_label="x")
