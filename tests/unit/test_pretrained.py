"""Models as folders: what was saved comes back whole, offline, and nothing is unpickled."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from drawn_images import drawn
from safetensors import safe_open

import maskfeat
from maskfeat.features.model_file import find_model
from maskfeat.features.pyramid import FeaturePyramid


def test_a_folder_gives_back_features_decoder_and_card(tmp_path: Path) -> None:
    place = tmp_path / "model"
    maskfeat.save_pretrained("maskfeat-b0", place)
    assert sorted(path.name for path in place.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    first, second = maskfeat.load(), maskfeat.from_pretrained(place)
    assert maskfeat.read_card(place) == maskfeat.read_card() == (place / "README.md").read_text()
    assert np.array_equal(first.features(drawn()).dense(), second.features(drawn()).dense())
    masks = []
    for model in (first, second, maskfeat.load(place)):
        segmenter = maskfeat.InteractiveSegmenter(model)
        segmenter.set_image(drawn())
        masks.append(segmenter.predict([[45, 40]], [True]))
    assert masks[0].any()
    assert np.array_equal(masks[0], masks[1])
    assert np.array_equal(masks[0], masks[2])


def test_the_config_says_what_is_in_the_file(tmp_path: Path) -> None:
    net = maskfeat.load()
    with torch.no_grad():
        net.log_scale += 0.25
    maskfeat.save_pretrained(net, tmp_path, card="mine", dtype=torch.float32)
    config = json.loads((tmp_path / "config.json").read_bytes())
    assert config["features"] == json.loads(json.dumps(net.config))
    assert config["click_decoder"]["width"] >= 1
    assert config["merge_classifier"] == "merge_classifier_boundaries"
    assert maskfeat.from_pretrained(tmp_path).scale == net.scale
    assert (tmp_path / "README.md").read_text() == "mine"
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert "maskfeat_crc32" in file.metadata()


def test_the_card_of_a_former_model_goes(tmp_path: Path) -> None:
    net = FeaturePyramid("test_resnet", levels=[0, 1], width=8)
    maskfeat.save_pretrained(net, tmp_path, card="of the former")
    maskfeat.save_pretrained(net, tmp_path)
    assert not (tmp_path / "README.md").exists()
    assert maskfeat.read_card(tmp_path) == ""


def test_a_repository_of_the_hub_gives_its_one_file(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def download(name: str, file: str, revision: str | None) -> str:
        asked.append((name, file, revision))
        return str(find_model("maskfeat-b0"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert maskfeat.from_pretrained("owner/name", "v1").scale == maskfeat.load().scale
    assert asked == [("owner/name", "model.safetensors", "v1")]


def test_what_is_none_is_refused_in_one_sentence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"'owner/name' is no folder, and model\.safetensors of"):
        maskfeat.from_pretrained("owner/name")
    with pytest.raises(FileNotFoundError, match=r"no model file at .*model\.safetensors"):
        maskfeat.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="weights of its own can be saved, got a LabEncoder"):
        maskfeat.save_pretrained("lab", tmp_path)
