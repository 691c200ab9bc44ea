"""experiments/ablations: the table, the queue that goes on, the report; and the ranking loss."""

import json
import sys

import forked_python
import numpy as np
import pytest
import torch
import yaml

from maskfeat.features.losses import mask_consistency_loss, pair_similarity
from maskfeat.features.ranking import RankedConsistencyLoss, RankingLoss, ranking_loss


@pytest.fixture
def scripts(monkeypatch, repository):
    """The two scripts as modules."""
    monkeypatch.syspath_prepend(str(repository / "experiments" / "ablations"))
    for name in ("run", "report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    pytest.importorskip("matplotlib")
    import report
    import run

    yield run, report
    for name in ("run", "report"):
        sys.modules.pop(name, None)


@pytest.fixture
def table(repository):
    return yaml.safe_load((repository / "experiments/ablations/variants.yaml").read_text())


# The ranking loss.


def nested_case():
    """One image: two points in a subpart, one more in its object, one in another object."""
    masks = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]], dtype=torch.bool)
    return masks.unsqueeze(0)


def test_ranking_loss_is_the_mean_over_all_triplets_when_many_are_drawn() -> None:
    torch.manual_seed(0)
    membership = nested_case()
    features = torch.randn(1, 4, 3)
    similar, _ = pair_similarity(membership)
    s, costs = similar[0], []
    d2 = torch.cdist(features[0], features[0]).square()
    for p in range(4):
        for q in range(4):
            for r in range(4):
                if p not in (q, r) and s[p, q] > s[p, r]:
                    costs.append(max(0.0, float(1 + d2[p, q] - d2[p, r])))
    loss = ranking_loss(features, membership, margin=1.0, num_draws=50_000)
    assert loss.total.item() == pytest.approx(np.mean(costs), rel=0.02)
    violated = np.mean([cost > 0 for cost in costs])
    assert loss.parts["violated"].item() == pytest.approx(violated, abs=0.02)


def test_features_in_the_order_of_the_masks_cost_nothing_and_reversed_ones_do() -> None:
    ordered = torch.tensor([[[0.0], [0.0], [2.0], [6.0]]])
    assert ranking_loss(ordered, nested_case()).total == 0
    assert ranking_loss(ordered.flip(1), nested_case()).total > 1


def test_points_in_no_mask_form_no_triplets() -> None:
    membership = torch.zeros(2, 3, 5, dtype=torch.bool)
    features = torch.randn(2, 5, 4, requires_grad=True)
    loss = ranking_loss(features, membership)
    loss.total.backward()
    assert loss.total == 0
    assert features.grad is not None
    assert (features.grad == 0).all()


def test_gradient_of_ranking_pulls_the_more_similar_point() -> None:
    features = torch.tensor([[[0.0], [1.0], [1.0], [1.0]]], requires_grad=True)
    ranking_loss(features, nested_case(), num_draws=500).total.backward()
    assert features.grad[0, 0, 0] < 0  # descent moves point 0 up, to the others of its masks
    assert features.grad[0, 3, 0] < 0  # and the other object away from them


def test_ranked_consistency_adds_both_in_one_unit_and_the_ranking_leaves_the_scale_alone() -> None:
    torch.manual_seed(0)
    features, scale = torch.randn(1, 4, 3), torch.tensor(2.5, requires_grad=True)
    membership, points = nested_case(), torch.zeros(1, 4, 2)
    consistency = mask_consistency_loss(features, membership, scale)
    (expected_slope,) = torch.autograd.grad(consistency.total, scale)
    ranking = ranking_loss(features * 2.5**0.5, membership, margin=0.7, num_draws=20_000)
    loss = RankedConsistencyLoss(weight=0.3, margin=0.7, num_draws=20_000)
    found = loss(features, membership, scale, points)
    expected = consistency.total.item() + 0.3 * ranking.total.item()
    assert found.total.item() == pytest.approx(expected, rel=0.02)
    assert torch.autograd.grad(found.total, scale)[0].item() == pytest.approx(expected_slope.item())
    assert found.parts["consistency"].item() == pytest.approx(consistency.total.item())


def test_ranking_refuses_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="weight must be positive, got 0; else take"):
        RankedConsistencyLoss(weight=0)
    with pytest.raises(ValueError, match="margin must be positive"):
        RankingLoss(margin=0)
    with pytest.raises(ValueError, match="same batch size"):
        ranking_loss(torch.zeros(1, 4, 2), torch.zeros(1, 3, 5, dtype=torch.bool))


# The table and the queue.


def test_every_variant_differs_from_the_base_and_from_others_of_its_question(
    scripts, table
) -> None:
    run, _ = scripts
    runs = run.runs_of(table, steps=5, seeds=[0], only=[])
    settings = {one["variant"]: json.dumps(one["settings"], sort_keys=True) for one in runs}
    base = settings.pop("base")
    assert base not in settings.values()
    found = {(table["variants"][name]["question"], one) for name, one in settings.items()}
    assert len(found) == len(settings) == len(table["variants"])
    assert set("abcdefgh") < {question for question, _ in found}


