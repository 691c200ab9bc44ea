"""The network and the features of one image."""

import numpy as np
import pytest
import torch

import maskfeat
from maskfeat.features import rows
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features, same_mask_probability, sample_pyramid


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return FeaturePyramid(width=16).eval()


@pytest.fixture(scope="module")
def rgb():
    return np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)


def test_every_level_holds_the_same_number_of_values(net) -> None:
    pyramid = net(torch.zeros(1, 3, 64, 96))
    assert [level.numel() for level in pyramid] == [64 * 96] * 4
    assert [64 // level.shape[-2] for level in pyramid] == list(net.strides)


@pytest.mark.parametrize("size", [(1, 1), (17, 200), (45, 70), (64, 64)])
def test_any_size_goes_in_and_the_same_size_comes_out(net, size: tuple[int, int]) -> None:
    features = net.features(np.zeros((*size, 3), np.uint8))
    assert features.dense().shape == (*size, 85)
    assert features.size == size


def test_values_stay_in_the_bounds_asked_for(rgb) -> None:
    torch.manual_seed(0)
    for bound, low, high in (("tanh", -1, 1), ("sigmoid", 0, 1)):
        dense = FeaturePyramid(levels=[0, 1], width=8, bound=bound).features(rgb).dense()
        assert dense.min() > low
        assert dense.max() < high


def test_dense_features_are_those_read_point_by_point(net, rgb) -> None:
    features = net.features(rgb)
    grid = np.stack(np.mgrid[:45, :70], axis=-1).reshape(-1, 2)
    read = features.at(grid).reshape(45, 70, -1)
    assert np.abs(read - features.dense()).max() < 1e-4


def test_bilinear_reading_is_exact_on_a_ramp() -> None:
    # A map of stride 4 that holds the row number of its pixel centers: 1.5, 5.5, 9.5, ...
    rows = (torch.arange(8.0) * 4 + 1.5).view(1, 1, 8, 1).expand(1, 1, 8, 8)
    points = torch.tensor([[[2.0, 7.0], [5.0, 3.0], [11.25, 20.0]]])
    read = sample_pyramid([rows.contiguous()], [4], points)
    assert read[0, :, 0].tolist() == pytest.approx([2.0, 5.0, 11.25], abs=1e-5)


def test_neighbor_distances_are_those_of_the_dense_features(net, rgb) -> None:
    features = net.features(rgb)
    dense = features.dense()
    right, below = features.neighbor_distances()
    assert np.allclose(right, np.square(dense[:, 1:] - dense[:, :-1]).sum(-1), atol=1e-4)
    assert np.allclose(below, np.square(dense[1:] - dense[:-1]).sum(-1), atol=1e-4)


def test_distance_and_probability_agree_with_their_formulas(net, rgb) -> None:
    features = net.features(rgb)
    points, others = np.array([[3, 4], [40, 60]]), np.array([[3, 4], [10, 11], [44, 69]])
    left, right = features.at(points), features.at(others)
    d2 = np.square(left[:, None] - right[None]).sum(-1)
    assert np.allclose(features.distance(points, others), d2, atol=1e-4)
    expected = 2 / (1 + np.exp(features.scale * d2))
    assert np.allclose(features.probability(points, others), expected, atol=1e-4)
    assert same_mask_probability(torch.zeros(1), 3.0).item() == 1


def test_a_finer_detail_than_the_backbone_sees_changes_the_finest_level(net) -> None:
    plain = np.full((64, 64, 3), 100, np.uint8)
    dotted = plain.copy()
    dotted[32, 32] = 255
    change = np.abs(net.features(dotted).dense() - net.features(plain).dense())[..., 0]
    assert change[32, 32] > 2 * change[32, 50]


def test_reading_features_leaves_the_net_as_it_was(net, rgb) -> None:
    # In training mode the norms would take in the image's statistics.
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    net.features(rgb)
    assert net.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv4_conv_small", "convnext_atto"])
def test_other_timm_backbones_fit_by_name(backbone: str) -> None:
    net = FeaturePyramid(backbone=backbone, width=8).eval()
    assert net.features(np.zeros((40, 50, 3), np.uint8)).dense().shape == (40, 50, 85)


def test_a_backbone_without_the_net_says_what_to_do(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="neither in the cache nor to be had from the hub"):
        FeaturePyramid(pretrained=True)
    with pytest.raises(FileNotFoundError, match="no weights file at"):
        FeaturePyramid(pretrained=str(tmp_path / "none.pth"))


def test_pretrained_weights_are_read_from_a_file(tmp_path) -> None:
    import timm
    from safetensors.torch import save_file

    donor = timm.create_model("efficientvit_b0")
    path = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in donor.state_dict().items()}, path)
    net = FeaturePyramid(pretrained=str(path))
    weight = dict(net.backbone.named_parameters())["stem_in_conv.conv.weight"]
    assert torch.equal(weight, donor.state_dict()["stem.in_conv.conv.weight"])


