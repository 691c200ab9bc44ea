"""Sharded training on two CPU processes, against ddp on the same samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from data_settings import data_module
from fits import CHECKPOINTS, TWO_STEPS, fit_in
from forked_python import start_server
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins.layer_sync import LayerSync
from lightning.pytorch.strategies import DDPStrategy
from shard_factory import write_shard
from torch.distributed.tensor import DTensor

import maskfeat
from maskfeat.cli import main
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.sharding import ShardedStrategy
from maskfeat.features.task import FeatureTask

LEARNING_RATE = 1e-3
STEPS = 3  # of an epoch
BACKBONE = "test_efficientnet"  # of few modules


class Record(Callback):
    """Step, loss and length of the gradient, at each step."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, float, float]] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        norm = trainer.callback_metrics.get("train/grad_norm", torch.nan)
        self.steps.append((trainer.global_step, float(outputs["loss"]), float(norm)))


class NotedSync(LayerSync):
    """Stands in for SyncBatchNorm, which needs a GPU: notes whether the weights were whole."""

    met_whole: bool | None = None

    def apply(self, model):
        self.met_whole = not any(isinstance(p, DTensor) for p in model.parameters())
        return model

    def revert(self, model):
        return model


def fit(
    folder: Path,
    name: str,
    strategy: DDPStrategy,
    epochs: int = 1,
    goes_on_from: str | None = None,
    accumulate: int = 1,
    plugins: list[Any] | None = None,
    **settings: Any,
) -> tuple[L.Trainer, FeatureTask, list[tuple[int, float, float]]]:
    """Fit a tiny net on tiny crops; the ranks begin with weights of their own."""
    torch.manual_seed(torch.distributed.get_rank())
    net = FeaturePyramid(BACKBONE, width=8, levels=(0, 1))
    settings = {"learning_rate": LEARNING_RATE, "warmup_steps": 0, "ema_decay": 0.9} | settings
    task = FeatureTask(net, **settings)
    data = data_module(
        train=f"{folder}/train.tar",
        val=f"{folder}/val.tar",
        batch_size=2,
        epoch_images=4 * STEPS,
        num_val_images=3,  # uneven on two ranks
        crop_size=48,
        num_points=64,
        num_workers=0,
    )
    record = Record()
    saver = ModelCheckpoint(folder / name, save_top_k=0, save_last=True, every_n_train_steps=STEPS)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy=strategy,
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=0.1,
        log_every_n_steps=1,
        callbacks=[record, saver],
        plugins=plugins,
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        limit_val_batches=1.0 if name == "sharded" else 0,
    )
    trainer.fit(task, data, ckpt_path=goes_on_from and folder / goes_on_from / "last.ckpt")
    return trainer, task, record.steps


