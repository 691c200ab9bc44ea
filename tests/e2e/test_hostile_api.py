"""What a stranger passes to the functions of the package: right, or one sentence."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import maskfeat
from maskfeat.features.color import LabEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import as_features

RNG = np.random.default_rng(0)
ODD = [
    None,
    True,
    -1,
    2.5,
    np.nan,
    10**400,
    "x",
    [],
    [[1, 2], [3]],
    object(),
    1j,
    np.array(["a"]),
    torch.zeros(2, 2, dtype=torch.bfloat16),
    [torch.ones(2, requires_grad=True)],
    np.zeros((4, 4, 3), complex),
    np.full((4, 4, 1), 3e38),
    len,
    int,
]
RGB = np.repeat(np.repeat(RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8), 8, axis=0), 8, axis=1)
FEATURES = as_features(RGB)
SCORES = RNG.normal(size=(6, 8))


def segmenter_at_work() -> maskfeat.InteractiveSegmenter:
    segmenter = maskfeat.InteractiveSegmenter(LabEncoder())
    segmenter.set_image(RGB)
    return segmenter


CALLS = [
    (maskfeat.partition, {"features": RGB, "num_segments": 5, "method": "k-means"}),
    (maskfeat.partition, {"features": FEATURES, "granularity": 0.5, "per_megapixel": 9000}),
    (
        maskfeat.hierarchy,
        {"features": RGB, "linkage": "ward", "border_weight": 1, "merge_classifier": None},
    ),
    (maskfeat.score_cut, {"scores": SCORES, "features": RGB, "pairwise_weight": 1, "seeds": ()}),
    (maskfeat.score_cut, {"scores": SCORES, "features": RGB, "num_groups": 2, "max_rounds": 2}),
    (
        segmenter_at_work().predict,
        {"clicks_yx": [[4, 4]], "is_positive": [True], "scribbles": (), "box_yxyx": (0, 0, 9, 9)}
        | {"mask": None, "keep_all": False, "click_radius_px": None},
    ),
    (segmenter_at_work().predict_labels, {"clicks_yx": [[4, 4]], "labels": [1], "scribbles": ()}),
    (segmenter_at_work().click, {"row": 4, "column": 4, "is_positive": True}),
    (segmenter_at_work().set_image, {"rgb": RGB}),
    (segmenter_at_work().set_features, {"features": FEATURES, "rgb": RGB}),
    (
        maskfeat.InteractiveSegmenter,
        {"model": None, "method": "cut", "per_megapixel": 9000, "pairwise_weight": 1}
        | {"max_megapixels": 1, "networks": None},
    ),
    (Features.from_dense, {"features": SCORES[..., None], "scale": 1}),
    (FEATURES.at, {"points_yx": [[1, 2]]}),
    (FEATURES.dense, {"max_stride": 1}),
    (maskfeat.load, {"path": "lab"}),
]


@pytest.mark.parametrize(
    ("function", "arguments"), CALLS, ids=[call[0].__qualname__ for call in CALLS]
)
def test_whatever_is_passed_is_right_or_refused_in_one_line(function, arguments) -> None:
    function(**arguments)
    sentences = []
    for name in arguments:
        for value in ODD:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    function(**arguments | {name: value})
                except (ValueError, FileNotFoundError) as error:
                    sentences.append(str(error))
    assert len(sentences) > 5 * len(arguments)
    for sentence in sentences:
        assert "\n" not in sentence
        assert "ambiguous" not in sentence  # numpy's, of an array that is compared
        assert len(sentence) < 500


def test_a_variance_that_half_precision_cannot_hold_is_said() -> None:
    net = maskfeat.load()  # one of its variances is 523,089
    rgb = np.zeros((32, 32, 3), np.uint8)
    expected = net.features(rgb).dense()
    np.testing.assert_allclose(net.bfloat16().features(rgb).dense(), expected, atol=0.1)
    with pytest.raises(ValueError, match=r"cannot be used in float16, in which its .*running_var"):
        maskfeat.load().half().features(rgb)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_gives_nearly_the_same_features(dtype) -> None:
    torch.manual_seed(0)
    net = FeaturePyramid(width=8).eval()
    exact = net.features(RGB).dense()
    features = net.to(dtype).features(RGB)
    assert {level.dtype for level in features.pyramid} == {torch.float32}
    assert np.abs(features.dense() - exact).max() < 0.1
    assert features.scale == pytest.approx(1)


def test_images_and_paths_are_taken_wherever_images_are(tmp_path) -> None:
    pil_image, path = Image.fromarray(RGB), tmp_path / "a.png"
    pil_image.save(path)
    labels, tree = maskfeat.partition(RGB, 5), maskfeat.hierarchy(RGB)
    segmenter = maskfeat.InteractiveSegmenter("lab")
    segmenter.set_image(RGB)
    mask = segmenter.predict([[4, 4]], [1])
    for image in (pil_image, path, str(path)):
        np.testing.assert_array_equal(maskfeat.partition(image, 5), labels)
        np.testing.assert_array_equal(maskfeat.hierarchy(image).parents, tree.parents)
        segmenter.set_image(image)
        np.testing.assert_array_equal(segmenter.predict([[4, 4]], [True]), mask)
        segmenter.set_features(FEATURES, image)
        assert segmenter.click(4, 4, 1)[4, 4]


def test_a_small_integer_of_numpy_does_not_overflow() -> None:
    features = RNG.normal(size=(30, 40, 2)).astype(np.float32)
    for method in ("tree", "k-means"):
        expected = maskfeat.partition(features, 200, method=method)
        found = maskfeat.partition(features, np.uint8(200), method=method)
        np.testing.assert_array_equal(found, expected)
        assert found.max() == 199


def test_tensors_of_any_precision_and_with_a_gradient_are_features_and_scores() -> None:
    values = torch.randn(12, 16, 2)
    expected = maskfeat.partition(values.numpy(), 7)
    np.testing.assert_array_equal(maskfeat.partition(values.clone().requires_grad_(), 7), expected)
    half = values.bfloat16()
    expected = maskfeat.partition(half.float().numpy(), 7)
    np.testing.assert_array_equal(maskfeat.partition(half, 7), expected)
    scores = torch.tensor(SCORES, requires_grad=True)
    np.testing.assert_array_equal(
        maskfeat.score_cut(scores, RGB).labels, maskfeat.score_cut(SCORES, RGB).labels
    )


@pytest.mark.parametrize("size", [1e20, 1e30, 3e38, 1e300])
def test_features_whose_squares_overflow_are_refused_without_a_warning(size: float) -> None:
    values = RNG.choice([-size, size], (8, 9, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for made in (
            lambda: maskfeat.partition(values, 3),
            lambda: maskfeat.hierarchy(torch.tensor(values)),
            lambda: Features([torch.full((2, 4, 4), size, dtype=torch.float64)], [1], (4, 4)),
        ):
            with pytest.raises(ValueError, match=r"features must be finite, .* 1e15 in size"):
                made()


def test_the_largest_features_that_are_taken_give_what_small_ones_give() -> None:
    values = RNG.integers(0, 3, (8, 9, 2)).astype(np.float32)
    large = Features.from_dense(values * 2.0**48, scale=2.0**-96)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = maskfeat.hierarchy(large, merge_classifier=None).ucm()
    expected = maskfeat.hierarchy(Features.from_dense(values), merge_classifier=None).ucm()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"granularity": "0.5"},
            "granularity must be a finite number above 0 and below 1, got '0.5'",
        ),
        ({"granularity": True}, "granularity must be .*, got True"),
        ({"granularity": np.nan}, "granularity must be .*, got nan"),
        ({"num_segments": True}, "num_segments must be a whole number of at least 1, got True"),
        ({"num_segments": "5"}, "num_segments must be .*, got '5'"),
        ({"num_segments": 5, "per_megapixel": "x"}, "per_megapixel must be .*, got 'x'"),
        ({"num_segments": 5, "per_megapixel": np.inf}, "per_megapixel must be .*, got inf"),
        ({"granularity": 0.5, "per_megapixel": None}, "per_megapixel must be .*, got None"),
        (
            {"num_segments": 5, "method": "k-means", "position_weight": np.inf},
            "position_weight must be a finite number of at least 0 and at most 1,000,000, got inf",
        ),
        ({"num_segments": 5, "position_weight": "x"}, "position_weight must be .*, got 'x'"),
    ],
)
def test_settings_of_a_partition_are_right_or_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maskfeat.partition(RGB, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_groups": 2.5}, "num_groups must be a whole number of 1 to 64, got 2.5"),
        ({"num_groups": True}, "num_groups must be .*, got True"),
        ({"num_groups": "x"}, "num_groups must be .*, got 'x'"),
        ({"num_groups": 5000}, "num_groups must be a whole number of 1 to 64, got 5000"),
        (
            {"pairwise_weight": "x"},
            "pairwise_weight must be a finite number of at least 0 .*, got 'x'",
        ),
        ({"pairwise_weight": np.inf}, "pairwise_weight must be .*, got inf"),
        ({"max_rounds": 1.5}, "max_rounds must be a whole number of at least 1, got 1.5"),
        ({"scores": SCORES * 1j}, r"scores must be real numbers, got complex128 \(6, 8\)"),
        ({"scores": SCORES * 1e200}, "scores must be finite numbers, .* at most 1e100 in size"),
        ({"scores": [["a"]]}, "scores must be real numbers"),
        ({"seeds": [[1, 2]]}, r"seeds must be integers of shape \(N, 3\)"),
        ({"seeds": [["a", "b", "c"]]}, "seeds must be real numbers"),
    ],
)
def test_settings_of_a_cut_of_scores_are_right_or_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maskfeat.score_cut(**{"scores": SCORES, "features": RGB, **settings})


def test_the_largest_scores_that_are_taken_give_finite_energies() -> None:
    small = maskfeat.score_cut(SCORES, RGB, num_groups=np.uint8(3), seeds=None)
    large = maskfeat.score_cut(SCORES / np.abs(SCORES).max() * 1e100, RGB, num_groups=3)
    np.testing.assert_array_equal(large.labels, small.labels)
    assert np.isfinite(large.energies).all()


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-130, 1e-20, 1e-4, 1e-2, 1e60])
def test_small_scores_give_the_groups_of_large_ones(size: float) -> None:
    large = maskfeat.score_cut(SCORES, RGB, num_groups=3)
    small = maskfeat.score_cut(SCORES * size, RGB, num_groups=3)
    np.testing.assert_array_equal(small.labels, large.labels)
    np.testing.assert_allclose(small.means / size, large.means, rtol=1e-9)
    if size > 1e-140:
        np.testing.assert_allclose(small.energies[-1] / size**2, large.energies[-1], rtol=1e-9)


def test_equal_scores_of_any_size_make_one_group() -> None:
    same = maskfeat.score_cut(np.full_like(SCORES, 1e-170), RGB)
    assert len(np.unique(same.labels)) == 1


@pytest.mark.parametrize("row_column", [(True, 3), (3, np.False_), (3.0, 3), ("3", 3), (None, 3)])
def test_a_coordinate_of_a_click_is_a_whole_number(row_column) -> None:
    segmenter = maskfeat.InteractiveSegmenter(LabEncoder())
    segmenter.set_image(RGB)
    with pytest.raises(ValueError, match="row and column of a click must be whole numbers, got"):
        segmenter.click(*row_column)
    assert segmenter.click(np.int64(4), np.uint8(4))[4, 4]


def test_a_cache_folder_that_is_a_file_or_below_one_is_refused(tmp_path) -> None:
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "deeper"):
        with pytest.raises(ValueError, match=r"cache_dir must be a folder, but '.*file' is a file"):
            maskfeat.InteractiveSegmenter("maskfeat-b0", cache_dir=place)


def test_lab_is_loaded_by_its_name_as_a_path_too() -> None:
    assert isinstance(maskfeat.load(Path("lab")), LabEncoder)


def test_prompts_are_right_or_refused() -> None:
    segmenter = maskfeat.InteractiveSegmenter(LabEncoder())
    segmenter.set_image(RGB)
    expected = segmenter.predict([[4, 4], [40, 40]], [True, False])
    signs = torch.tensor([1, 0])
    for found in (
        segmenter.predict(torch.tensor([[4, 4], [40, 40]]), [1, 0], scribbles=None),
        segmenter.predict([[4, 4], [40, 40]], signs),
        segmenter.predict([[4, 4]], [1], scribbles=[([[40, 40]], 0)]),
    ):
        np.testing.assert_array_equal(found, expected)
    for settings, message in (
        ({"scribbles": 5}, "scribbles must be pairs of pixels and a sign or label, .* got 5"),
        ({"scribbles": [[1, 2, 3]]}, "scribbles must be pairs"),
        ({"click_radius_px": ["x"]}, "click_radius_px must be real numbers"),
        ({"box_yxyx": "abcd"}, "box_yxyx must be real numbers"),
        ({"mask": "x"}, "mask must be real numbers, got 'x'"),
        ({"is_positive": [2]}, "is_positive must be True or 1 for the object"),
        ({"is_positive": ["x"]}, "is_positive must be real numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            segmenter.predict(**{"clicks_yx": [[4, 4]], "is_positive": [True], **settings})
    with pytest.raises(ValueError, match="labels must be real numbers"):
        segmenter.predict_labels([[4, 4]], ["a"])
    with pytest.raises(ValueError, match="labels must be integers, got 'a'"):
        segmenter.predict_labels([[4, 4]], [1], scribbles=[([[1, 1]], "a")])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": 5}, r"model must have a method features\(rgb\), .* got int"),
        ({"model": LabEncoder}, "model must have a method features"),
        ({"per_megapixel": "x"}, "per_megapixel must be .*, got 'x'"),
        ({"pairwise_weight": "x"}, "pairwise_weight must be .*, got 'x'"),
        ({"max_megapixels": True}, "max_megapixels must be .*, got True"),
    ],
)
def test_settings_of_a_segmenter_are_right_or_refused(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maskfeat.InteractiveSegmenter(**settings)


def test_a_segmenter_takes_the_name_of_a_model() -> None:
    assert isinstance(maskfeat.InteractiveSegmenter("maskfeat-b0").model, FeaturePyramid)
    with pytest.raises(FileNotFoundError, match="no model file at 'maskfeat-b9'"):
        maskfeat.InteractiveSegmenter("maskfeat-b9")
    with pytest.raises(ValueError, match=r"features must be a Features, got ndarray"):
        maskfeat.InteractiveSegmenter().set_features(np.zeros((4, 4, 2)))
