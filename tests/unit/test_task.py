"""The task: what a step does, what is averaged, what a checkpoint holds."""

import math
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

import maskfeat
from maskfeat.batch import normalize_images
from maskfeat.features.losses import DiscriminativeLoss
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.task import FeatureTask
from maskfeat.features.weights import save

BACKBONE = "test_efficientnet"  # of few modules


def quadrants_batch(batch_size=2, size=64, num_points=128, seed=0):
    """Noisy images of four quadrants, each a mask; colors say nothing, noise levels do."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (batch_size, 3, size, size), generator=generator)
    images[:, :, : size // 2, : size // 2] = 128  # one flat quadrant
    images[:, :, size // 2 :, size // 2 :] //= 4  # one dark quadrant
    points = torch.randint(0, size, (batch_size, num_points, 2), generator=generator)
    quadrant = (points >= size // 2).long() @ torch.tensor([2, 1])
    membership = quadrant.unsqueeze(1) == torch.arange(4).view(1, 4, 1)
    return {
        "images": normalize_images(images),
        "points_yx": points,
        "membership": membership,
        "keys": [str(i) for i in range(batch_size)],
        "skipped": [],
    }


class Loader(torch.utils.data.Dataset):
    def __init__(self, num_batches):
        self.num_batches = num_batches

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        return quadrants_batch(seed=index)


def fit(task, num_steps, tmp_path, **settings):
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=num_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **settings,
    )
    loader = torch.utils.data.DataLoader(Loader(num_steps), batch_size=None)
    trainer.fit(task, loader)
    return trainer


def small_task(**settings):
    torch.manual_seed(0)
    return FeatureTask(FeaturePyramid(BACKBONE, width=8), warmup_steps=2, **settings)


def test_training_lowers_the_loss_and_moves_the_averaged_weights(tmp_path) -> None:
    task = small_task(ema_decay=0.8)
    held_out = quadrants_batch(seed=999)
    task.train()
    before = task._loss(task.net, held_out).total.item()
    start = task.encoder.heads[0].weight.clone()
    fit(task, 30, tmp_path)
    task.net.train()
    assert task._loss(task.net, held_out).total.item() < 0.8 * before
    assert not torch.equal(task.encoder.heads[0].weight, start)
    assert not torch.equal(task.encoder.heads[0].weight, task.net.heads[0].weight)


def test_averaged_weights_are_the_recurrence_written_out(tmp_path) -> None:
    seen = []

    class Recorded(FeatureTask):
        def optimizer_step(self, *args, **kwargs):
            super().optimizer_step(*args, **kwargs)
            seen.append(self.net.heads[1].weight.detach().clone())

    torch.manual_seed(0)
    task = Recorded(FeaturePyramid(BACKBONE, width=8), ema_decay=0.5, warmup_steps=1)
    fit(task, 6, tmp_path)
    expected = seen[0]  # the first update copies
    for number, weight in enumerate(seen[1:], start=1):
        kept = min(0.5, (1 + number) / (10 + number))
        expected = kept * expected + (1 - kept) * weight
    assert torch.allclose(task.encoder.heads[1].weight, expected, atol=1e-6)


def test_a_slow_backbone_moves_less_and_a_rate_of_one_keeps_the_groups_of_old_checkpoints(
    tmp_path,
) -> None:
    def moved(rate):
        task = small_task(backbone_rate=rate, weight_decay=0.0, ema_decay=0.0)
        start = task.net.backbone.conv_stem.weight.detach().clone()
        trainer = fit(task, 3, tmp_path)
        change = (task.net.backbone.conv_stem.weight - start).abs().max().item()
        return change, len(trainer.optimizers[0].param_groups)

    (fast, one_set), (slow, two_sets) = moved(1.0), moved(0.01)
    assert 0 < slow < 0.05 * fast
    assert (one_set, two_sets) == (2, 4)


def test_a_rate_of_the_backbone_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="backbone_rate must be positive, got 0"):
        small_task(backbone_rate=0)


def test_a_compiled_network_learns_the_same_and_its_checkpoint_has_the_same_names(
    tmp_path,
) -> None:
    plain, compiled = small_task(), small_task(compile_backend="eager")
    fit(plain, 3, tmp_path), fit(compiled, 3, tmp_path)
    assert compiled.net._compiled_call_impl is not None
    weights = compiled.state_dict()
    assert list(weights) == list(plain.state_dict())
    for name, value in plain.state_dict().items():
        assert torch.allclose(weights[name].double(), value.double(), atol=1e-5), name


def test_an_unknown_compiler_is_refused() -> None:
    with pytest.raises(ValueError, match=r"compile_backend must be one of .*inductor.*, got 'gcc'"):
        small_task(compile_backend="gcc")


def test_without_averaging_the_raw_weights_are_evaluated() -> None:
    task = small_task(ema_decay=0.0)
    assert task.encoder is task.net


def test_a_checkpoint_loads_without_config_and_without_unpickling(tmp_path) -> None:
    task = small_task(ema_decay=0.9)
    trainer = fit(task, 3, tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    rgb = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    loaded = maskfeat.load(tmp_path / "a.ckpt")
    assert np.array_equal(loaded.features(rgb).dense(), task.features(rgb).dense())
    assert loaded.scale.item() == task.encoder.scale.item()

    save(loaded, tmp_path / "a.safetensors")
    again = maskfeat.load(tmp_path / "a.safetensors")
    assert np.abs(again.features(rgb).dense() - loaded.features(rgb).dense()).max() < 0.02


def test_a_network_comes_with_the_package_and_holds_its_config() -> None:
    net = maskfeat.load()
    assert net.config == maskfeat.load("maskfeat-b0").config
    path = Path(maskfeat.__file__).parent / "weights/maskfeat-b0.safetensors"
    assert path.stat().st_size < 8e6
    # It tells a drawn disc from its ground where the untrained one does not.
    rgb = np.full((96, 96, 3), (90, 120, 60), np.uint8)
    y, x = np.mgrid[:96, :96]
    rgb[np.hypot(y - 48, x - 48) < 24] = (180, 60, 50)
    features = net.features(rgb)
    inside, outside = features.probability([[48, 48]], [[48, 60], [8, 8]])[0]
    assert inside > 0.9
    assert outside < 0.2


def test_what_is_no_model_is_refused_in_one_sentence(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file at"):
        maskfeat.load(tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.ckpt' is no checkpoint of `lightning fit`"):
        maskfeat.load(tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match="holds no maskfeat network"):
        maskfeat.load(tmp_path / "other.ckpt")
    (tmp_path / "cut.safetensors").write_bytes(b"\x08\x00")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        maskfeat.load(tmp_path / "cut.safetensors")


def test_what_half_precision_cannot_hold_is_kept_whole(tmp_path) -> None:
    net = FeaturePyramid(width=8).eval()
    norm = next(m for m in net.steps.modules() if isinstance(m, torch.nn.BatchNorm2d))
    norm.running_var[0] = 1e6  # half precision ends at 65,504
    save(net, tmp_path / "net.safetensors")
    again = maskfeat.load(tmp_path / "net.safetensors")
    rgb = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert np.abs(again.features(rgb).dense() - net.features(rgb).dense()).max() < 0.02
    assert max(value.max() for value in again.state_dict().values()) == 1e6


def test_weights_that_are_no_numbers_are_neither_saved_nor_loaded(tmp_path) -> None:
    task = small_task(ema_decay=0)
    with torch.no_grad():
        task.net.stem.blocks["1"][0].weight[0] = torch.nan
    message = r"expected finite weights, but 'stem.blocks.1.0.weight' of .* take an earlier"
    with pytest.raises(ValueError, match=message):
        save(task.net, tmp_path / "net.safetensors")
    assert not list(tmp_path.iterdir())
    trainer = fit(small_task(ema_decay=0), 1, tmp_path)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    checkpoint = torch.load(tmp_path / "a.ckpt", weights_only=True)
    checkpoint["state_dict"]["net.stem.blocks.1.0.weight"][0] = torch.inf
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=message):
        maskfeat.load(tmp_path / "a.ckpt")


def test_training_starts_from_trained_weights_and_their_average_does(tmp_path) -> None:
    trained = small_task(ema_decay=0.9)
    fit(trained, 3, tmp_path)
    save(trained.encoder, tmp_path / "net.safetensors", torch.float32)
    task = small_task(ema_decay=0.9, start_from=str(tmp_path / "net.safetensors"))
    for net in (task.net, task.encoder):
        for name, value in trained.encoder.state_dict().items():
            torch.testing.assert_close(net.state_dict()[name], value)
    rgb = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    untrained = small_task().untrained_encoder().features(rgb).dense()
    assert np.array_equal(task.untrained_encoder().features(rgb).dense(), untrained)


def test_weights_of_another_build_are_refused(tmp_path) -> None:
    save(FeaturePyramid(width=8), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"expected .* width 16, .* but .* has width 8; set"):
        FeatureTask(FeaturePyramid(width=16), start_from=str(tmp_path / "net.safetensors"))
    with pytest.raises(FileNotFoundError, match="no model file at"):
        small_task(start_from=str(tmp_path / "none.safetensors"))


def test_a_pickle_that_would_run_code_is_not_run(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match="without unpickling code"):
        maskfeat.load(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "ran").exists()


def test_the_untrained_encoder_is_the_same_every_time_and_leaves_random_numbers_alone() -> None:
    task = small_task()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = task.untrained_encoder(), task.untrained_encoder()
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.heads[0].weight, second.heads[0].weight)


def test_bf16_computes_the_loss_in_float32(tmp_path) -> None:
    task = small_task()
    fit(task, 2, tmp_path, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 for p in task.net.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert task._loss(task.net, quadrants_batch()).total.dtype == torch.float32


def test_the_discriminative_loss_trains_too(tmp_path) -> None:
    torch.manual_seed(0)
    net = FeaturePyramid(BACKBONE, width=8, learn_scale=False)
    task = FeatureTask(net, DiscriminativeLoss(), warmup_steps=1)
    before = task._loss(task.net, quadrants_batch(seed=9)).total.item()
    fit(task, 20, tmp_path)
    task.net.train()
    assert task._loss(task.net, quadrants_batch(seed=9)).total.item() < before
    assert net.scale.item() == pytest.approx(1.0)


def test_a_loss_that_is_not_finite_stops_with_advice() -> None:
    task = small_task()
    with torch.no_grad():
        task.net.heads[0].bias.fill_(math.nan)
    with pytest.raises(RuntimeError, match="lower learning_rate"):
        task._loss(task.net, quadrants_batch())
