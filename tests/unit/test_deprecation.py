"""Former names work, with a warning."""

import importlib
import sys

import numpy as np
import pytest

import maskfeat
from maskfeat import former_modules

RGB = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_an_attribute_by_its_former_name_is_given_with_a_warning() -> None:
    found = maskfeat.hierarchy(RGB).tree
    with pytest.warns(FutureWarning, match="PartitionTree.tree is now higra_tree"):
        assert found.tree is found.higra_tree


@pytest.mark.parametrize("former", sorted(former_modules.FORMER))
def test_a_module_by_its_former_path_is_the_module_of_today(former: str) -> None:
    sys.modules.pop(f"maskfeat.{former}", None)
    with pytest.warns(FutureWarning, match=f"maskfeat.{former} is now maskfeat"):
        found = importlib.import_module(f"maskfeat.{former}")
    assert found is importlib.import_module(f"maskfeat.{former_modules.FORMER[former]}")
    assert found.__spec__ is not None
    assert found.__spec__.name == found.__name__


def test_what_is_imported_by_a_former_path_is_not_loaded_twice() -> None:
    from maskfeat.labeling.learner import Learner

    sys.modules.pop("maskfeat.labeling.proposal", None)
    with pytest.warns(FutureWarning):
        assert importlib.import_module("maskfeat.labeling.proposal").Learner is Learner
