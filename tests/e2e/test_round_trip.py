"""Images of any format become masks, and these, where they lie, are trained on."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from drawn_images import ON_DISC, ON_GROUND, click, disc, drawn, iou, write_images
from fits import CHECKPOINTS, TWO_STEPS
from PIL import Image
from served_pages import act, annotate_app, client_of, ready_view

from maskfeat.data.annotations.image import known_formats
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.data.folder import find_images, read_image
from maskfeat.data.heldout import ShardImages
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples

ENDINGS = ["jpg", "png", "tif", "webp", *(["avif"] if "AVIF" in known_formats() else [])]


@pytest.fixture
def photos(tmp_path: Path, repository: Path) -> Path:
    """Drawn scenes in a file of each format, half of them in a folder within."""
    scenes = ShardImages(str(repository / "data_shards/val-*.tar"), len(ENDINGS))
    (tmp_path / "photos/inner").mkdir(parents=True)
    for number, ending in enumerate(ENDINGS):
        folder = tmp_path / "photos" / ("inner" if number % 2 else "")
        image = Image.fromarray(scenes[number].image)
        if ending == "jpg":  # as a camera writes it that was held upright
            exif = Image.Exif()
            exif[0x0112] = 6
            image.transpose(Image.Transpose.ROTATE_90).save(folder / "s0.jpg", exif=exif.tobytes())
        else:
            image.save(folder / f"s{number}.{ending}")
    return tmp_path / "photos"


def png_tar(path: Path, photos: Path, masks: Path) -> None:
    """A tar with PNG images; beside one lies a JPEG, which then is the image."""
    with tarfile.open(path, "w") as tar:
        for number, key in enumerate(("s0", "s2")):
            with Image.open(next(photos.glob(f"{key}.*"))) as image:
                shown = np.asarray(image.convert("RGB"))
            files = {"png": io.BytesIO(), "json": io.BytesIO((masks / f"{key}.json").read_bytes())}
            if number:
                files = {"jpg": io.BytesIO(), **files}
                Image.fromarray(shown).save(files["jpg"], "JPEG")
                Image.new("L", shown.shape[1::-1]).save(files["png"], "PNG")  # a mask, say
            else:
                upright = read_image(photos / "s0.jpg")
                Image.fromarray(upright).save(files["png"], "PNG")
            for ending, file in files.items():
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(file.getvalue())
                tar.addfile(member, io.BytesIO(file.getvalue()))


def cut_out_a_disc(paths: list[Path], out: Path) -> None:
    """Finish an object in each image, as the page does it."""
    with client_of(annotate_app(paths, out)) as client:
        for number in range(len(paths)):
            ready_view(client, number)
            act(client, click(ON_GROUND, 0), number)
            act(client, click(ON_DISC), number)
            act(client, {"do": "finish"}, number)


def test_what_segment_and_annotate_write_is_trained_on(command, photos, tmp_path) -> None:
    command("segment", str(photos), "--recursive", "--outputs=labels", "--out=segments")
    places = [path.relative_to(photos).with_suffix("") for path in find_images(str(photos), True)]
    assert sorted(tmp_path.glob("segments/**/*.png")) == sorted(
        tmp_path / "segments" / f"{place}_labels.png" for place in places
    )
    found = IndexedShards("segments")
    assert len(found) == len(ENDINGS)
    for sample in found:
        source = next(photos.rglob(f"{sample.key}.*"))
        assert np.array_equal(sample.decode(), read_image(source))
    command("shards", "convert", "segments", "--out=small", "--size=128", "--num_workers=0")
    assert len(IndexedShards("small")) == len(ENDINGS)
    png_tar(tmp_path / "png.tar", photos, tmp_path / "segments")
    streamed = [sample for _, sample in raw_samples("png.tar", ShardSource())]
    assert [sample.jpg[:2] for sample in streamed] == [b"\x89P", b"\xff\xd8"]
    indexed = IndexedShards("png.tar")
    assert [sample.jpg for sample in indexed] == [sample.jpg for sample in streamed]
    sets = "[segments, small, png.tar]"
    few = [*TWO_STEPS, *CHECKPOINTS, "--trainer.callbacks.every_n_train_steps=1"]
    command("fit", "--config=base", f"--data.train={sets}", "--data.val=segments", *few)
    assert list(tmp_path.glob("runs/**/last.ckpt"))


def test_objects_of_the_page_are_trained_on(command, tmp_path) -> None:
    paths = write_images(tmp_path / "drawn", 4)
    cut_out_a_disc(paths, tmp_path / "cut")
    found = IndexedShards(str(tmp_path / "cut"))
    assert [sample.key for sample in found] == [path.stem for path in paths]
    for held_out in ShardImages(str(tmp_path / "cut")):
        assert iou(held_out.masks[0], disc()) > 0.9
    where = json.loads((tmp_path / "cut/p0.json").read_text())["image"]["path"]
    assert where == "../drawn/p0.png"
    command("fit", "--config=base", "--data.train=cut", "--data.val=cut", *TWO_STEPS, *CHECKPOINTS)
    paths[1].unlink()
    assert "nor at" in IndexedShards(str(tmp_path / "cut")).incomplete[0].detail


def test_a_page_of_a_stack_of_16_bits_is_trained_on_as_it_was_segmented(command, tmp_path) -> None:
    (tmp_path / "stacks").mkdir()
    page = drawn().astype(np.uint16) * 16  # 12 bits in 16
    stack = np.stack([np.zeros_like(page), page[..., ::-1], page])
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / f"stacks/{name}.tif", stack, photometric="rgb")
    chosen = ["--page=3", "--value_range=0,4095"]
    command("segment", "stacks", "--model=lab", "--out=segments", *chosen)
    expected = read_image("stacks/a.tif", read_as=ReadAs(page=3, value_range=(0, 4095)))
    assert np.abs(expected.astype(int) - drawn()).max() <= 1
    command("shards", "convert", "segments", "--out=small", "--num_workers=0")
    for place, most in (("segments", 0), ("small", 12)):  # JPEG, in the shard
        for sample in IndexedShards(place):
            assert np.abs(sample.decode().astype(int) - expected).mean() <= most
            assert max(iou(mask, disc()) for mask in ShardImages(place)[0].masks) > 0.9
