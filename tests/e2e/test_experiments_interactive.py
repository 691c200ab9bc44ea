"""The benchmark of clicks: its peers, its sums, and one run on as little as it can run on."""

from __future__ import annotations

import itertools
import json
import math
import sys
from pathlib import Path

import forked_python
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="needs the extra bench")
pytest.importorskip("matplotlib", reason="needs the extra bench")
FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "interactive"
sys.path.insert(0, str(FOLDER))

import benchmark  # noqa: E402
import peers  # noqa: E402
import report  # noqa: E402
import salient  # noqa: E402
import sessions  # noqa: E402
import targets  # noqa: E402

from maskfeat.batch import ClickTarget  # noqa: E402
from maskfeat.evaluate.metrics import iou  # noqa: E402
from maskfeat.features.color import LabEncoder  # noqa: E402
from maskfeat.segment.superpixels import superpixels  # noqa: E402
from maskfeat.segment.tree import ward_tree  # noqa: E402

PEERS = {
    "grabcut": peers.GrabCut,
    "random walker": peers.RandomWalker,
    "geodesic": peers.Geodesic,
    "watershed": peers.SeededWatershed,
    "nearest click": peers.NearestClick,
    "Ward tree": lambda: peers.TreeSegmenter(LabEncoder()),
    "nearest tree": lambda: peers.TreeSegmenter(LabEncoder(), "nearest"),
}


def disc(size: tuple[int, int] = (60, 80)) -> tuple[np.ndarray, np.ndarray]:
    """A noisy red disc on noisy blue, and where it is."""
    y, x = np.mgrid[: size[0], : size[1]]
    mask = (y - 30) ** 2 + (x - 40) ** 2 < 15**2
    noise = np.random.default_rng(0).integers(-3, 4, (*size, 3))
    rgb = np.where(mask[..., None], [200, 60, 50], [40, 70, 180]) + noise
    return rgb.astype(np.uint8), mask


def test_a_salient_node_holds_the_click_and_no_barred_region() -> None:
    rgb, _ = disc()
    graph = superpixels(LabEncoder().features(rgb))
    tree = ward_tree(graph.features, graph.sizes, graph.edges)
    for leaf, other in itertools.product((3, 120, 250), (7, 199, 390)):
        excluded = np.zeros(len(tree.parents), bool)
        excluded[tree.ancestors(other)] = True
        under = tree.leaves_under(np.array([salient.salient_path(tree, leaf).best(excluded)]))
        assert under[leaf]
        assert not under[other]
        assert under.dot(graph.sizes) <= 0.6 * graph.labels.size


@pytest.fixture(params=PEERS)
def peer(request):
    return PEERS[request.param]()


def test_two_clicks_find_a_disc_of_one_color(peer) -> None:
    rgb, mask = disc()
    peer.set_image(rgb)
    found = peer.predict(np.array([[30, 40], [5, 5]]), np.array([True, False]))
    assert found.dtype == bool
    assert iou(found, mask.astype(np.int8)) > 0.9


def test_the_first_click_alone_finds_it_too(peer) -> None:
    rgb, mask = disc()
    peer.set_image(rgb)
    found = peer.predict(np.array([[30, 40]]), np.array([True]))
    assert iou(found, mask.astype(np.int8)) > 0.8


def test_peers_obey_clicks_that_contradict_the_image_in_any_order(peer) -> None:
    rgb, _ = disc((40, 50))
    rng = np.random.default_rng(1)
    pixels = rng.choice(40 * 50, 30, replace=False)
    clicks_yx, signs = np.stack(np.divmod(pixels, 50), axis=1), rng.random(30) < 0.5
    peer.set_image(rgb)
    mask = peer.predict(clicks_yx, signs)
    np.testing.assert_array_equal(mask[tuple(clicks_yx.T)], signs)
    order = rng.permutation(30)
    np.testing.assert_array_equal(peer.predict(clicks_yx[order], signs[order]), mask)


def test_opposite_clicks_side_by_side_are_obeyed(peer) -> None:
    rgb, _ = disc()
    peer.set_image(rgb)
    mask = peer.predict(np.array([[30, 40], [30, 41]]), np.array([True, False]))
    assert mask[30, 40]
    assert not mask[30, 41]


def test_an_image_clicked_all_over_as_object_is_an_object() -> None:
    rgb, _ = disc((9, 12))
    grabcut = peers.GrabCut()
    grabcut.set_image(rgb)
    places = np.stack(np.mgrid[:9, :12], axis=2).reshape(-1, 2)
    assert grabcut.predict(places, np.ones(len(places), bool)).all()


