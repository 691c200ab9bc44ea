"""What is kept on disk is of the model as it is, and made anew where it is damaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn_images import drawn
from PIL import Image
from torch import nn

from maskfeat.features.cache import FeatureCache
from maskfeat.features.color import LabEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.labeling.descriptors import ColorAndTexture
from maskfeat.labeling.image_store import ImageStore

RGB = np.random.default_rng(0).integers(0, 256, (18, 25, 3), dtype=np.uint8)


class Means(nn.Module):
    """Features that are the colors times a weight; counts how often it is asked."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight, weight]))
        self.num_calls = 0

    def features(self, rgb: np.ndarray) -> Features:
        self.num_calls += 1
        return Features.from_dense(rgb[..., :2] * self.weight.detach().float().numpy())


def stepped(model: Means) -> None:
    model.weight.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.5, fused=True).step()


CHANGES = {
    "an optimizer's step": stepped,
    "written through data": lambda model: model.weight.data.mul_(2),
    "two swapped": lambda model: model.weight.data.copy_(torch.tensor([3.0, 1.0])),
    "loaded": lambda model: model.load_state_dict({"weight": torch.tensor([4.0, 5.0])}),
    "replaced": lambda model: setattr(model, "weight", nn.Parameter(torch.tensor([6.0, 7.0]))),
    "half the precision": lambda model: model.bfloat16() and model.weight.data.fill_(9),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_features_are_of_the_weights_as_they_are(tmp_path, change) -> None:
    model = Means(1.0)
    model.weight.data[1] = 3.0
    cache = FeatureCache(tmp_path, model)
    for _ in range(2):
        before = cache.features(RGB).dense()
    assert model.num_calls == 1
    change(model)
    found = cache.features(RGB).dense()
    weight = model.weight.detach().float().numpy()
    np.testing.assert_allclose(found, RGB[..., :2] * weight, rtol=1e-3)
    assert not np.allclose(found, before)
    other = Means(1.0)
    other.weight.data[1] = 3.0
    np.testing.assert_array_equal(FeatureCache(tmp_path, other).features(RGB).dense(), before)
    assert other.num_calls == 0  # what was kept before is still that of its own weights


def test_a_network_of_other_settings_has_entries_of_its_own(tmp_path) -> None:
    torch.manual_seed(0)
    net = FeaturePyramid("test_convnext", levels=[0, 1], width=8).eval()
    other = FeaturePyramid("test_convnext", levels=[0, 1], width=8, bound="sigmoid").eval()
    other.load_state_dict(net.state_dict())
    for model in (net, other):
        found = FeatureCache(tmp_path, model).features(RGB).dense()
        np.testing.assert_allclose(found, model.features(RGB).dense(), atol=1e-3)


def test_features_beyond_half_precision_stay_finite(tmp_path) -> None:
    cache = FeatureCache(tmp_path, Means(1000.0))
    for _ in range(2):
        np.testing.assert_allclose(
            cache.features(RGB).dense(), (RGB[..., :2] * 1000.0).clip(max=65504), rtol=1e-3
        )


def damaged(content: bytes) -> list[bytes]:
    """The content with one byte flipped here and there, cut, or something else."""
    flipped = []
    for place in [*range(0, 64, 7), *np.linspace(64, len(content) - 1, 20).astype(int)]:
        wrong = bytearray(content)
        wrong[place] ^= 0x55
        flipped.append(bytes(wrong))
    cut = [content[: len(content) * share // 8] for share in range(8)]
    return [*flipped, *cut, b"PK\x05\x06" + bytes(18), b"<html>", content + b"x"]


def test_a_damaged_entry_of_features_is_made_anew(tmp_path) -> None:
    model = Means(1.0)
    cache = FeatureCache(tmp_path, model)
    expected = cache.features(RGB).dense()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for content in damaged(whole):
        path.write_bytes(content)
        np.testing.assert_array_equal(cache.features(RGB).dense(), expected)
        calls = model.num_calls
        np.testing.assert_array_equal(cache.features(RGB).dense(), expected)
        assert model.num_calls == calls  # it is whole again
    assert model.num_calls > 15


class Counting(LabEncoder):
    num_calls = 0

    def features(self, rgb):
        type(self).num_calls += 1
        return super().features(rgb)


@pytest.fixture
def store(tmp_path):
    """Opens the store of one image, as each start of a labeler does."""
    Image.fromarray(drawn()).save(tmp_path / "p.png")
    path, folder = tmp_path / "p.png", tmp_path / "prepared"

    def opened() -> ImageStore:
        return ImageStore([path], Counting(), ColorAndTexture(), folder, 4_000, 1.0)

    opened().prepare_all()
    return opened


def test_a_damaged_prepared_image_is_computed_again(store, tmp_path) -> None:
    expected = store().get(0)
    (path,) = [p for p in tmp_path.glob("prepared/*/*.npz") if ".sampled" not in p.name]
    whole = path.read_bytes()
    for content in damaged(whole)[::4]:
        path.write_bytes(content)
        found = store().get(0)
        np.testing.assert_array_equal(found.graph.labels, expected.graph.labels)
        np.testing.assert_array_equal(found.descriptors, expected.descriptors)
        np.testing.assert_array_equal(found.tree.parents, expected.tree.parents)


def test_a_damaged_sketch_is_taken_from_the_prepared_image(store, tmp_path) -> None:
    expected, calls = store().sampled_descriptors()[0], Counting.num_calls
    (path,) = tmp_path.glob("prepared/*/*.sampled.npz")
    for content in damaged(path.read_bytes()):
        path.write_bytes(content)
        again = store()
        again.prepare_all()
        np.testing.assert_array_equal(again.sampled_descriptors()[0], expected)
    assert Counting.num_calls == calls  # no features were needed
