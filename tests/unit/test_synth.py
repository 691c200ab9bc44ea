from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset as wds
from PIL import Image
from pycocotools import mask as coco
from scipy import ndimage
from skimage.color import rgb2lab
from sklearn.metrics import roc_auc_score

from maskfeat.data.synth import Scene, draw_scene, scene_sample, write_scenes

SIZE = (128, 160)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(seed=3, index=index, size=(192, 256)) for index in range(12)]


def masks_of(annotation: dict[str, Any], level: str) -> list[np.ndarray]:
    found = [a["segmentation"] for a in annotation["annotations"] if a["level"] == level]
    return [coco.decode({**rle, "counts": rle["counts"].encode()}) > 0 for rle in found]


def test_a_scene_does_not_depend_on_how_many_are_drawn_or_by_whom(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"seed": 5, "size": (64, 80), "progress": False}
    alone = write_scenes(tmp_path / "alone", 6, **arguments)
    shared = write_scenes(tmp_path / "shared", 6, num_workers=2, **arguments)
    assert [path.read_bytes() for path in alone] == [path.read_bytes() for path in shared]

    few = write_scenes(tmp_path / "few", 2, **arguments)
    with tarfile.open(alone[0]) as long, tarfile.open(few[0]) as short:
        for name in short.getnames():
            assert long.extractfile(name).read() == short.extractfile(name).read()


def test_other_seed_or_index_is_another_scene() -> None:
    first = draw_scene(seed=1, index=2, size=SIZE)
    for seed, index in ((2, 1), (1, 3), (2, 2)):
        other = draw_scene(seed, index, SIZE)
        assert abs(first.image.astype(int) - other.image).mean() > 5


def test_no_global_random_state_is_read_or_changed() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = draw_scene(seed=1, index=0, size=SIZE).image
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    np.testing.assert_array_equal(before, draw_scene(seed=1, index=0, size=SIZE).image)
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_levels_nest_exactly(scenes: list[Scene]) -> None:
    for scene in scenes:
        for coarse, fine in (("object", "part"), ("part", "subpart")):
            pairs = np.stack([scene.levels[fine].ravel(), scene.levels[coarse].ravel()])
            owners = np.unique(pairs, axis=1)
            assert len(np.unique(owners[0])) == owners.shape[1]


def test_object_masks_partition_the_image_but_for_specks() -> None:
    for index in range(4):
        _, _, annotation = scene_sample(index, seed=2, size=SIZE)
        covered = sum(mask.astype(int) for mask in masks_of(annotation, "object"))
        assert covered.max() == 1
        assert (covered == 0).mean() < 0.02
        specks, count = ndimage.label(covered == 0)
        # A hole may join several specks, each below 16 pixels; it holds no pixel of a whole 5 x 5.
        assert not ndimage.binary_erosion(covered == 0, np.ones((5, 5))).any(), (specks, count)


def test_every_finer_mask_lies_in_one_coarser_mask_and_is_smaller() -> None:
    _, _, annotation = scene_sample(1, seed=2, size=(192, 256))
    by_level = {level: masks_of(annotation, level) for level in ("object", "part", "subpart")}
    assert all(by_level.values())
    for mask in by_level["part"]:
        assert any(
            (mask <= whole).all() and mask.sum() < whole.sum() for whole in by_level["object"]
        )
    for mask in by_level["subpart"]:  # in a part, or in an object that is its own only part
        wholes = by_level["part"] + by_level["object"]
        assert any((mask <= whole).all() and mask.sum() < whole.sum() for whole in wholes)


def test_masks_are_connected_large_enough_and_not_repeated() -> None:
    for index in range(3):
        _, _, annotation = scene_sample(index, seed=4, size=SIZE)
        seen = set()
        for found in annotation["annotations"]:
            rle = found["segmentation"]
            mask = coco.decode({**rle, "counts": rle["counts"].encode()})
            assert ndimage.label(mask)[1] == 1
            assert mask.sum() == found["area"] >= 16
            assert rle["counts"] not in seen
            seen.add(rle["counts"])
            [[x, y]] = found["point_coords"]
            assert mask[int(y), int(x)] == 1


def test_the_json_has_the_keys_and_types_of_sa1b() -> None:
    key, jpg, annotation = scene_sample(123, seed=7, size=SIZE)
    assert key == "synth_000123_s7"
    assert annotation["image"] == {
        "image_id": 123,
        "width": 160,
        "height": 128,
        "file_name": "synth_000123_s7.jpg",
    }
    assert Image.open(io.BytesIO(jpg)).size == (160, 128)
    for found in json.loads(json.dumps(annotation))["annotations"]:
        assert found["predicted_iou"] == found["stability_score"] == 1.0
        assert found["crop_box"] == [0.0, 0.0, 160.0, 128.0]
        numbers = [*found["bbox"], *found["crop_box"], *found["point_coords"][0]]
        assert all(isinstance(number, float) for number in numbers)
        assert isinstance(found["area"], int)
        assert found["level"] in ("object", "part", "subpart")


def test_plain_webdataset_decodes_the_shards(tmp_path: Path) -> None:
    paths = write_scenes(tmp_path, 3, seed=1, size=SIZE, samples_per_shard=2, progress=False)
    dataset = wds.WebDataset([str(path) for path in paths], shardshuffle=False).decode("rgb8")
    keys = []
    for sample in dataset:
        keys.append(sample["__key__"])
        assert sample["jpg"].shape == (*SIZE, 3)
        assert sample["json"]["image"]["file_name"] == sample["__key__"] + ".jpg"
    assert keys == [f"synth_{index:06d}_s1" for index in range(3)]


