"""Training of the click decoder: sessions, prepared images, the task, and its file."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from click_maps import maps_of_a_rectangle
from shard_factory import write_shard

import maskfeat
from maskfeat.interactive.click_data import ClickDataModule, PreparedImages
from maskfeat.interactive.click_task import ClickTask, look_loss
from maskfeat.interactive.decoder_file import load_decoder, save_with_decoder
from maskfeat.interactive.prompt_maps import ImageMaps
from maskfeat.interactive.training_session import TrainingSession

SIZE = (48, 64)
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
        session = TrainingSession(maps, mask, np.random.default_rng(seed))
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


def test_the_target_of_a_look_is_the_share_of_object(maps: ImageMaps, mask: np.ndarray) -> None:
    session = TrainingSession(maps, mask, np.random.default_rng(0))
    look = session.first.look

    area = session.target(look).mul(session.first.inside[0]).sum() * look.cell_px**2

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


@pytest.mark.slow
def test_a_decoder_is_trained_resumed_and_kept_with_its_features(tmp_path: Path) -> None:
    def data() -> ClickDataModule:
        folder = str(tmp_path / "prepared")
        return ClickDataModule({".": 1.0}, str(PACKAGED), prepared_dir=folder, num_images=1)

    def trainer(steps: int) -> L.Trainer:
        return L.Trainer(
            max_steps=steps,
            default_root_dir=tmp_path,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )

    task = ClickTask(most_clicks=2)
    before = task.decoder.head.weight.clone()
    first = trainer(2)
    first.fit(task, data())
    first.save_checkpoint(tmp_path / "clicks.ckpt")
    assert not torch.equal(task.decoder.head.weight, before)
    assert list((tmp_path / "prepared").glob("*.npz"))

    further = ClickTask(most_clicks=2)
    second = trainer(first.global_step + 1)
    second.fit(further, data(), ckpt_path=str(tmp_path / "clicks.ckpt"))
    assert second.global_step > first.global_step

    decoder = load_decoder(tmp_path / "clicks.ckpt")
    assert decoder is not None
    averaged = task.averaged.module.state_dict()
    for name, value in decoder.state_dict().items():
        torch.testing.assert_close(value, averaged[name])
    save_with_decoder("maskfeat-b0", decoder, tmp_path / "both.safetensors")
    again = load_decoder(tmp_path / "both.safetensors")
    assert again is not None
    torch.testing.assert_close(again.state_dict(), decoder.state_dict())
    net, shipped = maskfeat.load(tmp_path / "both.safetensors"), maskfeat.load()
    torch.testing.assert_close(net.state_dict(), shipped.state_dict())
    assert load_decoder("maskfeat-b0") is None
    started = ClickTask(start_from=str(tmp_path / "both.safetensors"))
    torch.testing.assert_close(started.decoder.state_dict(), decoder.state_dict())
    with pytest.raises(ValueError, match="without a click decoder"):
        ClickTask(start_from="maskfeat-b0")


def test_a_sample_is_prepared_once_and_read_again_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = maskfeat.load()
    images = PreparedImages(str(PACKAGED / "train-*.tar"), net, tmp_path)
    made, masks = images[0]
    monkeypatch.setattr(net, "features", lambda rgb: pytest.fail("prepared again"))

    kept, same = PreparedImages(str(PACKAGED / "train-*.tar"), net, tmp_path)[0]

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
        maps, masks = PreparedImages(str(shard), net, tmp_path / "prepared")[0]
        fresh, right = PreparedImages(str(shard), net, tmp_path / f"fresh_{seed}")[0]
        np.testing.assert_array_equal(maps.colors, fresh.colors)
        np.testing.assert_array_equal(masks, right)

    images = PreparedImages(str(shard), net, tmp_path / "prepared")
    before = images[0][0].features.scale
    with torch.no_grad():
        net.log_scale.add_(1)
    assert images[0][0].features.scale > 2 * before
