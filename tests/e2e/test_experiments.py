"""The scripts of experiments run, on as little as they can run on."""

from __future__ import annotations

import importlib
import json
from types import SimpleNamespace

import forked_python
import pytest
from PIL import Image
from shard_factory import write_shard

from maskfeat.data.synth.scene import draw_scene
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.weights import save
from maskfeat.segment.merge_classifier import MergeClassifier

DRAWN = "data_shards/small-*.tar"


def run(folder, *words: str) -> str:
    return forked_python.run(words, folder, check=True).stdout


@pytest.mark.slow
def test_a_merge_classifier_is_fitted_and_can_be_loaded(repository, tmp_path) -> None:
    out = tmp_path / "merge_classifier.safetensors"
    words = ["maskfeat-b0", "--shards", DRAWN, "--num_images=2", "--steps=20", "--processes=1"]
    words += ["--drawn", DRAWN, "--num_drawn=1"]
    printed = run(
        repository, "experiments/hierarchy/fit_merge_classifier.py", *words, f"--out={out}"
    )
    assert "share of variance explained" in printed
    assert "4 images of data_shards/small" in MergeClassifier.load(out).network.origin


@pytest.mark.slow
def test_linkages_are_compared(repository, tmp_path) -> None:
    words = ["maskfeat-b0", "--shards", DRAWN, "--num_images=2", "--processes=1"]
    run(repository, "experiments/hierarchy/linkages.py", *words, f"--out={tmp_path}")
    rows = json.loads((tmp_path / "linkages_even.json").read_text())
    assert {row["variant"][0] for row in rows} == {"nearest", "average", "ward"}
    assert all(0 < row["covering ODS"] <= row["any node"] <= 1 for row in rows)


@pytest.mark.slow
def test_levels_are_measured_and_images_drawn_of_sets_never_trained_on(
    repository, tmp_path
) -> None:
    for number, name in enumerate(["ade20k_sample", "camvid", "carparts", "ccp", "facades"]):
        split = "train" if name == "ade20k_sample" else "val"
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / f"{split}-000000.tar", 1, seed=number, size=(60, 80))
    (tmp_path / "data_shards").mkdir()  # in the working folder: small scenes for large ones
    small = repository / "data_shards/small-000000.tar"
    (tmp_path / "data_shards/val-000000.tar").symlink_to(small)
    words = [f"--root={tmp_path}", f"--out={tmp_path}/out"]
    run(tmp_path, f"{repository}/experiments/hierarchy/levels.py", *words)
    rows = json.loads((tmp_path / "out/levels.json").read_text())
    assert {"camvid val", "drawn val"} < {row["set"] for row in rows}
    assert all(0 <= share <= 1 for row in rows for share in row["recall"])
    words += ["--count=1", f"--page={tmp_path}/page"]
    run(tmp_path, f"{repository}/experiments/beyond/images.py", *words)
    assert len(list((tmp_path / "page").glob("*.png"))) == 4
    widths = {path.stem: Image.open(path).width for path in (tmp_path / "out").glob("*.png")}
    assert widths["drawn"] == 5 * 320 + 4 * 4
    assert widths["camvid"] == 4 * 320 + 3 * 4  # without the image, which may not be handed on


@pytest.mark.slow
def test_trees_of_unlike_images_and_mixes_of_distances_are_measured(repository, tmp_path) -> None:
    for name in ("bsds500/val", "dev_nuclei/test"):
        path = tmp_path / f"{name}-000000.tar"
        path.parent.mkdir()
        write_shard(path, 2, seed=len(name), size=(60, 80))
    words = [f"--root={tmp_path}", "--num_images=1", f"--out={tmp_path}/unlike.json"]
    run(repository, "experiments/beyond/unlike.py", *words)
    rows = json.loads((tmp_path / "unlike.json").read_text())
    assert [row["images"] for row in rows] == [1, 1, 1, 1]
    assert all(0 < row["Ward on Lab"] <= 1 for row in rows)

    save(FeaturePyramid(width=8, boundary=True), tmp_path / "net.safetensors")
    words = [f"{tmp_path}/net.safetensors", f"--shards={tmp_path}/bsds500/val-000000.tar"]
    words += ["--shares", "0", "1"]
    run(repository, "experiments/hierarchy/shares.py", *words, f"--out={tmp_path}/shares.json")
    rows = json.loads((tmp_path / "shares.json").read_text())
    names = ("slope", "strength", "color_slope", "color_strength")
    mixes = {tuple(row[name] for name in names) for row in rows}
    assert len(mixes) == len(rows) == 4 + 4
    assert len({row["best IoU"] for row in rows}) > 3