@pytest.mark.parametrize("backbone", ["efficientvit_b0", "resnet18", "convnext_atto"])
def test_weights_of_which_some_are_missing_are_refused_but_for_the_classifier(
    tmp_path, backbone: str
) -> None:
    import timm

    weights = timm.create_model(backbone).state_dict()
    classifier = timm.get_pretrained_cfg(backbone).classifier
    heads = (classifier,) if isinstance(classifier, str) else classifier
    weights = {n: v for n, v in weights.items() if n.rpartition(".")[0] not in heads}
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    FeaturePyramid(backbone=backbone, pretrained=str(path))
    first = next(iter(weights))

    torch.save({n: v for n, v in weights.items() if n != first}, path)
    with pytest.raises(ValueError, match=rf"holds (\d+) of the .* needs .*not '{first}'\)"):
        FeaturePyramid(backbone=backbone, pretrained=str(path))
    torch.save({f"encoder.{n}": v for n, v in weights.items()}, path)
    with pytest.raises(ValueError, match=rf"holds 0 of the .* it has for example 'encoder.{first}"):
        FeaturePyramid(backbone=backbone, pretrained=str(path))
    torch.save({n: torch.zeros(3, 5, 7) for n in weights}, path)
    with pytest.raises(ValueError, match=r"holds 0 of the .* weights that"):
        FeaturePyramid(backbone=backbone, pretrained=str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": [0, 2]}, "consecutive octaves"),
        ({"levels": [5, 6]}, "need maps of stride"),
        ({"c0": 0}, "c0 must be a finite number above 0, got 0"),
        ({"bound": "relu"}, "'tanh', 'sigmoid' or 'none'"),
        ({"scale": -1}, "scale must be a finite number above 0, got -1"),
        ({"backbone": "no_such_net"}, "timm knows no model named 'no_such_net'"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(**settings)


def test_bad_images_and_points_are_refused() -> None:
    net = FeaturePyramid(levels=[0], width=8)
    with pytest.raises(ValueError, match=r"uint8 array of shape \(H, W, 3\)"):
        net.features(np.zeros((4, 4, 3), np.float32))
    features = Features.from_dense(np.zeros((4, 5, 2)))
    with pytest.raises(ValueError, match="inside the image"):
        features.at([[4, 0]])
    with pytest.raises(ValueError, match="must be finite"):
        Features.from_dense(np.full((2, 2, 1), np.nan))
    with pytest.raises(ValueError, match="shape"):
        Features.from_dense(np.zeros((2, 2)))


@pytest.mark.parametrize("size", [(37, 53), (64, 32), (1, 5), (9, 1)])
@pytest.mark.parametrize("block", [1, 500, 10**6])
def test_distances_and_means_are_those_of_the_dense_stack(net, monkeypatch, size, block) -> None:
    monkeypatch.setattr(rows, "_BLOCK_VALUES", block)
    rng = np.random.default_rng(0)
    features = net.features(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    dense = features.dense()
    right, below = features.neighbor_distances()
    np.testing.assert_allclose(right, (np.diff(dense, axis=1) ** 2).sum(-1), atol=1e-6)
    np.testing.assert_allclose(below, (np.diff(dense, axis=0) ** 2).sum(-1), atol=1e-6)
    labels = rng.integers(0, 3, size)  # of five regions, two have no pixel
    means = features.region_means(labels, 5)
    for region in range(5):
        inside = labels == region
        expected = dense[inside].mean(axis=0) if inside.any() else np.zeros(dense.shape[2])
        np.testing.assert_allclose(means[region], expected, atol=1e-5)
    with pytest.raises(ValueError, match="labels must have shape"):
        features.region_means(labels[:, :0], 5)


def test_features_of_a_batch_are_those_one_by_one_but_for_rounding() -> None:
    generator = np.random.default_rng(0)
    sizes = [(40, 56), (33, 47), (40, 56), (40, 56), (33, 47)]
    images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    net = maskfeat.load()
    found = net.features_batch(images, inner_strides=[4], batch_size=2)
    for features, image, size in zip(found, images, sizes, strict=True):
        alone = net.features(image, inner_strides=[4])
        assert features.size == size
        for ours, theirs in zip(features.pyramid, alone.pyramid, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)
        assert torch.allclose(features.boundary_logits, alone.boundary_logits, atol=1e-3)
        assert torch.allclose(features.inner[4], alone.inner[4], rtol=1e-4, atol=1e-4)
        assert torch.equal(features.color_distances, alone.color_distances)
    assert net.features_batch([]) == []
    with pytest.raises(ValueError, match="batch_size"):
        net.features_batch(images, batch_size=0)