def test_spectra_fall_about_as_those_of_images(scenes: list[Scene]) -> None:
    # Power falls as f^-2 in images at large; BSDS500 images, measured so, give -2.4.
    slopes = []
    frequency = np.hypot(*np.meshgrid(np.arange(-96, 96), np.arange(-96, 96)))
    rings = np.arange(4, 72)
    for scene in scenes:
        gray = scene.image[:, :192].mean(axis=2)
        gray = (gray - gray.mean()) * np.outer(np.hanning(192), np.hanning(192))
        power = abs(np.fft.fftshift(np.fft.fft2(gray))) ** 2
        mean = [power[abs(frequency - ring) < 0.5].mean() for ring in rings]
        slopes.append(np.polyfit(np.log(rings), np.log(mean), 1)[0])
    assert -2.9 < np.mean(slopes) < -1.9


def test_color_tells_something_but_not_all_about_objects(scenes: list[Scene]) -> None:
    rng = np.random.default_rng(0)
    distances, same = [], []
    for scene in scenes:
        lab, size = rgb2lab(scene.image), np.array(scene.image.shape[:2])
        first = rng.integers(32, size - 32, (2000, 2))
        second = first + rng.integers(-22, 23, first.shape)
        distances.append(np.linalg.norm(lab[tuple(first.T)] - lab[tuple(second.T)], axis=1))
        labels = scene.levels["object"]
        same.append(labels[tuple(first.T)] == labels[tuple(second.T)])
    assert 0.75 < roc_auc_score(np.concatenate(same), -np.concatenate(distances)) < 0.9


def test_siblings_differ_less_than_strangers_on_average(scenes: list[Scene]) -> None:
    steps: dict[str, list[float]] = {"subpart": [], "part": [], "object": []}
    for scene in scenes:
        lab, leaf = rgb2lab(scene.image), scene.levels["subpart"]
        area = np.maximum(np.bincount(leaf.ravel()), 1)
        mean = np.stack(
            [np.bincount(leaf.ravel(), lab[..., c].ravel()) / area for c in range(3)], 1
        )
        for number in range(leaf.shape[0] - 1):  # neighbors below each other, row by row
            for column in np.flatnonzero(leaf[number] != leaf[number + 1]):
                pair = (slice(number, number + 2), column)
                kind = next(n for n, m in scene.levels.items() if m[pair][0] != m[pair][1])
                steps[kind].append(float(np.linalg.norm(np.subtract(*mean[leaf[pair]]))))
    assert np.mean(steps["subpart"]) < np.mean(steps["part"]) < np.mean(steps["object"])
    assert np.quantile(steps["subpart"], 0.9) > np.quantile(steps["object"], 0.1)  # with overlap


def test_scenes_have_objects_with_parts_and_parts_with_subparts(scenes: list[Scene]) -> None:
    parts, subparts = [], []
    for scene in scenes:
        owner = np.unique(
            np.stack([scene.levels["object"], scene.levels["part"]], -1).reshape(-1, 2), axis=0
        )
        parts.extend(np.unique(owner[:, 0], return_counts=True)[1])
        owner = np.unique(
            np.stack([scene.levels["part"], scene.levels["subpart"]], -1).reshape(-1, 2), axis=0
        )
        subparts.extend(np.unique(owner[:, 0], return_counts=True)[1])
    assert max(parts) <= 5
    assert 0.3 < np.mean(np.array(parts) > 1) < 0.9
    assert max(subparts) <= 4
    assert 0.2 < np.mean(np.array(subparts) > 1) < 0.7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "at least 0, got seed=-1"),
        ({"size": (16, 64)}, "at least 32 x 32 pixels"),
        ({"jpg_quality": (80, 70)}, "within 1..95"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw_scene(**{"seed": 0, "index": 0, **arguments})


def test_no_scenes_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        write_scenes(tmp_path, 0, seed=0)
    with pytest.raises(ValueError, match="num_workers must be at least 0"):
        write_scenes(tmp_path, 1, seed=0, num_workers=-1)


def test_the_shards_in_the_repository_are_what_the_code_draws() -> None:
    folder = Path(__file__).parents[2] / "data_shards"
    for name, seed in (("train-000000.tar", 7), ("val-000000.tar", 8)):
        with tarfile.open(folder / name) as tar:
            kept = np.asarray(Image.open(io.BytesIO(tar.extractfile(tar.getnames()[0]).read())))
            annotations = json.load(tar.extractfile(tar.getnames()[1]))["annotations"]
        _, jpg, drawn = scene_sample(0, seed, kept.shape[:2], jpg_quality=(75, 85))
        now = np.asarray(Image.open(io.BytesIO(jpg)))
        # Another build of numpy may round otherwise: a few pixels, not another scene.
        assert abs(kept.astype(int) - now).mean() < 1
        for level in ("object", "part", "subpart"):
            areas = [
                sum(a["area"] for a in found if a["level"] == level)
                for found in (annotations, drawn["annotations"])
            ]
            assert areas[0] == pytest.approx(areas[1], rel=0.01)