@pytest.mark.slow
def test_partitions_and_times_are_compared_with_peers(repository, tmp_path) -> None:
    pytest.importorskip("cv2", reason="needs the extra bench")
    pytest.importorskip("matplotlib", reason="needs the extra bench")
    words = ["maskfeat-b0", "--shards", DRAWN, f"--out={tmp_path}"]
    small = ["--num_images=1", "--num_segments", "25", "50", "--processes=1"]
    table = run(repository, "experiments/partition/benchmark.py", *words, *small)
    assert "| maskfeat tree |" in table
    assert "| watershed by volume |" in table
    words[-1], some = f"--out={tmp_path}/some", ["--methods", "maskfeat partition"]
    table = run(repository, "experiments/partition/benchmark.py", *words, *small, *some)
    assert "| maskfeat partition |" in table
    assert "| maskfeat tree |" not in table
    words[-1] = f"--out={tmp_path}"
    run(repository, "experiments/partition/scaling.py", *words, "--sides", "64", "96")
    for name in ("result.json", "result.md", "result.png", "scaling.json", "scaling.png"):
        assert (tmp_path / name).stat().st_size > 100


@pytest.mark.slow
def test_two_processes_are_timed_against_one(repository, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(repository / "experiments/step_speed"))
    processes = importlib.import_module("processes")

    def forked(words: list[str], cwd: str, env: dict[str, str], **_: object) -> None:
        forked_python.run(words[1:], cwd, env, check=True)

    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(run=forked, DEVNULL=None))
    words = ["--steps=5", "--turns=1", "--crop_size=64", f"--out={tmp_path}"]
    monkeypatch.setattr("sys.argv", ["processes.py", *words])
    processes.main()
    assert "two processes over one:" in capsys.readouterr().out
    record = json.loads((tmp_path / "processes.json").read_text())
    assert record["two_over_one"] == pytest.approx(record["two"][0] / record["one"][0])
    assert record["one"][0] > 0


@pytest.mark.slow
def test_polygons_of_drawn_scenes_come_back(repository, tmp_path) -> None:
    out = tmp_path / "results.json"
    printed = run(repository, "experiments/formats/round_trip.py", "--num=3", f"--out={out}")
    assert "| 0.5 | 1.0000 | 1.0000 | 0.0e+00 | 0.0e+00 |" in printed
    assert json.loads(out.read_text())["0.5"]["maps"] == 3


def test_two_checkouts_are_timed_in_turn(repository, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(repository / "experiments/speed")
    commits = importlib.import_module("commits")
    image = tmp_path / "image.png"
    Image.fromarray(draw_scene(0, 0, (480, 640)).image).save(image)
    monkeypatch.setattr("sys.stdin", [f"{name}\n" for name in commits.STEPS])
    commits.serve(image)
    seconds = [float(line) for line in capsys.readouterr().out.splitlines()]
    assert len(seconds) == len(commits.STEPS)
    assert min(seconds) > 0

    asked = list[str]()
    monkeypatch.setattr(commits, "COMMANDS", {"a file": ["-c", "open('conf/base.yaml')"]})
    monkeypatch.setattr(
        commits, "start_serving", lambda root, _: lambda name: asked.append(name) or len(root.name)
    )
    roots = [repository, repository]
    found = commits.compare(roots, image, turns=1)
    assert asked == 2 * [name for name in commits.STEPS for _ in roots]
    assert found["tree"] == [len(repository.name)] * 2
    assert all(0 < seconds < 5 for seconds in found["a file"])
    assert (
        commits.table({"tree": [2.0, 1.0]}).splitlines()[2] == "| tree | 2.000 s | 1.000 s | 0.50 |"
    )