def work(rank: int, folder: Path) -> None:
    """What each of two processes does; what it saw is left in a file."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(rank)  # or Lightning would start a second process itself
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", store, rank=rank, world_size=2)
    seen: dict[str, Any] = {"ddp": fit(folder, "ddp", DDPStrategy())[2]}

    sync = NotedSync()
    trainer, task, seen["sharded"] = fit(folder, "sharded", ShardedStrategy(), plugins=[sync])
    weights = dict(task.net.named_parameters())
    sharded = {name: p for name, p in weights.items() if isinstance(p, DTensor)}
    seen["whole"] = sorted(set(weights) - set(sharded))
    seen["kept"] = sum(p.to_local().numel() for p in sharded.values())
    seen["norms_were_synced_first"] = sync.met_whole
    seen["averaged"] = {name: v.clone() for name, v in task.averaged.state_dict().items()}
    seen["log_scale"] = task.net.log_scale.item()
    data, path = trainer.datamodule, folder / "sharded/last.ckpt"
    seen["test"] = [trainer.test(task, data, ckpt_path=p, verbose=False)[0] for p in (None, path)]

    trainer, _, seen["ddp, then sharded"] = fit(folder, "a", ShardedStrategy(), 2, "ddp")
    moments = [s["exp_avg"] for s in trainer.optimizers[0].state.values()]
    seen["kept moments"] = sum(m.to_local().numel() for m in moments if isinstance(m, DTensor))
    seen["sharded, then ddp"] = fit(folder, "b", DDPStrategy(), 2, "sharded")[2]
    seen["ddp, accumulated"] = fit(folder, "c", DDPStrategy(), accumulate=STEPS)[2]
    seen["sharded, accumulated"] = fit(folder, "d", ShardedStrategy(), accumulate=STEPS)[2]
    seen["sharded, compiled"] = fit(folder, "e", ShardedStrategy(), compile_backend="eager")[2]
    try:
        fit(folder, "f", ShardedStrategy(), ema_decay=0)
    except ValueError as error:
        seen["refused"] = str(error)
    torch.save(seen, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_sharded_as_with_ddp(tmp_path) -> None:
    """One test, as all of it looks at the same fits, which take a minute."""
    write_shard(tmp_path / "train.tar", 4 * STEPS, seed=0, size=(64, 96))
    write_shard(tmp_path / "val.tar", 3, seed=1, size=(64, 96))
    start_server()
    torch.multiprocessing.start_processes(work, (tmp_path,), nprocs=2, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for seen in ranks:
        check_that_half_is_kept(seen)
        check_that_steps_agree(seen)
        assert "averaged weights, which need model.ema_decay above 0, got 0" in seen["refused"]
    # Ranks stay together, though they began with weights of their own and saw other samples.
    assert ranks[0]["sharded"][0][1] != ranks[1]["sharded"][0][1]
    assert ranks[0]["log_scale"] == ranks[1]["log_scale"] != 0
    torch.testing.assert_close(ranks[0]["averaged"], ranks[1]["averaged"], rtol=0, atol=0)
    check_that_checkpoints_agree(newest(tmp_path, "sharded"), newest(tmp_path, "ddp"))
    check_what_is_loaded(tmp_path / "sharded/last.ckpt", ranks[0])


def newest(folder: Path, name: str) -> dict[str, Any]:
    return torch.load(folder / name / "last.ckpt", weights_only=True)


def check_that_half_is_kept(seen: dict[str, Any]) -> None:
    total = sum(p.numel() for p in FeaturePyramid(BACKBONE, width=8, levels=(0, 1)).parameters())
    assert seen["whole"] == ["log_scale"]
    assert seen["kept"] == pytest.approx(total / 2, rel=0.01)
    assert seen["kept moments"] == seen["kept"]  # of a file in which they are whole
    assert seen["norms_were_synced_first"]


def check_that_steps_agree(seen: dict[str, Any]) -> None:
    """Step, loss and gradient, also where a run goes on from the checkpoint of the other kind."""
    for name, as_name in (
        ("sharded", "ddp"),
        ("sharded, accumulated", "ddp, accumulated"),
        ("sharded, compiled", "ddp"),
        ("ddp, then sharded", "sharded, then ddp"),
    ):
        np.testing.assert_allclose(seen[name], seen[as_name], rtol=2e-3, err_msg=name)
    assert [step for step, *_ in seen["sharded"]] == [1 + i for i in range(STEPS)]
    assert [step for step, *_ in seen["ddp, then sharded"]] == [STEPS + 1 + i for i in range(STEPS)]


def check_that_checkpoints_agree(sharded: dict[str, Any], ddp: dict[str, Any]) -> None:
    assert sharded.keys() == ddp.keys()
    assert sharded["global_step"] == ddp["global_step"] == STEPS
    (state,), (other,) = sharded["optimizer_states"], ddp["optimizer_states"]
    assert state["param_groups"] == other["param_groups"]
    assert state["state"].keys() == other["state"].keys()
    for number, entry in state["state"].items():
        torch.testing.assert_close(entry, other["state"][number], rtol=1e-3, atol=1e-5)
    assert sharded["state_dict"].keys() == ddp["state_dict"].keys()
    gaps = []
    for name, value in sharded["state_dict"].items():
        assert value.shape == ddp["state_dict"][name].shape
        gaps.append((value - ddp["state_dict"][name]).abs().float().flatten())
    # AdamW makes whole steps of gradients that are nothing but rounding: few weights have such.
    gap = torch.cat(gaps)
    assert gap.quantile(0.99) < 1e-5
    assert gap.max() < LEARNING_RATE * STEPS


def check_what_is_loaded(checkpoint: Path, seen: dict[str, Any]) -> None:
    """The averaged weights, also from what was exported of them, and by a test after the fit."""
    exported = checkpoint.with_name("net.safetensors")
    main(["export", str(checkpoint), str(exported), "--full"])
    for path in (checkpoint, exported):
        for name, value in maskfeat.load(path).state_dict().items():
            assert torch.equal(value, seen["averaged"][f"module.{name}"]), name
    as_it_was, loaded = seen["test"]
    assert as_it_was == pytest.approx(loaded)


@pytest.mark.slow
def test_sharded_trains_and_evaluates_on_two_processes(tmp_path, repository) -> None:
    """By its config, with evaluation of three images, uneven on two ranks."""
    (tmp_path / "conf").symlink_to(repository / "conf")
    for number in (0, 990):
        write_shard(tmp_path / f"sa1b/sa_{number:06d}.tar", 8, seed=number, size=(64, 96))
    words = [
        *("--config=conf/base.yaml", "--config=conf/sa1b.yaml", "--config=conf/sharded.yaml"),
        *(*TWO_STEPS, *CHECKPOINTS, "--trainer.devices=2", "--data.epoch_images=8"),
        *("--model.net.init_args.backbone=efficientvit_b0", "--data.num_val_images=3"),
        "--trainer.callbacks+={class_path: maskfeat.evaluate.callbacks.PartitionEvaluation, "
        "init_args: {num_segments: [10], num_images: 3}}",
        "--trainer.sync_batchnorm=false",  # torch's needs a GPU
    ]
    fit_in(tmp_path, words)
    path = tmp_path / "runs/sharded/checkpoints/last.ckpt"
    assert torch.load(path, weights_only=True)["global_step"] == 2
    rgb = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    assert np.isfinite(maskfeat.load(path).features(rgb).dense()).all()