def test_variants_change_what_they_name_and_nothing_else(scripts, table) -> None:
    run, _ = scripts
    found = {
        one["variant"]: one["settings"] for one in run.runs_of(table, steps=5, seeds=[0], only=[])
    }
    base, changed = found["base"], found["points_512"]
    assert changed["data"] == base["data"] | {"num_points": 512}
    assert {k: v for k, v in changed.items() if k != "data"} == {
        k: v for k, v in base.items() if k != "data"
    }


def test_base_goes_first_then_a_variant_of_each_question(scripts, table) -> None:
    run, _ = scripts
    runs = run.runs_of(table, steps=5, seeds=[0, 1], only=[])
    names = [(one["variant"], one["settings"]["seed"]) for one in runs]
    assert names[:2] == [("base", 0), ("base", 1)]
    questions = {table["variants"][name]["question"] for name, _ in names[2:10]}
    assert questions == {"base", *"abcdefg"}
    assert run.runs_of(table, 5, [0], ["f"])[0]["variant"] in table["variants"]
    assert ("lab", 1) not in names


def test_nothing_is_trained_on_that_is_evaluated_on(scripts, table) -> None:
    run, _ = scripts
    for one in run.runs_of(table, steps=5, seeds=[0], only=[]):
        for stage in one["settings"]["stages"]:
            for pattern, _ in stage["sets"].values():
                assert "/train-" in pattern
        assert "/val-" in one["settings"]["held_out"]
        assert "iis" not in json.dumps(one)


def test_a_line_cut_short_by_a_kill_is_left_out_and_written_after(scripts, tmp_path) -> None:
    run, _ = scripts
    path = tmp_path / "results.jsonl"
    run.append(path, {"variant": "base"})
    with path.open("a") as file:
        file.write('{"variant": "hal')
    run.append(path, {"variant": "whole"})
    assert [line["variant"] for line in run.finished(path)] == ["base", "whole"]


SMALL = """
base:
  net: {backbone: test_efficientnet, levels: [0, 1, 2], c0: 1, width: 16}
  loss: {class_path: maskfeat.features.losses.MaskConsistencyLoss}
  model: {warmup_steps: 1}
  data: {batch_size: 2, crop_size: 64, num_points: 32}
  augmentation: {}
  stages: [{sets: {drawn: ["data_shards/train-*.tar", 1]}}]
  held_out: "data_shards/val-*.tar"
variants:
  lab: {question: base, text: Lab color, encoder: lab, seeds: 1}
  ranking:
    question: a
    text: ranking loss
    loss: {class_path: maskfeat.features.ranking.RankingLoss}
  two_stages:
    question: a
    text: in two stages
    stages:
      - {sets: {small: ["data_shards/small-*.tar", 1]}, share: 0.5}
      - {sets: {drawn: ["data_shards/train-*.tar", 1]}, share: 0.5}
"""


@pytest.mark.slow
def test_the_queue_runs_goes_on_and_is_reported(repository, tmp_path) -> None:
    table, out = tmp_path / "table.yaml", tmp_path / "results.jsonl"
    table.write_text(SMALL)
    (tmp_path / "NOTES.md").write_text("# Title\n<!-- table a -->\nold\n<!-- end -->\nrest\n")

    def script(name, *words):
        words = [f"experiments/ablations/{name}.py", *words]
        return forked_python.run(words, repository, check=True).stdout

    words = ("--table", table, "--out", out, "--steps", 2, "--num_images", 1, "--seeds", 0)
    script("run", *words, "--only", "base")
    assert [json.loads(line)["variant"] for line in out.read_text().splitlines()] == ["base", "lab"]
    printed = script("run", *words)
    assert printed.count("finished before") == 2
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert {line["variant"] for line in lines} == {"base", "lab", "ranking", "two_stages"}
    for line in lines:
        assert 0 < line["scores"]["auc"] < 1
        assert 0 <= line["scores"]["recall_part"] <= 1

    pytest.importorskip("matplotlib")
    report = ("--table", table, "--results", out, "--steps", 2, "--out", tmp_path)
    script("report", *report)
    text = (tmp_path / "NOTES.md").read_text()
    assert "old" not in text
    assert "| ranking loss | 1 |" in text
    assert text.startswith("# Title")
    assert text.endswith("rest\n")
    assert (tmp_path / "a.png").stat().st_size > 1000


# The report.


def test_noise_is_the_std_within_variants_not_between_them(scripts) -> None:
    _, report = scripts

    def row(*values):
        return report.Row("x", [{"scores": {"auc": value}} for value in values])

    noise = report.noise_of([row(0.1, 0.3), row(0.7, 0.9), row(0.5)], "auc")
    assert noise.freedom == 2
    assert noise.deviation == pytest.approx(np.sqrt(0.02))
    # Two means of two: t(0.975, 2) = 4.303 times the standard error of their difference.
    assert noise.margin(2, 2) == pytest.approx(4.303 * np.sqrt(0.02), rel=1e-3)
    assert report.Noise(0.0, 0).margin(1, 1) == float("inf")
