"""Changes around one prompt: connected to it, within its window, and the same when kept."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2lab

from maskfeat.features.reading import Features
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.prompts import Prompt
from maskfeat.interactive.update import PromptedMasks


def squares() -> tuple[np.ndarray, np.ndarray]:
    """A red square of 40 pixels on blue, noisy; and the square."""
    rng = np.random.default_rng(0)
    square = np.zeros((120, 160), bool)
    square[40:80, 60:100] = True
    rgb = np.where(square[..., None], (190, 80, 60), (60, 90, 150)) + rng.normal(
        0, 6, (120, 160, 3)
    )
    return rgb.clip(0, 255).astype(np.uint8), square


RGB, SQUARE = squares()
STATE = ImageState(Features.from_dense(rgb2lab(RGB) / 100, scale=12.0), RGB)


def click(row: int, column: int, is_object: bool, radius: float) -> Prompt:
    return Prompt(np.array([[row, column]]), is_object, radius)


@pytest.mark.parametrize("radius", [2.0, 6.0, 12.0])  # pixels alone, and superpixels first
@pytest.mark.parametrize("is_object", [True, False])
def test_a_prompt_mends_the_error_that_it_lies_in(radius: float, is_object: bool) -> None:
    error = np.zeros_like(SQUARE)
    error[60 - int(radius) : 60 + int(radius), 100 - 2 * int(radius) : 100] = True
    other = np.zeros_like(SQUARE)
    other[5:9, 5:9] = True  # an error elsewhere
    mask, truth = (SQUARE & ~error, SQUARE) if is_object else (SQUARE, SQUARE & ~error)
    prompt = click(60, 100 - int(radius), is_object, radius)
    window, change = PromptedMasks(STATE, None, None).change(prompt, mask | other, [prompt])

    changed = np.zeros_like(mask)
    changed[window] = change
    assert changed[tuple(prompt.pixels_yx[0])]
    assert ndimage.label(changed)[1] == 1
    assert not (changed & (mask == is_object)).any()
    if is_object:  # what looks like the prompt
        assert (changed & truth & ~mask).sum() > 0.8 * error.sum()
        assert (changed & ~truth).sum() < 0.1 * error.sum()


def test_a_prompt_of_the_other_label_nearby_is_not_overrun() -> None:
    mask = np.zeros_like(SQUARE)
    prompt, near = click(60, 80, True, 4.0), click(60, 83, False, np.inf)
    window, change = PromptedMasks(STATE, None, None).change(prompt, mask, [prompt, near])
    rows, columns = window
    assert change[60 - rows.start, 80 - columns.start]
    assert not change[60 - rows.start, 83 - columns.start]


def test_a_change_that_is_kept_is_that_of_a_new_image() -> None:
    mask = SQUARE.copy()
    mask[50:60, 90:100] = False
    prompt = click(55, 95, True, 5.0)
    used = PromptedMasks(STATE, None, None)
    first = used.change(prompt, mask, [prompt])[1]
    used.change(click(55, 92, True, 3.0), mask, [prompt])
    again = used.change(prompt, mask, [prompt])[1]
    state = ImageState(Features.from_dense(rgb2lab(RGB) / 100, scale=12.0), RGB)
    new = PromptedMasks(state, None, None).change(prompt, mask, [prompt])[1]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, new)


def test_nothing_lies_outside_the_box() -> None:
    box = (45, 65, 75, 95)
    image = PromptedMasks(STATE, box, None)
    whole = image.whole([click(60, 80, True, np.inf)])
    assert whole[60, 80]
    outside = np.ones_like(whole)
    outside[45:75, 65:95] = False
    assert not (whole & outside).any()
    window, change = image.change(click(60, 93, True, 3.0), np.zeros_like(whole), [])
    assert not (change & outside[window]).any()
