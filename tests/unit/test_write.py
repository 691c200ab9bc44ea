from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco
from scipy import ndimage

from maskfeat.data.shards.write import ShardWriter
from maskfeat.formats.sa1b import annotate_levels, label_components


def write(folder: Path, keys: list[str], jpg: bytes = b"jpg", **limits: Any) -> list[Path]:
    with ShardWriter(folder, "train", **limits) as writer:
        for key in keys:
            writer.write_sample(key, jpg, {"image": {"file_name": f"{key}.jpg"}})
    return writer.paths


def keys(count: int) -> list[str]:
    return [f"sample_{index:03d}" for index in range(count)]


def decode(annotation: dict[str, Any]) -> np.ndarray:
    counts = annotation["segmentation"]["counts"].encode()
    return coco.decode({"size": annotation["segmentation"]["size"], "counts": counts}) > 0


def test_plain_webdataset_reads_every_sample_in_order(tmp_path: Path) -> None:
    paths = write(tmp_path, keys(5), samples_per_shard=2)

    samples = list(wds.WebDataset([str(path) for path in paths], shardshuffle=False))

    assert [sample["__key__"] for sample in samples] == keys(5)
    for sample in samples:
        assert sample["jpg"] == b"jpg"
        assert json.loads(sample["json"])["image"]["file_name"] == sample["__key__"] + ".jpg"


def test_jpg_comes_right_before_its_json(tmp_path: Path) -> None:
    [path] = write(tmp_path, keys(2))
    with tarfile.open(path) as tar:
        assert tar.getnames() == [f"{key}.{end}" for key in keys(2) for end in ("jpg", "json")]


def test_shards_are_numbered_and_hold_no_more_than_the_limit(tmp_path: Path) -> None:
    paths = write(tmp_path, keys(5), samples_per_shard=2)
    assert [path.name for path in paths] == [f"train-{number:06d}.tar" for number in range(3)]
    assert [len(tarfile.open(path).getnames()) for path in paths] == [4, 4, 2]
    assert sorted(tmp_path.iterdir()) == paths


def test_shards_stay_below_the_limit_of_megabytes(tmp_path: Path) -> None:
    paths = write(tmp_path, keys(9), jpg=bytes(30_000), max_mb=0.1)
    assert len(paths) == 3
    for path in paths:
        with tarfile.open(path) as tar:
            assert sum(member.size for member in tar) <= 100_000


def test_a_sample_above_the_limit_gets_a_shard_of_its_own(tmp_path: Path) -> None:
    assert len(write(tmp_path, keys(3), jpg=bytes(30_000), max_mb=0.001)) == 3


def test_the_bytes_depend_on_the_samples_alone(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, keys(3))[0].read_bytes() for name in "ab")
    assert first == second
    [member, *_] = tarfile.open(fileobj=io.BytesIO(first)).getmembers()
    owner = (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode)
    assert owner == (0, 0, 0, "", "", 0o644)


def test_an_exception_leaves_whole_shards_only(tmp_path: Path) -> None:
    def interrupted() -> None:
        with ShardWriter(tmp_path, "train", samples_per_shard=2) as writer:
            for key in keys(3):
                writer.write_sample(key, b"jpg", {})
            raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["train-000000.tar"]
    assert len(tarfile.open(tmp_path / "train-000000.tar").getnames()) == 4


def test_a_shard_is_not_overwritten(tmp_path: Path) -> None:
    write(tmp_path, keys(1))
    before = hashlib.sha256((tmp_path / "train-000000.tar").read_bytes()).digest()
    with pytest.raises(FileExistsError, match=r"train-000000\.tar is there already"):
        write(tmp_path, keys(2))
    assert hashlib.sha256((tmp_path / "train-000000.tar").read_bytes()).digest() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("key", ["", "a.b", "a/b"])
def test_a_malformed_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="without dot or slash"):
        write(tmp_path, [key])


