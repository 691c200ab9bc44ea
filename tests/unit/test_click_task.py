"""Training of the click decoder: sessions, prepared images, the task, and its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from click_maps import maps_of_a_rectangle
from shard_factory import write_shard

import maskfeat
from maskfeat.app.export_command import export
from maskfeat.data.annotations.limits import Limits
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.features.weights import save
from maskfeat.interactive.cut import OutlineCutter
from maskfeat.interactive.decoder_file import load_decoder, save_with_decoder
from maskfeat.interactive.decoder_unary import ImageMaps, look_at
from maskfeat.interactive.prompts import Prompt, PromptSet
from maskfeat.interactive.training.data import (
    ClickDataModule,
    PreparedImages,
    SessionMaker,
    lie_in_another,
)
from maskfeat.interactive.training.session import TrainingSession
from maskfeat.interactive.training.task import ClickTask, SessionCheckpoint, look_loss

SIZE = (48, 64)
OUTLINE = OutlineCutter(np.zeros((48, 63)), np.zeros((47, 64)))  # all pixels alike
PACKAGED = Path(__file__).parents[2] / "data_shards"


@pytest.fixture(scope="module")
def maps() -> ImageMaps:
    return maps_of_a_rectangle(SIZE)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[10:30, 12:40] = True
    return mask


def test_users_label_pixels_rightly_and_click_errors_alone(
    maps: ImageMaps, mask: np.ndarray
) -> None:
    kinds = set()
    for seed in range(60):
        session = TrainingSession(maps, OUTLINE, mask, np.random.default_rng(seed))
        kinds.add((session.given.box is not None, session.given.mask is not None))
        for _ in range(3):
            known = len(session.given.prompts)
            wrong = session.pred != mask
            session.click()
            for prompt in session.given.prompts[known:]:
                assert wrong[tuple(prompt.pixels_yx.T)].all()
            session.pred = np.roll(mask, 3, axis=1)
        for prompt in session.given.prompts:
            assert (mask[tuple(prompt.pixels_yx.T)] == prompt.is_object).all()
        if session.given.box is not None:
            top, left, bottom, right = session.given.box
            assert mask[top:bottom, left:right].sum() == mask.sum()
    assert len(kinds) == 3  # with a box, with a mask, with neither


def test_a_drawn_session_is_dark_where_the_mask_so_far_and_the_true_one_have_no_object(
    maps: ImageMaps, mask: np.ndarray
) -> None:
    session = TrainingSession(maps, OUTLINE, mask, np.random.default_rng(0))
    session.given = PromptSet([Prompt(np.array([[20, 20]]), True)])
    session.pred = np.roll(mask, 20, axis=1)
    whole = TrainingSession(maps, OUTLINE, mask, np.random.default_rng(0))
    whole.given, whole.pred, whole.mask = PromptSet([]), np.ones(SIZE, bool), np.ones(SIZE, bool)

    drawn, bright = session.drawn(), whole.drawn()

    assert drawn.shape == (SIZE[0], 2 * SIZE[1], 3)
    np.testing.assert_array_equal(drawn[20, 20], (0, 255, 0))
    is_lit = np.concatenate([session.pred, mask], axis=1)
    is_lit[15:26, 15:26] = False  # the click
    np.testing.assert_array_equal(drawn[is_lit], bright[is_lit])
    is_dark = ~np.concatenate([session.pred, mask], axis=1)
    is_dark[15:26, 15:26] = False
    assert (drawn[is_dark] <= 0.3 * bright[is_dark] + 1).all()


def test_cells_of_a_correction_lie_on_the_pixels() -> None:
    for rows, columns in ((slice(10, 59), slice(0, 49)), (slice(0, 30), slice(7, 44))):
        look = look_at((rows, columns))
        assert look.cell_px == 1
        assert look.top == int(look.top)
        assert look.left == int(look.left)
        assert look.top <= rows.start
        assert look.top + look.rows >= rows.stop


def test_masks_inside_another_one_are_drawn_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (60, 80)
    masks = np.zeros((3, *size), bool)
    masks[0, 10:50, 10:50] = True
    masks[1, 12:40, 12:40] = True  # lies in the first
    masks[2, 12:40, 52:80] = True  # as large, lies in none
    np.testing.assert_array_equal(lie_in_another(masks), [False, True, False])

    images = PreparedImages(maskfeat.load(), tmp_path)
    made = maps_of_a_rectangle(size), masks
    monkeypatch.setattr(images, "maps_and_masks", lambda sample: made)
    sample = IndexedShards(str(PACKAGED / "train-*.tar"))[0]

    def drawn(part_weight: float) -> set[int]:
        maker = SessionMaker(images, num_objects=1, part_weight=part_weight)
        made = [maker(sample, np.random.default_rng(seed))[0].mask for seed in range(30)]
        return {int((masks == one).all(axis=(1, 2)).argmax()) for one in made}

    assert drawn(0.0) == {0, 2}
    assert drawn(1.0) == {0, 1, 2}


def test_the_target_of_a_look_is_the_share_of_object(maps: ImageMaps, mask: np.ndarray) -> None:
    session = TrainingSession(maps, OUTLINE, mask, np.random.default_rng(0))
    look = session.first.look

    area = session.target(look).mul(session.first.inside).sum() * look.cell_px**2

    assert float(area) == pytest.approx(mask.sum(), rel=0.1)


def test_the_loss_is_zero_where_the_mask_is_right_and_ignores_cells_beyond_the_image() -> None:
    target = torch.zeros(2, 8, 8)
    target[:, :, :4] = 1
    inside = torch.ones_like(target)
    inside[1, 6:] = 0
    right = torch.where(target > 0, 20.0, -20.0)
    changed = right.clone()
    changed[1, 6:] *= -1

    assert look_loss(right, target, inside).max() < 1e-3
    torch.testing.assert_close(look_loss(changed, target, inside), look_loss(right, target, inside))
    assert look_loss(-right, target, inside).min() > 1


def data(folder: Path, shards: str = str(PACKAGED), **settings: Any) -> ClickDataModule:
    """Two images of the packaged scenes in a step, two steps in an epoch."""
    settings = {
        "num_images": 2,
        "num_objects": 1,
        "epoch_images": 4,
        "num_val_images": 1,
        **settings,
    }
    return ClickDataModule({".": 1.0}, ["."], shards, str(folder / "prepared"), **settings)


def trainer(folder: Path, **settings: Any) -> L.Trainer:
    return L.Trainer(
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **{"max_epochs": 2, "enable_checkpointing": False, **settings},
    )


@pytest.fixture
def prepared(tmp_path: Path, prepared_scenes: Path) -> Path:
    """A folder with the prepared images of the packaged scenes that a run reads."""
    (tmp_path / "prepared").symlink_to(prepared_scenes)
    return tmp_path


@pytest.fixture(scope="module")
def prepared_scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


class Killed(L.Callback):
    """Ends a run in the middle of a batch, as a kill does: nothing is saved any more."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.fit_loop.total_batch_idx == self.batches:
            raise SystemExit


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(prepared: Path) -> None:
    settings = {"most_clicks": 2, "warmup_steps": 2}
    torch.manual_seed(0)
    whole = ClickTask(**settings)
    start = {name: value.clone() for name, value in whole.state_dict().items()}
    trainer(prepared).fit(whole, data(prepared))

    broken = ClickTask(**settings)
    broken.load_state_dict(start)
    callbacks = [SessionCheckpoint(1, str(prepared)), Killed(2)]
    with pytest.raises(SystemExit):
        trainer(prepared, callbacks=callbacks, enable_checkpointing=True).fit(
            broken, data(prepared)
        )
    again = ClickTask(**settings)
    trainer(prepared).fit(again, data(prepared), ckpt_path=str(prepared / "last.ckpt"))

    assert not torch.equal(whole.decoder.head.weight, start["decoder.head.weight"])
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.slow
def test_a_checkpoint_is_exported_with_its_features_and_read_again(prepared: Path) -> None:
    task, run = ClickTask(most_clicks=1), trainer(prepared, max_epochs=1)
    run.fit(task, data(prepared))
    run.save_checkpoint(prepared / "clicks.ckpt")
    both = prepared / "both.safetensors"

    export(str(prepared / "clicks.ckpt"), str(both), full=True)

    decoder = load_decoder(both)
    assert decoder is not None
    assert decoder.inner_strides == (4, 16)
    torch.testing.assert_close(decoder.state_dict(), task.averaged.module.state_dict())
    net, shipped = maskfeat.load(both), maskfeat.load()
    torch.testing.assert_close(net.state_dict(), shipped.state_dict())
    export(str(prepared / "clicks.ckpt"), str(both))
    assert both.stat().st_size < 8e6
    started = ClickTask(start_from=str(both))
    for name, value in started.decoder.state_dict().items():
        torch.testing.assert_close(value, decoder.state_dict()[name], atol=1e-3, rtol=1e-3)
    save(net, prepared / "alone.safetensors")
    assert load_decoder(prepared / "alone.safetensors") is None
    with pytest.raises(ValueError, match="without a click decoder"):
        ClickTask(start_from=str(prepared / "alone.safetensors"))


