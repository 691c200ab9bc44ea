"""Models as ONNX graphs: features and masks as by PyTorch, at any size; wrong files are named."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import forked_python
import numpy as np
import onnx
import pytest
import torch
from drawn_images import ON_DISC, ON_GROUND, ON_SQUARE, drawn

import maskfeat
from maskfeat.cli import main
from maskfeat.features.onnx_encoder import OnnxEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.weights import read_card, save
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_file import OnnxClickDecoder, load_decoder, packed, remove_decoder
from maskfeat.interactive.decoder_unary import num_image_channels, num_prompt_channels
from maskfeat.interactive.segmenter import InteractiveSegmenter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.safetensors with features, boundaries and a click decoder; model.onnx made of it."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = FeaturePyramid("test_resnet", levels=[0, 1], width=8, boundary=True, color=True)
    decoder = ClickDecoder(
        num_image_channels([1, 4]), num_prompt_channels(2), width=8, stages=(8, 8), blocks=(1, 1)
    )
    path = folder / "model.safetensors"
    save(net, path, torch.float32, "", packed(decoder, torch.float32))
    (folder / "card.md").write_text("# Trained on ünïcode\n", encoding="utf-8")
    main(["export", str(path), str(folder / "model.onnx"), "--card", str(folder / "card.md")])
    return folder


@pytest.mark.parametrize("size", [(64, 96), (31, 17), (70, 101), (1, 33)])
def test_features_are_those_of_pytorch_at_any_size(folder, size) -> None:
    model = maskfeat.load(folder / "model.onnx")
    assert isinstance(model, OnnxEncoder)
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)

    found, wanted = model.features(rgb), maskfeat.load(folder / "model.safetensors").features(rgb)

    assert (found.size, found.strides, found.scale) == (size, wanted.strides, wanted.scale)
    np.testing.assert_allclose(found.dense(), wanted.dense(), atol=1e-4, rtol=0)
    for ours, theirs in zip(
        found.boundary_probabilities(), wanted.boundary_probabilities(), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.color_distances, wanted.color_distances, rtol=0, atol=0)
    cuts = [maskfeat.hierarchy(features).cut(4) for features in (found, wanted)]
    np.testing.assert_array_equal(*cuts)


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors", "lab"])
def test_every_encoder_takes_batches_of_a_size(folder, name: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    model = maskfeat.load(name if name == "lab" else folder / name)
    for found, image in zip(model.features_batch(images, batch_size=2), images, strict=True):
        np.testing.assert_allclose(found.dense(), model.features(image).dense(), atol=1e-5)
    with pytest.raises(ValueError, match="batch_size"):
        model.features_batch(images, batch_size=0)


def test_a_graph_takes_many_images_at_once(folder) -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 40, 56, 3), dtype=np.uint8)
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / "model.onnx")
    found = session.run(["level_2"], {"rgb": images})[0]

    each = [session.run(["level_2"], {"rgb": images[i : i + 1]})[0][0] for i in range(3)]
    np.testing.assert_allclose(found, np.stack(each), atol=1e-5)


def test_clicks_give_the_masks_of_pytorch(folder) -> None:
    image = drawn()
    clicks = np.array([ON_DISC, ON_GROUND, ON_SQUARE])
    signs = np.array([True, False, True])
    masks = []
    for name in ("model.safetensors", "model.onnx"):
        segmenter = InteractiveSegmenter(folder / name)
        segmenter.set_image(image)
        masks.append([segmenter.predict(clicks[:count], signs[:count]) for count in (1, 2, 3)])

    assert isinstance(segmenter.decoder, OnnxClickDecoder)
    np.testing.assert_array_equal(*masks)


def test_the_halves_of_the_decoder_take_looks_of_any_size(folder) -> None:
    ours = InteractiveSegmenter(folder / "model.onnx").decoder
    theirs = load_decoder(folder / "model.safetensors")
    torch.manual_seed(1)
    for rows, columns in ((16, 16), (4, 10)):
        image = torch.randn(1, theirs.config["image_channels"], rows, columns)
        prompts = torch.randn(1, theirs.config["prompt_channels"], rows, columns)
        encoded = theirs.encode(image)
        torch.testing.assert_close(ours.encode(image), encoded, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            ours(encoded, prompts), theirs(encoded, prompts), atol=1e-5, rtol=1e-5
        )
    assert ours.multiple == theirs.multiple


def test_the_graphs_are_valid_and_hold_card_and_origin(folder) -> None:
    for name in ("model.onnx", "model.look.onnx", "model.click.onnx"):
        onnx.checker.check_model(folder / name, full_check=True)
    assert read_card(folder / "model.onnx") == "# Trained on ünïcode\n"
    assert maskfeat.load(folder / "model.onnx").loaded_from == folder / "model.onnx"


def test_segments_of_the_command_are_those_of_the_network(folder, tmp_path) -> None:
    from PIL import Image

    Image.fromarray(drawn()).save(tmp_path / "image.png")
    for kind in ("safetensors", "onnx"):
        words = ["--model", str(folder / f"model.{kind}"), "--out", str(tmp_path / kind)]
        main(["segment", str(tmp_path / "image.png"), *words])
    both = [(tmp_path / kind / "image_labels.png").read_bytes() for kind in ("safetensors", "onnx")]
    assert both[0] == both[1]


def test_models_are_compared_by_the_script_of_experiments(folder, repository, tmp_path) -> None:
    words = [folder / "model.safetensors", folder / "model.onnx", "--num_images=1"]
    words += ["--shards=data_shards/val-*.tar", f"--out={tmp_path / 'result.json'}"]
    forked_python.run(["experiments/onnx/compare.py", *words], repository, check=True)
    found = json.loads((tmp_path / "result.json").read_text())
    assert (found["images"], found["equal label maps"]) == (1, 1)
    assert found["largest difference of a feature"] < 1e-4
    assert set(found["CPU seconds by onnxruntime"]) == {"features", "set_image", "click"}


def copied(folder: Path, to: Path) -> Path:
    for path in folder.glob("model*.onnx"):
        shutil.copy(path, to / path.name)
    return to / "model.onnx"


def test_a_model_without_a_decoder_clicks_by_features(folder, tmp_path) -> None:
    path = copied(folder, tmp_path)
    remove_decoder(path)
    assert InteractiveSegmenter(path).decoder is None


def test_damaged_missing_and_foreign_files_get_one_sentence(folder, tmp_path) -> None:
    path = copied(folder, tmp_path)
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no ONNX file that onnxruntime can run"):
        maskfeat.load(path)

    graph = onnx.load_from_string(whole)
    del graph.metadata_props[:]
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match="was not made by maskfeat"):
        maskfeat.load(path)

    path.write_bytes(whole)
    with pytest.raises(ValueError, match="holds a part of a click decoder"):
        maskfeat.load(tmp_path / "model.look.onnx")
    with pytest.raises(ValueError, match="runs on the CPU alone"):
        maskfeat.load(path, device="meta")

    (tmp_path / "model.click.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.click.onnx' is missing"):
        InteractiveSegmenter(path)

    half = onnx.load_from_string((folder / "model.click.onnx").read_bytes())
    next(one for one in half.metadata_props if one.key == "maskfeat_origin").value = "other"
    (tmp_path / "model.click.onnx").write_bytes(half.SerializeToString())
    with pytest.raises(ValueError, match="belongs to another model"):
        InteractiveSegmenter(path)


def test_a_graph_cannot_read_other_files(folder, tmp_path) -> None:
    graph = onnx.load_from_string((folder / "model.onnx").read_bytes())
    (tmp_path / "secret.bin").write_bytes(bytes(10**6))
    weight = max(graph.graph.initializer, key=lambda one: len(one.raw_data))
    size = len(weight.raw_data)
    onnx.external_data_helper.set_external_data(weight, "secret.bin", length=size)
    weight.ClearField("raw_data")
    (tmp_path / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ValueError, match="is no ONNX file that onnxruntime can run"):
        maskfeat.load(tmp_path / "model.onnx")


def test_what_cannot_be_written_is_said(folder, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for words, said in (
        ([f"{folder}/model.onnx", "a.safetensors"], "is a graph; give the checkpoint"),
        ([f"{folder}/model.safetensors", "a.onnx", "--format", "safetensors"], "must end in"),
        ([f"{folder}/model.safetensors", "a.pt"], "must end in .safetensors or .onnx, got 'a.pt'"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["export", *words])
    decoder = ClickDecoder(9, 4, width=8, stages=(8, 8), blocks=(1, 1), inner_strides=(4,))
    net = maskfeat.load(folder / "model.safetensors")
    save(net, "inner.safetensors", torch.float32, "", packed(decoder, torch.float32))
    with pytest.raises(SystemExit, match="maps inside the network cannot be written as ONNX"):
        main(["export", "inner.safetensors", "--format", "onnx"])
    assert not list(tmp_path.glob("*.onnx"))


def test_a_missing_extra_is_named(folder, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'maskfeat\[onnx\]'"):
        maskfeat.load(folder / "model.onnx")
