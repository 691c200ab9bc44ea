"""The boundary head with a path of its own: its forward pass, its file, its training."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from test_local import local_batch
from test_task import fit

import maskfeat
from maskfeat.features.decoder import BoundaryDecoder, BoundarySum
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask
from maskfeat.features.weights import CONFIG_KEY, save

RGB = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)


def first_channel_alone(module: torch.nn.Module) -> None:
    """Convolutions hand on their first channel as it is, norms do nothing."""
    for name, parameter in module.named_parameters():
        parameter.data.zero_()
        if parameter.ndim == 4:
            middle = parameter.shape[-1] // 2
            parameter.data[0, 0, middle, middle] = 1
        elif name.endswith("weight"):
            parameter.data.fill_(1)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.eps = 0.0


def test_every_stride_adds_decoder_and_backbone_to_what_comes_from_above() -> None:
    head = BoundaryDecoder({4: 3, 2: 3, 1: 2}, {4: 5, 2: 5}, width=16).eval()
    first_channel_alone(head)
    # Of the 8 channels of logits: 4 for the pixels of a place, first right, then below.
    head.head.weight.data.zero_()
    head.head.weight.data[:4, 0] = 1
    head.head.weight.data[4:, 0, 0, 0] = torch.tensor([10.0, 20.0, 30.0, 40.0])
    decoded = {s: torch.full((1, 3, 8 // s, 12 // s), float(s)) for s in (4, 2)}
    decoded[1] = torch.zeros(1, 2, 8, 12)
    decoded[1][:, 0, ::2, ::2] = 0.25  # channel 0 of the 2 x 2 pixels that are channels at stride 2
    tapped = {s: torch.full((1, 5, 8 // s, 12 // s), 0.5) for s in (4, 2)}

    logits = head(decoded, tapped, (8, 12))

    # Hard swish leaves values from 3 on as they are: (4 + 0.5) + (2 + 0.5) + 0.25 = 7.25.
    assert logits.shape == (1, 2, 8, 12)
    torch.testing.assert_close(logits[:, 0], torch.full((1, 8, 12), 7.25))
    places = 7.25 * torch.tensor([[10.0, 20.0], [30.0, 40.0]])
    torch.testing.assert_close(logits[0, 1], places.repeat(4, 6))


def test_without_a_finest_map_the_coarser_one_is_enlarged() -> None:
    head = BoundaryDecoder({4: 3}, {}, width=8).eval()
    first_channel_alone(head)
    ramp = torch.tensor([3.0, 7.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    logits = head({4: ramp}, {}, (4, 8))
    # Bilinear: the centers of the two cells lie at 2 and 6 of 8 pixels' edges.
    expected = torch.tensor([3.0, 3.0, 3.5, 4.5, 5.5, 6.5, 7.0, 7.0])
    torch.testing.assert_close(logits[0, 0], expected.expand(4, 8))


def test_the_former_head_adds_the_maps_of_strides_up_to_4() -> None:
    head = BoundarySum({8: 2, 4: 2, 1: 2})
    assert sorted(head) == ["1", "4"]
    first_channel_alone(head)
    decoded = {s: torch.full((1, 2, 8 // s, 8 // s), float(s)) for s in (8, 4, 1)}
    torch.testing.assert_close(head(decoded, {}, (8, 8))[0, 0], torch.full((8, 8), 5.0))


def test_features_are_the_same_with_either_head() -> None:
    pyramids = []
    for width in (None, 16):
        torch.manual_seed(0)
        net = FeaturePyramid(width=8, boundary=True, boundary_width=width).eval()
        pyramids.append(net.features(RGB).pyramid)
    for one, other in zip(*pyramids, strict=True):
        assert torch.equal(one, other)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    net = FeaturePyramid(width=8, boundary=True, boundary_width=16).eval()
    save(net, tmp_path / "net.safetensors", dtype=torch.float32)
    found = maskfeat.load(tmp_path / "net.safetensors").features(RGB).boundary_logits
    assert found.shape == (2, 40, 50)
    torch.testing.assert_close(found, net.features(RGB).boundary_logits)


def test_files_from_before_it_are_loaded_as_they_were(tmp_path: Path) -> None:
    net = FeaturePyramid(width=8, boundary=True).eval()
    save(net, tmp_path / "net.safetensors", dtype=torch.float32)
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        config = json.loads(file.metadata()[CONFIG_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    del config["boundary_width"]
    save_file(tensors, tmp_path / "old.safetensors", {CONFIG_KEY: json.dumps(config)})
    old = maskfeat.load(tmp_path / "old.safetensors")
    assert sorted(old.boundary_heads) == ["1", "2", "4"]
    torch.testing.assert_close(old.features(RGB).boundary_logits, net.features(RGB).boundary_logits)


def test_the_head_alone_is_trained_and_features_stay_bit_for_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save(FeaturePyramid(width=8, boundary=True), tmp_path / "start.safetensors")
    start = maskfeat.load(tmp_path / "start.safetensors")
    task = FeatureTask(
        FeaturePyramid(width=8, boundary=True, boundary_width=16),
        start_from=str(tmp_path / "start.safetensors"),
        trained="boundaries",
        boundary_weight=1.0,
        learning_rate=5e-3,
        warmup_steps=2,
        ema_decay=0.5,
    )
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    batch = local_batch()
    first = task._loss(task.net.train(), batch).total.item()
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=25,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, torch.utils.data.DataLoader([batch] * 25, batch_size=None))
    assert task._loss(task.net.train(), batch).total.item() < 0.8 * first
    for net in (task.net, task.encoder):
        for name, value in net.state_dict().items():
            is_of_head = name.startswith("boundary_heads.")
            assert is_of_head or torch.equal(value, before[name]), name
    for one, other in zip(task.features(RGB).pyramid, start.features(RGB).pyramid, strict=True):
        assert torch.equal(one, other)


def test_what_it_needs_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="boundary_width must be"):
        FeaturePyramid(width=8, boundary=True, boundary_width=4)
    with pytest.raises(ValueError, match="trained: boundaries needs boundary_weight above 0"):
        FeatureTask(FeaturePyramid(width=8, boundary=True), trained="boundaries")
    net = FeaturePyramid(width=8, boundary=True, boundary_width=8)
    with pytest.raises(ValueError, match=r"boundary_weight needs data.examples.boundaries: true"):
        fit(FeatureTask(net, boundary_weight=1.0, trained="boundaries"), 1, tmp_path)
