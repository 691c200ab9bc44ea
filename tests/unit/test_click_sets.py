"""Tiny folders in the exact layouts of the field's sets, read by the real readers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from maskfeat.evaluate.clicking import session_ious

sys.path.insert(0, str(Path(__file__).parents[2] / "experiments" / "interactive"))
from click_sets import Berkeley, CocoMVal, Davis, GrabCut, MaskFolders, Sbd

SIZE = (6, 8)


def image(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def photo(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def trimap() -> np.ndarray:
    """Background, a band of 128, and an object of 255 in it."""
    mask = np.zeros(SIZE, np.uint8)
    mask[1:5, 2:7] = 128
    mask[2:4, 3:6] = 255
    return mask


def instances() -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    labels[:2, :3], labels[4:, 5:] = 1, 2
    return labels


@pytest.fixture
def grabcut(tmp_path: Path) -> Path:
    """JPEGs and bitmaps side by side, masks as bitmaps, as they are handed around."""
    image(tmp_path / "data_GT" / "banana1.bmp", photo(0))
    image(tmp_path / "data_GT" / "21077.jpg", photo(1), quality=95, subsampling=0)
    for name in ("banana1", "21077"):
        image(tmp_path / "boundary_GT" / f"{name}.bmp", trimap())
    return tmp_path


@pytest.fixture
def sbd(tmp_path: Path) -> Path:
    (tmp_path / "inst").mkdir()
    for number, name in enumerate(("2008_000002", "2008_000003")):
        image(tmp_path / "img" / f"{name}.jpg", photo(number), quality=95)
        labels = instances() if number == 0 else (instances() == 2).astype(np.uint8)
        content = {"Segmentation": labels, "Categories": np.array([[15]], np.uint8)}
        savemat(tmp_path / "inst" / f"{name}.mat", {"GTinst": content})
    (tmp_path / "val.txt").write_text("2008_000002\n2008_000003\n")
    return tmp_path


def test_the_band_of_grabcut_is_not_counted(grabcut: Path) -> None:
    targets = GrabCut(grabcut)
    assert [target.key for target in targets] == ["21077", "banana1"]
    expected = np.where(trimap() == 128, -1, trimap() == 255)
    for target in targets:
        assert target.target.dtype == np.int8
        np.testing.assert_array_equal(target.target, expected)
    np.testing.assert_array_equal(targets[1].image, photo(0))
    assert np.abs(targets[0].image.astype(int) - photo(1)).mean() < 5


def test_berkeley_is_read_alike_from_its_own_folders(tmp_path: Path) -> None:
    image(tmp_path / "images" / "3063.jpg", photo(0))
    image(tmp_path / "masks" / "3063.png", np.repeat(trimap()[..., None], 3, axis=2))
    (target,) = Berkeley(tmp_path)
    np.testing.assert_array_equal(target.target, np.where(trimap() == 128, -1, trimap() == 255))


@pytest.mark.parametrize("kind", [Davis, CocoMVal])
def test_whatever_is_not_black_is_object_in_davis_and_coco_mval(kind, tmp_path: Path) -> None:
    labels = instances()
    colors = np.array([[0, 0, 0], [128, 0, 0], [0, 0, 3]], np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette(colors.ravel().tolist())
    for name in ("a", "b", "c"):
        image(tmp_path / "img" / f"{name}.jpg", photo(0))
    (tmp_path / "gt").mkdir()
    palette.save(tmp_path / "gt" / "a.png")
    image(tmp_path / "gt" / "b.png", colors[labels])
    image(tmp_path / "gt" / "c.png", labels)
    for target in kind(tmp_path):
        np.testing.assert_array_equal(target.target, labels > 0)


def test_each_instance_of_sbd_is_a_target(sbd: Path) -> None:
    targets = Sbd(sbd)
    assert [t.key for t in targets] == ["2008_000002/1", "2008_000002/2", "2008_000003/1"]
    np.testing.assert_array_equal(targets[0].target, instances() == 1)
    np.testing.assert_array_equal(targets[1].target, instances() == 2)
    np.testing.assert_array_equal(targets[0].image, targets[1].image)
    assert not list(sbd.glob("*.pkl"))


def test_few_targets_are_evenly_spaced(sbd: Path, grabcut: Path) -> None:
    assert [target.key for target in Sbd(sbd, num_targets=1)] == ["2008_000002/2"]
    assert len(GrabCut(grabcut, num_targets=1)) == 1
    assert len(GrabCut(grabcut, num_targets=9)) == 2


def test_targets_can_be_played(grabcut: Path) -> None:
    class Everything:
        def set_image(self, rgb):
            pass

        def predict(self, clicks_yx, is_positive):
            return np.ones(SIZE, bool)

    # 6 pixels of object among 48 less the 14 of the band.
    assert session_ious(Everything(), GrabCut(grabcut)[0], 1) == [6 / 34]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no folder '.*data_GT'; give the folder that"):
        GrabCut(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no list '.*val.txt'; give the folder of SBD"):
        Sbd(tmp_path)


def test_an_image_without_mask_is_named(grabcut: Path) -> None:
    (grabcut / "boundary_GT" / "21077.bmp").unlink()
    with pytest.raises(FileNotFoundError, match=r"21077.jpg' has no mask"):
        GrabCut(grabcut)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    (tmp_path / "img" / ".hidden.jpg").touch()
    with pytest.raises(ValueError, match="holds no images"):
        Davis(tmp_path)


def test_a_mask_of_another_size_is_refused(grabcut: Path) -> None:
    image(grabcut / "data_GT" / "banana1.bmp", photo(0, (7, 9)))
    with pytest.raises(ValueError, match="must have one size, got 7 x 9 and 6 x 8"):
        GrabCut(grabcut)[1]


def test_a_broken_image_is_named(grabcut: Path) -> None:
    (grabcut / "data_GT" / "21077.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"21077.jpg' cannot be read as an image"):
        GrabCut(grabcut)[0]


@pytest.mark.parametrize("content", ["no matlab", "other field", "no map", "empty", "cut"])
def test_a_file_that_is_none_of_sbd_is_named(sbd: Path, content: str) -> None:
    path = sbd / "inst" / "2008_000003.mat"
    if content == "no matlab":
        path.write_bytes(b"no matlab file at all " * 20)
    elif content == "other field":
        savemat(path, {"GTcls": {"Segmentation": instances()}})
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:300])
    else:
        savemat(path, {"GTinst": {"Segmentation": np.zeros((2, 2))}})
    with pytest.raises(ValueError, match=r"2008_000003.mat'"):
        Sbd(sbd)


def test_a_missing_file_of_sbd_is_named(sbd: Path) -> None:
    (sbd / "inst" / "2008_000003.mat").unlink()
    with pytest.raises(FileNotFoundError, match=r"names '.*2008_000003.mat', which is not there"):
        Sbd(sbd)


def test_lists_without_names_or_objects_are_refused(sbd: Path) -> None:
    savemat(sbd / "inst" / "none.mat", {"GTinst": {"Segmentation": np.zeros(SIZE, np.uint8)}})
    (sbd / "train.txt").write_text("none\n")
    with pytest.raises(ValueError, match=r"train.txt' names hold no instance"):
        Sbd(sbd, split="train")
    (sbd / "val.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"val.txt' names no image"):
        Sbd(sbd)


def test_a_layout_needs_a_rule_for_masks() -> None:
    with pytest.raises(TypeError, match="abstract"):
        MaskFolders("anywhere")


def test_a_mask_in_the_alpha_of_a_black_image_is_the_object(tmp_path: Path) -> None:
    image(tmp_path / "img" / "a.jpg", photo(0))
    alpha = (instances() == 1).astype(np.uint8) * 255
    image(tmp_path / "gt" / "a.png", np.dstack([np.zeros((*SIZE, 3), np.uint8), alpha]))
    np.testing.assert_array_equal(Davis(tmp_path)[0].target, instances() == 1)
    image(tmp_path / "gt" / "a.png", np.dstack([photo(1), alpha]))
    with pytest.raises(ValueError, match="color and its alpha tell different masks"):
        Davis(tmp_path)[0]
