"""Checksums in .safetensors files: every kind that is written has one, and it is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

import maskfeat
from maskfeat.features import weights
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_file import load_decoder, save_with_decoder
from maskfeat.segment.merge_classifier import MergeClassifier, default_merge_classifier
from maskfeat.tensor_file import CHECKSUM_KEY


def net() -> FeaturePyramid:
    torch.manual_seed(0)
    return FeaturePyramid("test_convnext", levels=[0, 1], width=8).eval()


def write_both(path: Path) -> None:
    features = path.with_name("features.safetensors")
    weights.save(net(), features)
    decoder = ClickDecoder(3, 4, width=8, stages=(8, 8), blocks=(1, 1))
    save_with_decoder(features, decoder, path)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], object]]] = {
    "network": (lambda path: weights.save(net(), path), maskfeat.load),
    "features beside a decoder": (write_both, maskfeat.load),
    "decoder": (write_both, load_decoder),
    "merge classifier": (default_merge_classifier().save, MergeClassifier.load),
}


@pytest.mark.parametrize("kind", KINDS)
def test_one_flipped_bit_of_a_weight_or_a_setting_is_found(tmp_path: Path, kind: str) -> None:
    write, read = KINDS[kind]
    path = tmp_path / "a.safetensors"
    write(path)
    whole = path.read_bytes()
    assert read(path) is not None

    start = 8 + int.from_bytes(whole[:8], "little")
    for place in (start, (start + len(whole)) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=r"a\.safetensors' is damaged.*take another copy"):
            read(path)


def test_settings_count_and_files_without_a_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    weights.save(net(), path, card="A card.")
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {n: file.get_tensor(n) for n in file.keys()}

    former = {key: value for key, value in metadata.items() if key != CHECKSUM_KEY}
    path.write_bytes(save(tensors, former))
    assert maskfeat.load(path).bound == "tanh"

    config = json.loads(metadata[weights.CONFIG_KEY]) | {"bound": "none"}
    path.write_bytes(save(tensors, metadata | {weights.CONFIG_KEY: json.dumps(config)}))
    with pytest.raises(ValueError, match="is damaged"):
        maskfeat.load(path)