def test_the_tree_gives_each_superpixel_the_click_it_meets_lowest() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    segmenter = peers.TreeSegmenter(LabEncoder())
    segmenter.set_image(rgb)
    labels, tree = segmenter._graph.labels, segmenter._tree
    clicks_yx = np.array([[2, 3], [20, 18], [12, 5], [7, 21], [15, 15]])
    signs = np.array([True, False, True, False, False])
    clicked = labels[tuple(clicks_yx.T)]
    assert len(set(clicked)) == 5
    mask = segmenter.predict(clicks_yx, signs)
    for superpixel in range(segmenter._graph.num_superpixels):
        path = set(tree.ancestors(superpixel))
        meets = [min(set(tree.ancestors(c)) & path) for c in clicked]  # nodes are in merge order
        lowest = signs[np.array(meets) == min(meets)]
        assert (mask[labels == superpixel] == lowest.all()).all()


def test_a_superpixel_clicked_both_ways_is_shared_out_by_nearness() -> None:
    segmenter = peers.TreeSegmenter(LabEncoder())
    segmenter.set_image(np.full((64, 64, 3), 90, np.uint8))
    labels = segmenter._graph.labels
    superpixel = np.argwhere(labels == labels[32, 32])
    first, last = superpixel[0], superpixel[-1]
    mask = segmenter.predict(np.stack([first, last]), np.array([True, False]))
    for pixel in superpixel:
        to_first, to_last = (((pixel - click) ** 2).sum() for click in (first, last))
        if to_first != to_last:
            assert mask[tuple(pixel)] == (to_first < to_last)


def test_the_frame_is_background_until_background_is_clicked() -> None:
    clicks_yx, signs = peers.with_frame(np.array([[0, 1], [2, 2]]), np.array([True, True]), 4, 5)
    assert signs.tolist() == [True, True] + [False] * 13  # 14 pixels of frame, one clicked
    assert {tuple(place) for place in clicks_yx[2:]}.isdisjoint({(0, 1), (2, 2), (1, 1)})
    known = np.array([[0, 1]]), np.array([False])
    assert peers.with_frame(*known, 4, 5) == known


def row_of(ious: list[float], **others) -> dict:
    sessions = {"random": [[0.1, 0.2], [0.1, 0.6]]}
    row = {"ious": ious, "obeyed": 1.0, "order_iou": 0.5, "dropped": 0.25, "click_s": [1.0, 3.0]}
    return row | {"set_image_s": 2.0, "users": sessions} | others


def test_means_are_those_worked_by_hand() -> None:
    ours = {"a": row_of([0.5, 0.9]), "b": row_of([0.7, 0.8, 0.97]), "c": row_of([0.1, 0.2])}
    other = {"a": row_of([0.9, 0.9]), "b": row_of([0.1, 0.1, 0.5], dropped=math.nan)}
    found = report.summarize(other, ours, clicks=2)
    assert (found["num_targets"], found["num_long"]) == (2, 1)
    assert found["noc_80"] == 1.5
    assert found["noc_80_se"] == 0.5  # 1 and 2
    assert found["nof_90"] == 0.5
    assert found["noc_90_less"] == -0.5  # 1 less on a; both 2 on b
    assert found["iou_1"] == 0.5
    assert found["curve"] == [0.5, 0.5]
    assert found["long_curve"] == [0.1, 0.1, 0.5]
    assert found["iou_3"] == 0.5  # of the long session
    assert found["dropped"] == 0.25
    assert (found["click_s"], found["set_image_s"]) == (2, 2)
    user = found["users"]["random"]
    assert user["iou_1"] == pytest.approx(0.1)
    assert user["std"] == pytest.approx(0.4 / math.sqrt(2))


def test_the_table_has_a_line_for_each_method() -> None:
    summary = report.summarize({"a": row_of([0.5, 0.9])}, {}, clicks=2)
    lines = report.table({"one": {"cut": summary, "tree": summary}}, "cut", 2).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| one | cut | 1 | 2.00 ± - |")


def test_what_does_not_exist_is_null_in_json() -> None:
    assert benchmark.without_nan({"a": [1, math.nan], "b": "nan"}) == {"a": [1, None], "b": "nan"}


