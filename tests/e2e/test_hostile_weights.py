"""Files of weights are data: what they say is checked, and nothing else is looked at."""

from __future__ import annotations

import json
import resource
import socket

import numpy as np
import pytest
import torch
from safetensors.torch import save as serialize

import maskfeat
from maskfeat.features import weights
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask


@pytest.fixture(scope="module")
def net() -> FeaturePyramid:
    torch.manual_seed(0)
    return FeaturePyramid("test_convnext", levels=[0, 1], width=8).eval()


@pytest.fixture
def written(net, tmp_path):
    """Write a file of weights as maskfeat does, with some settings changed."""

    def write(ending: str, **changed: object):
        path = tmp_path / f"a{ending}"
        config = net.config | changed
        if ending == ".safetensors":
            path.write_bytes(serialize(net.state_dict(), {weights.CONFIG_KEY: json.dumps(config)}))
        else:
            states = {f"net.{name}": value for name, value in net.state_dict().items()}
            entry = {weights.CONFIG_KEY: config, weights.PREFIX_KEY: "net", "state_dict": states}
            torch.save(entry, path)
        return path

    return write


@pytest.fixture
def no_network(monkeypatch) -> None:
    def refused(*words: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)


def test_what_is_whole_is_loaded_from_both_kinds_of_files(net, written) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for path in (written(".safetensors"), written(".ckpt")):
        found = maskfeat.load(path).features(rgb)
        np.testing.assert_allclose(found.dense(), net.features(rgb).dense(), atol=1e-6)


@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pretrained": True}, "settings that this version .* does not have .*pretrained.*update"),
        ({"pretrained": "/etc/passwd"}, r"does not have in weights \(pretrained\)"),
        ({"newer": 1}, r"does not have in weights \(newer\); update maskfeat"),
        ({"backbone": "hf_hub:someone/some_net"}, "timm knows no model named"),
        ({"backbone": "local-dir:/tmp"}, "timm knows no model named"),
        ({"backbone": 5}, "backbone must be a name, got '5'"),
        ({"backbone": None}, "backbone must be a name"),
        ({"backbone": "vit_gigantic_patch14_224"}, "do not fit its own config"),
        ({"levels": 5}, "levels must be a list"),
        ({"levels": [0, 1.5]}, "levels must be a whole number of 0 to 10, got 1.5"),
        ({"levels": [True, 1]}, "levels must be a whole number of 0 to 10, got True"),
        ({"levels": []}, "levels must be consecutive octaves"),
        ({"levels": {"a": 1}}, "levels must be a list"),
        ({"c0": "1"}, "c0 must be a finite number above 0 and at most 256, got '1'"),
        ({"c0": 1e12}, "c0 must be .*, got 1000000000000.0"),
        ({"width": 1e6}, "width must be a whole number of 8 to 8192"),
        ({"width": 10**9}, "width must be a whole number of 8 to 8192"),
        ({"width": 4096}, "do not fit its own config .*has shape"),
        ({"bound": ["tanh"]}, "bound must be a name"),
        ({"bound": "relu"}, "bound must be 'tanh', 'sigmoid' or 'none', got 'relu'"),
        ({"scale": float("inf")}, "scale must be a finite number above 0 .*, got inf"),
        ({"scale": float("nan")}, "scale must be .*, got nan"),
        ({"scale": None}, "scale must be .*, got None"),
        ({"learn_scale": 2}, "learn_scale must be true or false, got 2"),
    ],
)
def test_odd_settings_are_refused_in_one_sentence(
    written, no_network, ending: str, changed, message: str
) -> None:
    path = written(ending, **changed)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=message) as error:
        maskfeat.load(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "5", "null", '"a"', "{}", "[" * 100_000, '{"scale": ' + "9" * 5000 + "}"],
)
def test_settings_that_are_none_are_refused(net, tmp_path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(serialize(net.state_dict(), {weights.CONFIG_KEY: text}))
    with pytest.raises(ValueError, match=r"the settings in .* are no JSON|holds no"):
        maskfeat.load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"state_dict": None},
        {"state_dict": [1, 2]},
        {"state_dict": {"net.log_scale": 5}},
        {"state_dict": {5: torch.zeros(1)}},
        {"state_dict": {"net.log_scale": torch.zeros(1, dtype=torch.complex64)}},
        {"state_dict": {}},
        {weights.PREFIX_KEY: None},
        {weights.PREFIX_KEY: 7},
        {weights.PREFIX_KEY: "other"},
        {weights.CONFIG_KEY: None},
        {weights.CONFIG_KEY: [1]},
        {weights.CONFIG_KEY: {5: 6}},
    ],
)
def test_odd_checkpoints_are_refused_in_one_sentence(net, written, changed) -> None:
    path = written(".ckpt")
    torch.save(torch.load(path, weights_only=True) | changed, path)
    with pytest.raises(ValueError, match=r"a\.ckpt' (holds|has)|weights in .* do not fit"):
        maskfeat.load(path)
    with pytest.raises(ValueError, match=r"a\.ckpt' (holds|has)|do not fit|expected weights of"):
        weights.start_from(FeaturePyramid("test_convnext", levels=[0, 1], width=8), path)


def test_a_scale_beyond_all_numbers_is_refused(net, written) -> None:
    with torch.no_grad():
        path, before = None, net.log_scale.clone()
        net.log_scale.fill_(1000.0)
        path = written(".safetensors")
        net.log_scale.copy_(before)
    with pytest.raises(
        ValueError, match=r"the scale of .* must be a finite number above 0, got inf"
    ):
        maskfeat.load(path)


def test_what_is_no_path_is_refused() -> None:
    for wrong in (None, 5, ["maskfeat-b0"], True):
        with pytest.raises(ValueError, match="a model must be a name or the path of a file, got"):
            maskfeat.load(wrong)


def test_a_task_refuses_odd_settings_of_a_checkpoint(net) -> None:
    task = FeatureTask(net)
    for config in (None, [1], "x"):
        with pytest.raises(ValueError, match="the checkpoint holds no settings of a maskfeat"):
            task.on_load_checkpoint({weights.CONFIG_KEY: config})
