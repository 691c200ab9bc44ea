"""What people pass for counts, numbers, arrays and images."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

from maskfeat.arguments import array_of, checked_count, checked_number, rgb_of

RGB = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)


@pytest.mark.parametrize("value", [200, np.uint8(200), np.int64(200), np.uint64(200)])
def test_a_count_is_one_of_python(value) -> None:
    found = checked_count("k", value, most=200)
    assert type(found) is int
    assert found == 200


@pytest.mark.parametrize("value", [True, np.True_, 2.0, "2", None, [2], 0, 201, 10**400])
def test_what_is_no_count_is_refused(value) -> None:
    with pytest.raises(ValueError, match=r"^k must be a whole number of 1 to 200, got .{1,500}$"):
        checked_count("k", value, most=200)


def test_a_number_is_a_finite_one_of_python() -> None:
    for value in (0.5, np.float16(0.5), np.float32(0.5), Fraction(1, 2)):
        found = checked_number("x", value, least=0.5, most=0.5)
        assert type(found) is float
        assert found == 0.5
    for value in (True, "0.5", None, np.nan, np.inf, 10**400, 0.5j, np.array([0.5]), 0, 1):
        with pytest.raises(ValueError, match=r"^x must be a finite number above 0 and below 1"):
            checked_number("x", value, above=0, below=1)
    with pytest.raises(ValueError, match=r"^x must be a finite number, got inf$"):
        checked_number("x", np.inf)


def test_arrays_may_be_tensors_of_any_precision_with_a_gradient() -> None:
    values = [[0.5, 1.5]]
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        tensor = torch.tensor(values, dtype=dtype, requires_grad=True)
        assert array_of("a", tensor).tolist() == values
    for wrong, message in (
        ([[1], [1, 2]], "a must be an array, got rows of different lengths"),
        ([1j], "a must be real numbers, got complex128"),
        (["x"], "a must be real numbers, got <U1"),
        (None, "a must be real numbers, got None"),
        (object(), "a must be real numbers, got <object"),
    ):
        with pytest.raises(ValueError, match=message):
            array_of("a", wrong)


def test_an_image_may_be_an_array_an_image_or_a_path(tmp_path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    turned = Image.fromarray(RGB)
    turned.getexif()[0x0112] = 6  # to be shown turned to the right
    assert rgb_of(RGB) is RGB
    for image in (
        Image.fromarray(RGB),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        torch.tensor(RGB),
    ):
        np.testing.assert_array_equal(rgb_of(image), RGB)
    np.testing.assert_array_equal(rgb_of(turned), np.rot90(RGB, -1))
    gray = rgb_of(Image.fromarray(RGB[..., 0]))
    np.testing.assert_array_equal(gray, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.tolist(), "a PIL image or the path of an image, got list"),
        (None, "got NoneType"),
        (RGB / 255, r"got float64 \(5, 4, 3\)"),
        (RGB[..., 0], r"got uint8 \(5, 4\)"),
        (RGB[:0], r"got uint8 \(0, 4, 3\)"),
        (torch.tensor(RGB).permute(2, 0, 1), r"got uint8 \(3, 5, 4\); image.permute\(1, 2, 0\)"),
        (Image.fromarray(RGB[..., 0].astype(np.uint16)), "8 bits a channel, got I;16"),
        (Image.new("RGB", (0, 4)), r"got uint8 \(4, 0, 3\)"),
        ("nowhere.jpg", "'nowhere.jpg' cannot be read as an image"),
    ],
)
def test_what_is_no_image_is_refused_in_one_sentence(image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rgb_of(image)