def test_sessions_are_kept_and_a_torn_line_is_not(tmp_path) -> None:
    path, job = tmp_path / "sessions.jsonl", benchmark.Job("set", "a/1", "cut", 20)
    benchmark.SessionFile(path, {"clicks": 20}).add(job, {"ious": [1.0]})
    with path.open("a") as file:
        file.write('{"job": ["set", "b')  # killed here
    again = benchmark.SessionFile(path, {"clicks": 20})
    assert again.rows == {job: {"ious": [1.0]}}
    again.add(job._replace(target="b/1"), {"ious": [0.5]})
    assert len(benchmark.SessionFile(path, {"clicks": 20}).rows) == 2
    with pytest.raises(ValueError, match="holds sessions with other settings"):
        benchmark.SessionFile(path, {"clicks": 10})


def write_grabcut(folder: Path) -> Path:
    rgb, mask = disc((40, 56))
    for name, array in (("data_GT/a.png", rgb), ("boundary_GT/a.bmp", mask * np.uint8(255))):
        (folder / name).parent.mkdir(parents=True)
        Image.fromarray(array).save(folder / name)
    return folder


def test_data_are_known_by_what_they_are(repository, tmp_path) -> None:
    shards = f"{repository}/data_shards/val-*.tar"
    name, masks = targets.open_targets(shards, None, 3)
    assert name == "data_shards/val-*.tar"
    assert len(list(masks)) == 3
    assert len({target.key for target in targets.ShardTargets(shards, 40) if target}) > 18
    folder = write_grabcut(tmp_path / "set")
    for typed, layout in ((f"grabcut={folder}", None), (str(folder), "grabcut")):
        name, (target,) = targets.open_targets(typed, layout, None)
        assert (name, target.key) == ("grabcut", "a")
    with pytest.raises(FileNotFoundError, match=r"neither index.json nor tars"):
        targets.open_targets(str(folder), None, None)
    with pytest.raises(ValueError, match="layout must be one of grabcut"):
        targets.open_targets(str(folder), "mine", None)


def test_an_image_is_set_once_for_all_sessions_of_a_target() -> None:
    class Counted:
        num_images = 0

        def set_image(self, rgb):
            self.num_images += 1

        def predict(self, clicks_yx, is_positive):
            return np.zeros((60, 80), bool)

    counted = Counted()
    rgb, mask = disc()
    target = ClickTarget("disc", rgb, mask.astype(np.int8))
    sessions.METHODS["counted"] = lambda model: counted
    try:
        row = sessions.simulate("counted", "", target, 6, sessions.Rules(clicks=4, seeds=2))
    finally:
        del sessions.METHODS["counted"]
    assert counted.num_images == 1
    assert row["ious"] == [0] * 6
    assert len(row["click_s"]) == 4
    assert {name: np.shape(sessions) for name, sessions in row["users"].items()} == {
        name: (2, 5) for name in ("random", "realistic", "border")
    }


def run(repository, *words: str, code: int = 0) -> str:
    done = forked_python.run(["experiments/interactive/benchmark.py", *words], repository)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout if code == 0 else done.stderr


@pytest.mark.slow
def test_the_benchmark_runs_and_goes_on_where_it_was_stopped(repository, tmp_path) -> None:
    folder = write_grabcut(tmp_path / "set")
    words = ["--data=data_shards/val-*.tar", f"--data=grabcut={folder}", "--num_targets=2"]
    words += ["--clicks=3", "--long_clicks=4", "--long_targets=1", "--seeds=2", "--jobs=1"]
    words += ["--user_clicks=2", "--slow_every=2", f"--out={tmp_path / 'out'}"]
    printed = run(repository, *words)
    cells = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [cell[1] for cell in cells[1:]] == 2 * list(sessions.METHODS)  # once per set
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    drawn = record["sets"]["data_shards/val-*.tar"]
    assert drawn["cut"]["num_targets"] == 2
    assert drawn["grabcut"]["num_targets"] == 1  # every second
    assert all(row["obeyed"] == row["order_iou"] == 1 for row in drawn.values())
    assert (tmp_path / "out" / "result.png").stat().st_size > 1000

    path = tmp_path / "out" / "sessions.jsonl"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    assert run(repository, *words).count("| cut |") == 2
    head = whole[: len(whole) // 2].rpartition("\n")[0]
    assert path.read_text().startswith(head)  # what was over is as it was
    assert len(path.read_text().splitlines()) == len(whole.splitlines())
    assert "other settings" in run(repository, *words, "--seeds=1", code=1)
    assert "neither index.json nor tars" in run(repository, f"--data={folder}", code=1)