def test_keys_out_of_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="sorted, got 'a' after 'b'"):
        write(tmp_path, ["b", "a"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefix": "a/b"}, "start of a file name"),
        ({"samples_per_shard": 0}, "at least 1, got 0"),
        ({"max_mb": 0}, "above 0, got 0"),
    ],
)
def test_limits_out_of_range_are_refused(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ShardWriter(tmp_path, **{"prefix": "train", **arguments})


def test_two_halves_one_of_them_split_are_annotated_as_worked_by_hand() -> None:
    objects = np.repeat([[0] * 6 + [1] * 6], 10, axis=0)
    parts = objects.copy()
    parts[5:, 6:] = 2  # the right half has an upper and a lower part

    found = annotate_levels({"object": objects, "part": parts})

    assert [a["level"] for a in found] == ["object", "object", "part", "part"]
    assert [a["bbox"] for a in found] == [[0, 0, 6, 10], [6, 0, 6, 10], [6, 0, 6, 5], [6, 5, 6, 5]]
    assert [a["area"] for a in found] == [60, 60, 30, 30]
    assert [a["id"] for a in found] == [1, 2, 3, 4]
    np.testing.assert_array_equal(decode(found[3]), parts == 2)
    assert found[3]["crop_box"] == [0, 0, 12, 10]
    [[x, y]] = found[3]["point_coords"]
    assert 8 <= x <= 9
    assert y == 7


def test_a_component_equal_to_its_coarser_one_is_not_repeated_and_its_sibling_is() -> None:
    objects = np.array([[0] * 5 + [1] + [0] * 5] * 5)  # one object, cut in two by a thin one
    parts = np.array([[0] * 5 + [1] + [0] * 2 + [2] * 3] * 5)  # the right piece has two parts
    found = annotate_levels({"object": objects, "part": parts}, min_area_px=1)
    areas = {
        level: [a["area"] for a in found if a["level"] == level] for level in ("object", "part")
    }
    assert areas == {"object": [25, 5, 25], "part": [10, 15]}


def test_specks_are_left_out_below_the_limit_and_kept_at_it() -> None:
    labels = np.zeros((20, 20), int)
    labels[2:6, 2:6] = 1  # 16 pixels
    labels[10:13, 10:15] = 2  # 15 pixels
    assert [a["area"] for a in annotate_levels({"object": labels})] == [400 - 31, 16]


def test_maps_of_different_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        annotate_levels({"object": np.zeros((4, 5), int), "part": np.zeros((5, 4), int)})


label_maps = st.tuples(
    st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 2**32 - 1)
).map(lambda t: np.random.default_rng(t[3]).integers(t[2], size=t[:2]))


@settings(deadline=None, max_examples=60)
@given(label_maps)
def test_components_agree_with_scipy_label_by_label(labels: np.ndarray) -> None:
    expected = np.zeros(labels.shape, int)
    total = 0
    for value in np.unique(labels):
        pieces, count = ndimage.label(labels == value)
        expected += np.where(pieces > 0, pieces + total, 0)
        total += count
    components = label_components(labels)
    pairs = set(zip(components.ravel().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == total == components.max() + 1
    firsts = np.unique(components, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()  # numbered in the order of first pixels


@settings(deadline=None, max_examples=60)
@given(label_maps)
def test_annotations_tile_the_map_and_point_inside(labels: np.ndarray) -> None:
    count = np.zeros(labels.shape, int)
    for found in annotate_levels({"object": labels}, min_area_px=1):
        mask = decode(found)
        count += mask
        [[x, y]] = found["point_coords"]
        assert mask[int(y), int(x)]
        assert mask.sum() == found["area"]
        box = coco.toBbox(
            {**found["segmentation"], "counts": found["segmentation"]["counts"].encode()}
        )
        assert box.tolist() == found["bbox"]
        assert len(np.unique(labels[mask])) == 1
    assert (count == 1).all()
