"""Former names work, with a warning."""

import numpy as np
import pytest

import maskfeat

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_an_argument_by_its_former_name_is_taken_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match=r"hierarchy\(judge=...\) is now merge_classifier=..."):
        found = maskfeat.hierarchy(RGB, judge=None)
    np.testing.assert_array_equal(found.parents, maskfeat.hierarchy(RGB).parents)
    with (
        pytest.warns(FutureWarning),
        pytest.raises(TypeError, match="got both merge_classifier and judge, its former name"),
    ):
        maskfeat.hierarchy(RGB, judge=None, merge_classifier=None)


def test_an_attribute_by_its_former_name_is_given_with_a_warning() -> None:
    found = maskfeat.hierarchy(RGB)
    with pytest.warns(FutureWarning, match="atom_labels is now superpixel_labels"):
        assert found.atom_labels is found.superpixel_labels
