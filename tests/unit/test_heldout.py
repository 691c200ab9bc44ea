from __future__ import annotations

import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shard_factory import jpg_bytes, write_shard

from maskfeat.batch import HeldOutImage
from maskfeat.data.heldout import ClickFolder, ShardImages

DATA = Path(__file__).parents[3] / "shared" / "data"


def test_held_out_images_are_those_of_the_shard(tmp_path: Path) -> None:
    scenes = write_shard(tmp_path / "a.tar", 4, order="random")
    images = ShardImages(str(tmp_path / "a.tar"))

    assert [image.key for image in images] == [scene.key for scene in scenes]
    for image, scene in zip(images, scenes, strict=True):
        assert np.abs(image.image.astype(int) - scene.rgb).mean() < 5
        union = np.logical_or.reduce(image.masks)
        np.testing.assert_array_equal(union, np.logical_or.reduce(scene.masks))
        np.testing.assert_array_equal(image.partitions[0] >= 0, union)


def test_large_images_are_reduced_with_their_masks(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 2, seed=3, size=(80, 120))
    full, small = (
        ShardImages(str(tmp_path / "a.tar")),
        ShardImages(str(tmp_path / "a.tar"), short_side=40),
    )
    for whole, half in zip(full, small, strict=True):
        assert half.image.shape == (40, 60, 3)
        # The center of a reduced pixel lies where four pixels meet; the later one holds it.
        assert np.array_equal(half.masks, whole.masks[:, 1::2, 1::2])
        assert np.array_equal(half.partitions[0] >= 0, whole.partitions[0][1::2, 1::2] >= 0)
        blocks = whole.image.reshape(40, 2, 60, 2, 3).mean(axis=(1, 3))
        # Reduced in the JPEG decoder, which clips elsewhere.
        assert np.abs(half.image - blocks).mean() < 1.0
    assert ShardImages(str(tmp_path / "a.tar"), short_side=500)[0].image.shape == (80, 120, 3)


def test_few_images_are_evenly_spaced_over_the_set(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 6)
    write_shard(tmp_path / "b.tar", 6, first_id=200)
    images = ShardImages(f"{tmp_path}/*.tar", num_images=3)
    assert images.keys == ["sa_102", "sa_200", "sa_204"]  # numbers 2, 6 and 10 of 12
    assert len(ShardImages(f"{tmp_path}/*.tar", num_images=99)) == 12


def test_bad_samples_are_logged_and_replaced_by_the_next(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "a.tar", 6, faults={1: "truncated jpg", 5: "no masks"})
    with caplog.at_level(logging.WARNING, "maskfeat"):
        images = ShardImages(str(tmp_path / "a.tar"), num_images=2)
    assert images.keys == ["sa_102", "sa_104"]
    assert "sa_101" in caplog.text
    assert "bad jpg" in caplog.text
    assert ShardImages(str(tmp_path / "a.tar")).keys == ["sa_100", "sa_102", "sa_103", "sa_104"]
    assert len(ShardImages(str(tmp_path / "a.tar"), num_images=5)) == 4


def test_a_set_without_a_readable_sample_is_refused(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 2, faults={0: "no masks", 1: "bad json"})
    with pytest.raises(ValueError, match="none of the 2 samples"):
        ShardImages(str(tmp_path / "a.tar"))
    with pytest.raises(ValueError, match="at least one image"):
        ShardImages(str(tmp_path / "a.tar"), num_images=0)


def test_keys_that_two_shards_share_are_separated(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 2)
    write_shard(tmp_path / "b.tar", 1, first_id=101)
    images = ShardImages(f"{tmp_path}/*.tar")
    assert [image.key for image in images] == ["sa_100", "a/sa_101", "b/sa_101"]


def png_bytes(mask: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return file.getvalue()


def write_click_folder(folder: Path, num: int = 3, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[1:4, 2:6], mask[1, 2:6] = 255, 128
    samples = []
    folder.mkdir()
    for i in range(num):
        (folder / f"{i}.jpg").write_bytes(jpg_bytes(np.full((*size, 3), 40 * i, np.uint8)))
        (folder / f"{i}.png").write_bytes(png_bytes(mask))
        samples.append({"id": f"t{i}", "image": f"{i}.jpg", "mask": f"{i}.png", "label": "x"})
    (folder / "index.json").write_text(json.dumps({"samples": samples}))
    return mask


def test_a_click_folder_gives_object_background_and_ignored_pixels(tmp_path: Path) -> None:
    mask = write_click_folder(tmp_path / "iis")
    targets = ClickFolder(tmp_path / "iis")

    assert [target.key for target in targets] == ["t0", "t1", "t2"]
    expected = np.select([mask == 255, mask == 128], [1, -1], 0)
    np.testing.assert_array_equal(targets[2].target, expected)
    assert targets[2].target.dtype == np.int8
    assert np.abs(targets[2].image.astype(int) - 80).max() < 3
    assert [target.key for target in ClickFolder(tmp_path / "iis", 1)] == ["t1"]


def test_a_broken_click_folder_is_told_in_a_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "iis"
    with pytest.raises(FileNotFoundError, match=r"no index at '.*index.json'"):
        ClickFolder(folder)
    write_click_folder(folder)
    (folder / "1.png").write_bytes(png_bytes(np.full((6, 8), 7, np.uint8)))
    with pytest.raises(ValueError, match=r"1.png' must be gray with the values 0, 128 .* \[7\]"):
        ClickFolder(folder)[1]
    (folder / "1.png").write_bytes(png_bytes(np.zeros((6, 9), np.uint8)))
    with pytest.raises(ValueError, match=r"1.jpg' does not go with its mask: size mismatch"):
        ClickFolder(folder)[1]
    (folder / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"names '.*1.png', which is not there"):
        ClickFolder(folder)
    for text, message in (
        ("{", "is no json"),
        ("[]", "that is not empty"),
        ('{"samples": []}', "that is not empty"),
        ('{"samples": [{"id": "a", "image": 3, "mask": "b"}]}', "sample 0 of"),
    ):
        (folder / "index.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ClickFolder(folder)


class CountedImages(Sequence[HeldOutImage]):
    """Images whose masks cover 1, 2, ... of 100 pixels; counts how often it is asked."""

    def __init__(self, num: int) -> None:
        self.num, self.num_read = num, 0

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, i: int) -> HeldOutImage:  # type: ignore[override]
        if i >= self.num:
            raise IndexError
        self.num_read += 1
        masks = np.arange(100).reshape(10, 10) < np.arange(1, 11).reshape(-1, 1, 1)
        return HeldOutImage(f"k{i}", np.zeros((10, 10, 3), np.uint8), masks, ())


@pytest.mark.real
def test_real_held_out_sets_are_read(tmp_path: Path) -> None:
    if not (DATA / "iis").is_dir():
        pytest.skip(f"no images at {DATA}")
    images = ShardImages(str(DATA / "bsds500" / "val-*.tar"), 5, tmp_path)
    assert len(images) == 5
    assert all(len(image.partitions) >= 4 for image in images)
    for name in ("coco_mval", "voc_scribbles"):
        index = json.loads((DATA / "iis" / name / "index.json").read_bytes())["samples"]
        by_id = {one["id"]: one for one in index}
        for target in ClickFolder(DATA / "iis" / name, num_targets=6):
            one = by_id[target.key]
            assert target.image.shape == (one["height"], one["width"], 3)
            assert (target.target == 1).sum() == one["object_area"]
            assert (target.target == -1).sum() == one["ignore_area"]
