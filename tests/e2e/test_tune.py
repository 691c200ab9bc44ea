"""`maskfeat tune`: a folder of masks, by conf/clicks.yaml with conf/own.yaml, becomes a model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from shard_factory import Scene, draw_scene, sample_files

import maskfeat
from maskfeat.app import tune_command
from maskfeat.app.own_shards import split_samples
from maskfeat.data.convert.sources import find_inputs
from maskfeat.evaluate.own_images import OwnScores
from maskfeat.features.model_file import find_model
from maskfeat.features.weights import DECODER_PREFIX, save

SCORES = OwnScores(0.5, noc_85=9, noc_90=12, iou_1=0.4, iou_5=0.6, iou_mean=0.7, num_objects=4)


def annotated(folder: Path, num_images: int) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(num_images):
        rgb, masks = draw_scene(rng, (60, 80), num_masks=2)
        for ending, data in sample_files(Scene(f"s{number}", rgb, masks)).items():
            (folder / f"s{number}.{ending}").write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def _small_epochs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("data: {init_args: {epoch_images: 2, num_images: 1, num_objects: 1}}")
    monkeypatch.setattr(
        tune_command, "CONFIGS", [*tune_command.CONFIGS, str(small.with_suffix(""))]
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without a click decoder."""
    path = tmp_path_factory.mktemp("models") / "plain.safetensors"
    save(maskfeat.load(), path)
    return path


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[OwnScores]:
    """Scores that replace those of clicking, first to last."""
    scores = [SCORES, SCORES]
    monkeypatch.setattr("maskfeat.evaluate.own_images.score_on", lambda *_, **__: scores.pop(0))
    return scores


def test_a_tuned_model_is_one_file_that_reads_clicks(command, tmp_path, capsys) -> None:
    annotated(tmp_path / "masks", 3)
    command("tune", "masks", "--epochs=1", "--out=own.safetensors")
    shown = capsys.readouterr().out
    assert "| clicks to IoU 0.85 |" in shown
    assert "1 held-out image, 2 objects. They also stop training" in shown
    table = shown[shown.index("| held-out images") :].strip()
    assert table in maskfeat.read_card(tmp_path / "own.safetensors")
    assert not (tmp_path / "own.tuning").exists()
    segmenter = maskfeat.InteractiveSegmenter(tmp_path / "own.safetensors")
    assert segmenter.decoder is not None
    segmenter.set_image(np.asarray(Image.open(tmp_path / "masks/s0.jpg")))
    assert segmenter.predict([[30, 40]], [True])[30, 40]


@pytest.mark.parametrize("is_better", [True, False])
def test_features_stay_and_the_decoder_is_the_better_one(
    command, tmp_path, scored, is_better, capsys
) -> None:
    gained = {"noc_85": 8.0, "iou_mean": 0.8} if is_better else {"noc_85": 9.5, "iou_mean": 0.8}
    scored[1] = OwnScores(**{**vars(SCORES), **gained})
    annotated(tmp_path / "masks", 2)
    command("tune", "masks", "--epochs=1", "--out=own.safetensors")
    assert ("no better" in capsys.readouterr().out) is not is_better
    before, after = load_file(find_model("maskfeat-b0")), load_file(tmp_path / "own.safetensors")
    assert before.keys() == after.keys()
    differing = [name for name, value in before.items() if not value.equal(after[name])]
    assert bool(differing) is is_better
    assert all(name.startswith(DECODER_PREFIX) for name in differing)


def test_what_was_stopped_goes_on_and_other_settings_begin_anew(
    command, tmp_path, scored, monkeypatch
) -> None:
    annotated(tmp_path / "masks", 2)
    trained = []
    fit = tune_command.train_decoder

    def train(state, *others):
        trained.append((state / "checkpoints/last.ckpt").exists())
        return fit(state, *others)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tune_command, "train_decoder", train)
    keep = tune_command._keep_the_better
    monkeypatch.setattr(tune_command, "_keep_the_better", stop)
    with pytest.raises(SystemExit):
        command("tune", "masks", "--epochs=1")
    checkpoints = tmp_path / "own.tuning/checkpoints"
    shutil.copytree(checkpoints, tmp_path / "kept")
    note = tmp_path / "own.tuning/made_of.json"

    def train_as_before(state, *_):
        trained.append((state / "checkpoints/last.ckpt").exists())
        shutil.copytree(tmp_path / "kept", checkpoints, dirs_exist_ok=True)
        return checkpoints / "last.ckpt"

    monkeypatch.setattr(tune_command, "train_decoder", train_as_before)
    # As if of another seed, and cut in half.
    for other in ("[]", note.read_text()[:9]):
        note.write_text(other)
        with pytest.raises(SystemExit):
            command("tune", "masks", "--epochs=1")
    monkeypatch.setattr(tune_command, "train_decoder", train)
    monkeypatch.setattr(tune_command, "_keep_the_better", keep)
    command("tune", "masks", "--epochs=1")
    assert trained == [False, False, False, True]
    assert (tmp_path / "own.safetensors").exists()


