"""Former names work, with a warning."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

import maskfeat
from maskfeat import former_modules
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.deprecation import current_options
from maskfeat.lightning_cli import MaskfeatCLI

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
    with pytest.warns(FutureWarning, match=r"saliency\(\) is now ucm\(\)"):
        np.testing.assert_array_equal(found.saliency(), found.ucm())


def test_the_weight_of_pairwise_terms_is_taken_by_its_former_name() -> None:
    with pytest.warns(FutureWarning, match=r"InteractiveSegmenter\(smoothness=...\) is now pairw"):
        assert maskfeat.InteractiveSegmenter(smoothness=3.0).pairwise_weight == 3
    scores = np.random.default_rng(0).random((4, 5))
    with pytest.warns(FutureWarning, match=r"score_cut\(smoothness=...\) is now pairwise_weight"):
        found = maskfeat.score_cut(scores, RGB, smoothness=3.0)
    expected = maskfeat.score_cut(scores, RGB, pairwise_weight=3.0)
    np.testing.assert_array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("former", sorted(former_modules.FORMER))
def test_a_module_by_its_former_path_is_the_module_of_today(former: str) -> None:
    sys.modules.pop(f"maskfeat.{former}", None)
    with pytest.warns(FutureWarning, match=f"maskfeat.{former} is now maskfeat"):
        found = importlib.import_module(f"maskfeat.{former}")
    assert found is importlib.import_module(f"maskfeat.{former_modules.FORMER[former]}")
    assert found.__spec__ is not None
    assert found.__spec__.name == found.__name__


def test_a_file_of_a_package_that_moved_is_not_loaded_twice() -> None:
    from maskfeat.labeling.labeler import Labeler

    sys.modules.pop("maskfeat.hill.labeler", None)
    with pytest.warns(FutureWarning):
        assert importlib.import_module("maskfeat.hill.labeler").Labeler is Labeler


def test_an_option_by_its_former_name_is_taken_with_a_warning() -> None:
    with pytest.warns(FutureWarning, match="maskfeat shards stats --picture is now --image"):
        words = current_options("shards stats", ["--picture=a.png", "--picture", "b", "--num=2"])
    assert words == ["--image=a.png", "--image", "b", "--num=2"]
    assert current_options("segment", ["--picture"]) == ["--picture"]


def test_former_settings_of_the_data_find_their_group() -> None:
    with pytest.warns(FutureWarning, match=r"num_points=... is now a field of examples=..."):
        data = ShardDataModule(num_points=9, cache_gb=3, max_skipped_share=0.5)
    assert (data.examples.num_points, data.source.cache_gb) == (9, 3)
    assert data.skips.max_share == 0.5


def test_former_flags_and_keys_of_the_data_find_their_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "former.yaml"
    config.write_text("data:\n  num_points: 9\n  examples: {max_masks: 5}\n  index_dir: here\n")
    words = ["--data.crop_size=48", "--data.augmentation.flip=0.1", "--data.num_readers", "3"]
    with (
        pytest.warns(FutureWarning, match=r"data.num_readers is now data.streaming.num_readers"),
        pytest.raises(SystemExit),
    ):
        MaskfeatCLI(["fit", f"--config={config}", *words, "--print_config"])
    data = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]
    found = data["examples"]
    assert (found["num_points"], found["max_masks"], found["crop_size"]) == (9, 5, 48)
    assert found["augmentation"]["flip"] == 0.1
    assert (data["streaming"]["num_readers"], data["shards"]["index_dir"]) == (3, "here")
    assert "num_points" not in data