def test_a_decoder_of_fewer_maps_is_a_start_and_new_maps_change_nothing_yet(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    few = ClickTask(inner_strides=[])
    save_with_decoder("maskfeat-b0", few.decoder, tmp_path / "few.safetensors", torch.float32)

    more = ClickTask(start_from=str(tmp_path / "few.safetensors"))

    maps = torch.rand(1, more.decoder.config["image_channels"], 16, 16)
    old, new = few.decoder.eval(), more.decoder.eval()
    seen = maps[:, : old.config["image_channels"]]
    torch.testing.assert_close(new.encode(maps), old.encode(seen))
    save_with_decoder("maskfeat-b0", more.decoder, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match="differs in its maps"):
        ClickTask(inner_strides=[], start_from=str(tmp_path / "more.safetensors"))


def test_unreadable_samples_are_replaced_counted_and_too_many_end_the_run(prepared: Path) -> None:
    shard = prepared / "train-0.tar"
    write_shard(prepared / "val-0.tar", num_samples=1)
    write_shard(shard, num_samples=3, faults={1: "not a jpg"})
    task = ClickTask(most_clicks=1)
    some = data(prepared, str(prepared), limits=Limits(max_skipped_share=1.0))
    trainer(prepared, max_epochs=1).fit(task, some)
    assert sum(some.skips.counts.values()) == 1

    write_shard(shard, num_samples=3, faults=dict.fromkeys(range(3), "not a jpg"))
    with pytest.raises(RuntimeError, match="could not be read"):
        trainer(prepared).fit(task, data(prepared, str(prepared)))


def test_a_sample_is_prepared_once_and_read_again_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = maskfeat.load()
    sample = IndexedShards(str(PACKAGED / "train-*.tar"))[0]
    made, masks = PreparedImages(net, tmp_path).maps_and_masks(sample)
    monkeypatch.setattr(net, "features", lambda rgb: pytest.fail("prepared again"))

    kept, same = PreparedImages(net, tmp_path).maps_and_masks(sample)

    np.testing.assert_array_equal(same, masks)
    np.testing.assert_array_equal(kept.labels, made.labels)
    for one, other in zip(kept.features.pyramid, made.features.pyramid, strict=True):
        torch.testing.assert_close(one, other)


def test_a_prepared_image_is_of_the_content_of_the_sample_and_the_weights_of_now(
    tmp_path: Path,
) -> None:
    net, shard = maskfeat.load(), tmp_path / "train-0.tar"
    for seed in (1, 2):  # another image and other masks under the same names
        write_shard(shard, num_samples=1, seed=seed)
        sample = IndexedShards(str(shard))[0]
        maps, masks = PreparedImages(net, tmp_path / "prepared").maps_and_masks(sample)
        fresh, right = PreparedImages(net, tmp_path / f"fresh_{seed}").maps_and_masks(sample)
        np.testing.assert_array_equal(maps.colors, fresh.colors)
        np.testing.assert_array_equal(masks, right)

    images = PreparedImages(net, tmp_path / "prepared")
    before = images.maps_and_masks(sample)[0].features.scale
    with torch.no_grad():
        net.log_scale.add_(1)
    assert images.maps_and_masks(sample)[0].features.scale > 2 * before
