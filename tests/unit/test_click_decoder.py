"""The click decoder's maps and looks, against naive answers; the sets of prompts decide alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from click_maps import maps_of_a_rectangle

from maskfeat.features.look import Look, MapReader
from maskfeat.features.reading import Features
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_unary import (
    DecodedImage,
    ImageMaps,
    TreeMaps,
    num_image_channels,
    num_prompt_channels,
)
from maskfeat.interactive.prompts import Prompt, PromptSet
from maskfeat.interactive.segmenter import InteractiveSegmenter
from maskfeat.segment.tree import PartitionTree

SIZE = (40, 56)


@pytest.fixture(scope="module")
def maps() -> ImageMaps:
    return maps_of_a_rectangle(SIZE)


@pytest.fixture(scope="module")
def decoder() -> ClickDecoder:
    torch.manual_seed(0)
    return ClickDecoder(num_image_channels([3]), num_prompt_channels(1), 8, (8, 8), (1, 1)).eval()


def click(row: int, column: int, is_object: bool, radius: float = math.inf) -> Prompt:
    return Prompt(np.array([[row, column]]), is_object, radius)


CLICKS = [
    click(20, 25, True),
    click(15, 18, True, 3.0),
    click(5, 5, False),
    click(35, 50, False, 7.0),
    Prompt(np.array([[25, 30], [25, 31], [25, 32]]), True),
]


def test_a_look_holds_its_box_and_has_whole_multiples_of_cells() -> None:
    look = Look.around((3, 5, 43, 105), cells=32, multiple=8)

    assert (look.rows, look.columns) == (16, 32)
    assert look.cell_px == pytest.approx(100 / 32)
    assert look.top <= 3
    assert look.top + look.rows * look.cell_px >= 43
    assert (look.left, look.left + look.columns * look.cell_px) == pytest.approx((5, 105))


def test_a_map_that_is_linear_in_place_is_read_exactly_at_all_scales() -> None:
    plane = torch.arange(64.0)[:, None] + 2 * torch.arange(80.0)
    for box in ((10, 10, 26, 26), (0, 8, 64, 72), (4, 4, 12, 12)):
        look = Look.around(box, cells=8)
        rows, columns = look.centers

        read = MapReader(plane.unsqueeze(0), stride=1).read(look)[0]

        torch.testing.assert_close(read, rows[:, None] + 2 * columns, atol=1e-3, rtol=0)


def test_a_coarse_look_reads_means_and_misses_nothing_thin() -> None:
    stripes = torch.zeros(1, 64, 64)
    stripes[:, :, ::8] = 1

    read = MapReader(stripes, stride=1).read(Look.around((0, 0, 64, 64), cells=8))

    assert read.min() > 0.05
    assert read.mean() == pytest.approx(1 / 8, abs=0.01)


def test_values_of_a_grid_return_to_the_pixels_of_its_window_alone() -> None:
    look = Look.around((8, 16, 24, 32), cells=8)
    rows, columns = look.centers
    beyond = torch.full(SIZE, -1.0)

    found = look.at_pixels(rows[:, None] + 3 * columns, SIZE, beyond)

    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[8:24, 16:32] = True
    assert (found[~inside] == -1).all()
    plane = torch.arange(40.0)[:, None] + 3 * torch.arange(56.0)
    torch.testing.assert_close(found[10:22, 18:30], plane[10:22, 18:30], atol=1e-3, rtol=0)


def test_tree_maps_are_those_of_the_smallest_node_with_a_click() -> None:
    #     8 (.9)
    #   6 (.2)     7 (.6)
    #  0  1    5 (.1)   4
    #         2    3
    parents = np.array([6, 6, 5, 5, 7, 7, 8, 8, 8])
    altitudes = np.array([0, 0, 0, 0, 0, 0.1, 0.2, 0.6, 0.9])
    tree = PartitionTree.of_merges(parents, altitudes, np.ones(5))

    found = TreeMaps(tree).maps(np.array([2]), np.array([0, 4]))

    np.testing.assert_allclose(found[0], [0.1, 0.1, 1, 0.9, 0.4], atol=1e-6)
    np.testing.assert_allclose(found[1], np.log2([1, 1, 0.2, 0.4, 0.6]) / 8 + 1, atol=1e-6)
    np.testing.assert_allclose(found[2], [0.4, 0.4, 1, 1, 0.9], atol=1e-6)
    np.testing.assert_allclose(found[3], [1, 0.8, 0.4, 0.4, 1], atol=1e-6)
    np.testing.assert_array_equal(found[5], [0, 0, 1, 1, 0])  # node 5; node 7 holds a click on 4


def test_without_clicks_the_maps_of_a_sign_are_zero() -> None:
    tree = PartitionTree.of_merges(np.array([2, 2, 2]), np.array([0, 0, 0.5]), np.ones(2))
    none = np.empty(0, np.int64)

    assert not TreeMaps(tree).maps(none, none).any()


def test_nearness_is_a_maximum_over_the_prompts_of_a_sign(maps: ImageMaps) -> None:
    look = maps.look(Look.around((0, 0, *SIZE), cells=16))
    own = [p for p in CLICKS if p.is_object]
    count = 4 + 2  # by distance, by the one level, by color

    together = look.prompt_maps(own)[:count]
    alone = torch.stack([look.prompt_maps([p])[:count] for p in own]).amax(dim=0)

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    rows, columns = look.look.centers
    squared = ((rows[:, None] - 20) ** 2 + (columns - 25) ** 2) / look.look.cell_px**2
    torch.testing.assert_close(look.prompt_maps([CLICKS[0]])[0], torch.exp(-squared / 8))


def test_a_disk_is_as_wide_as_the_click_radius(maps: ImageMaps) -> None:
    look = maps.look(Look.around((0, 0, *SIZE), cells=16))

    narrow, wide = (look.prompt_maps([click(20, 25, True, r)])[3].sum() for r in (4, 8))

    assert wide / narrow == pytest.approx(4, rel=0.1)


def test_logits_are_a_function_of_the_set_of_prompts(
    maps: ImageMaps, decoder: ClickDecoder
) -> None:
    rng = np.random.default_rng(0)
    expected = DecodedImage(decoder, maps).whole(PromptSet(CLICKS))
    used = DecodedImage(decoder, maps)  # with looks of other prompts in its memory
    for count in range(1, len(CLICKS)):
        used.whole(PromptSet(CLICKS[:count]))

    assert expected.std() > 0
    for _ in range(3):
        shuffled = [CLICKS[i] for i in rng.permutation(len(CLICKS))] + CLICKS[:1]
        np.testing.assert_array_equal(used.whole(PromptSet(shuffled)), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("corner", [(0, 0), (6, 8), (-4, 2), (16, 30)])
def test_cells_that_lie_on_those_of_a_map_are_read_unblended(
    stride: int, corner: tuple[int, int]
) -> None:
    level = torch.rand(3, 24, 40, generator=torch.Generator().manual_seed(0))
    reader = MapReader(level, stride)
    look = Look(corner[0] * stride, corner[1] * stride, stride, 16, 24)
    beside = Look(look.top + 1e-4, look.left + 1e-4, stride, 16, 24)
    torch.testing.assert_close(reader.read(look), reader.read(beside), atol=1e-3, rtol=0)


def test_every_kind_of_prompt_changes_the_logits(maps: ImageMaps, decoder: ClickDecoder) -> None:
    decoded = DecodedImage(decoder, maps)
    start = np.zeros(SIZE, bool)
    start[10:30, 12:40] = True

    found = [
        decoded.whole(given)
        for given in (
            PromptSet([CLICKS[0]]),
            PromptSet([click(20, 25, True, 5.0)]),
            PromptSet([CLICKS[0], CLICKS[2]]),
            PromptSet([CLICKS[0]], box=(8, 10, 34, 44)),
            PromptSet([CLICKS[0]], mask=start),
            PromptSet([], box=(8, 10, 34, 44)),
        )
    ]

    for i, one in enumerate(found):
        assert one.shape == SIZE
        assert np.isfinite(one).all()
        assert all(np.abs(one - other).max() > 1e-4 for other in found[:i])


def test_a_segmenter_satisfies_every_click_whatever_its_decoder_says(
    decoder: ClickDecoder,
) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    rgb[10:30, 12:40] //= 2
    clicks = rng.permutation(SIZE[0] * SIZE[1])[:12]
    clicks_yx, signs = np.stack(np.divmod(clicks, SIZE[1]), axis=1), np.arange(12) % 3 > 0
    radii = np.where(np.arange(12) < 4, np.inf, np.arange(12) / 2)
    segmenter = InteractiveSegmenter(decoder=decoder)
    segmenter.set_features(Features.from_dense(rgb[..., :3] / 255.0, scale=4.0), rgb)

    mask = segmenter.predict(clicks_yx, signs, click_radius_px=radii)

    np.testing.assert_array_equal(mask[tuple(clicks_yx.T)], signs)
    for _ in range(3):
        order = rng.permutation(12)
        again = segmenter.predict(clicks_yx[order], signs[order], click_radius_px=radii[order])
        np.testing.assert_array_equal(again, mask)
    for prompt in ({"box_yxyx": (8, 10, 34, 44)}, {"mask": rgb[..., 0] < 100}):
        one = segmenter.predict([[20, 25]], [True], **prompt)
        assert one[20, 25]


def test_a_fused_decoder_gives_the_same_logits() -> None:
    torch.manual_seed(1)
    decoder = ClickDecoder(6, 5, 8, (8, 12), (1, 2))
    image, prompts = torch.randn(4, 6, 16, 24), torch.randn(4, 5, 16, 24)
    for _ in range(5):  # statistics that differ from those of a new norm
        decoder(decoder.encode(image), prompts)
    decoder.eval()
    fused = decoder.fused()

    torch.testing.assert_close(
        fused(fused.encode(image), prompts),
        decoder(decoder.encode(image), prompts),
        atol=1e-5,
        rtol=1e-4,
    )