def test_the_folder_of_the_state_is_held_until_it_is_gone(
    command, tmp_path, scored, monkeypatch
) -> None:
    annotated(tmp_path / "masks", 2)
    locks = []
    remove = shutil.rmtree

    def rmtree(path, **options):
        if Path(path).suffix == ".tuning":
            locks.extend(file.name for file in tmp_path.glob(".*.lock"))
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    command("tune", "masks", "--epochs=1")
    assert locks == [".own.tuning.lock"]
    assert not list(tmp_path.glob(".*.lock"))


def test_a_folder_of_somebody_else_is_not_emptied(command, tmp_path) -> None:
    annotated(tmp_path / "masks", 2)
    (tmp_path / "own.tuning/own").mkdir(parents=True)
    (tmp_path / "own.tuning/own/thesis.txt").write_text("years")
    with pytest.raises(SystemExit, match=r"'own\.tuning' holds no run of tune"):
        command("tune", "masks", "--epochs=1")
    assert (tmp_path / "own.tuning/own/thesis.txt").read_text() == "years"


def test_one_in_five_is_held_out_by_the_seed(tmp_path) -> None:
    inputs = find_inputs([str(annotated(tmp_path / "masks", 11))])

    def keys(seed: int) -> tuple[list[str], list[str]]:
        split = split_samples(inputs, 0.2, seed)
        train, held_out = (
            [record.key for one in kind for record in one.list_records()]
            for kind in (split.train, split.held_out)
        )
        return train, held_out

    train, held_out = keys(0)
    assert len(held_out) == 2
    assert sorted(train + held_out) == sorted(f"s{n}" for n in range(11))
    assert keys(0) == (train, held_out)
    assert len({tuple(keys(seed)[1]) for seed in range(5)}) > 1
    (one,) = split_samples(inputs, 0.01, 0).held_out
    assert len(one.list_records()) == 1


def test_one_photograph_of_two_folders_is_on_one_side(tmp_path) -> None:
    """By its file: segment and annotate write masks of the same photographs."""
    folders = [annotated(tmp_path / "segments", 6), annotated(tmp_path / "clicked", 6)]
    inputs = find_inputs([str(folder) for folder in folders])
    for seed in range(5):
        split = split_samples(inputs, 0.34, seed)
        kinds = (split.train, split.held_out)
        train, held_out = ([r.key for one in kind for r in one.list_records()] for kind in kinds)
        assert (len(train), len(held_out)) == (8, 4)
        assert not set(train) & set(held_out)
        assert sorted(train + held_out) == sorted(2 * [f"s{n}" for n in range(6)])


def test_an_image_without_masks_is_no_sample(tmp_path, caplog) -> None:
    images = []
    for number in range(10):
        name = f"{number}.png"
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / name)
        images.append({"id": number, "file_name": name, "width": 40, "height": 30})
    box = [[5, 5, 20, 5, 20, 20]]
    drawn = [
        {"id": n, "image_id": n, "category_id": 1, "segmentation": box, "iscrowd": int(n == 4)}
        for n in range(5)
    ]
    content = {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    split = split_samples(find_inputs([str(tmp_path / "coco.json")]), 0.5, 0)
    keys = [r.key for one in (*split.train, *split.held_out) for r in one.list_records()]
    assert sorted(keys) == ["0", "1", "2", "3"]
    assert "left out of the images: 6, e.g. no masks" in caplog.text


def test_what_cannot_be_clicked_is_refused_before_the_training(
    command, tmp_path, monkeypatch
) -> None:
    trained = []
    monkeypatch.setattr(tune_command, "train_decoder", lambda *_: trained.append(1))
    (tmp_path / "masks").mkdir()
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (40, 30), color).save(tmp_path / f"masks/{name}.jpg")
        Image.new("L", (40, 30), 1).save(tmp_path / f"masks/{name}.png")  # one mask, all pixels
    with pytest.raises(SystemExit, match=r"no held-out image has an object of 0\.1 to 60 %"):
        command("tune", "masks", "--epochs=1")
    assert not trained


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none"], "no source 'none'"),
        (["photos"], "at least 2 annotated images are needed.* got 0"),
        (["one"], "at least 2 annotated images are needed.* got 1"),
        (["two", "--out=own.pt"], "out must end in .safetensors"),
        (["two", "--epochs=0"], "epochs must be at least 1"),
        (["two", "--held_out=1"], "held_out must lie between 0 and 1"),
        (["two", "--mix=photos"], "no train-.*.tar in 'photos'"),
        (["two", "--model=plain.safetensors"], "without a click decoder"),
    ],
)
def test_bad_input_ends_in_one_sentence(command, tmp_path, plain, words, sentence) -> None:
    annotated(tmp_path / "one", 1)
    annotated(tmp_path / "two", 2)
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"photos/{name}.jpg")
    (tmp_path / "plain.safetensors").symlink_to(plain)
    with pytest.raises(SystemExit, match=sentence) as stop:
        command("tune", *words)
    assert "\n" not in str(stop.value)
