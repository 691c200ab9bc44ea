"""The LightningModule that trains a click decoder on frozen features."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from maskfeat.arrays import Float64Array
from maskfeat.features.look import coarse_at
from maskfeat.features.optimization import averaged_copy, warmup_cosine
from maskfeat.features.reading import features_of
from maskfeat.features.weights import load, net_entry
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_file import DECODER_KEY, load_decoder, start_from_trained
from maskfeat.interactive.decoder_unary import (
    LookMaps,
    maps_of,
    num_image_channels,
    num_prompt_channels,
)
from maskfeat.interactive.training.data import SessionBatch
from maskfeat.interactive.training.session import TrainingSession


class Looked(NamedTuple):
    """One look of several sessions.

    Attributes:
        logits: On the grids, detached, not mirrored, (B, h, w).
        loss: Of each session, (B,).
    """

    logits: Tensor
    loss: Tensor


class ClickTask(L.LightningModule):
    """Learns to read clicks, scribbles, boxes and masks on frozen features.

    A batch is some sessions of simulated users. They click a number of times; after every click
    both looks are decoded, and the loss of both is one optimizer step. The next clicks correct the
    mask that was decoded, as in RITM's iterative training. Checkpoints hold the features, too, so
    that `maskfeat.load` and `load_decoder` read the same file.

    Args:
        net: The network of the features: a name that comes with the package, or a file. Its
            weights stay as they are.
        inner_strides: Strides of the maps inside the network that the decoder reads beside the
            features, see `FeaturePyramid.features`; an empty list for none.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps over which it rises from zero.
        final_share: Share of it that is left in the end; a cosine leads there. 1 keeps it.
        ema_decay: How much of the averaged weights is kept at each step.
        most_clicks: Clicks of a session, drawn from 1 to this number, few more often.
        gradient_clip: Largest length of the gradient.
        start_from: File of a trained decoder to start from, see `load_decoder`; null for none. It
            may read fewer maps. Its normalization statistics stay: those of a batch, whose looks
            are of one kind, are not those of inference.

    References:
        Sofiiuk et al.: Reviving iterative training with mask guidance, ICIP 2022 (RITM).
        Chen et al.: FocalClick, CVPR 2022 (arXiv:2204.02574), the two looks.
    """

    def __init__(
        self,
        net: str = "maskfeat-b0",
        inner_strides: Sequence[int] = (4, 16),
        learning_rate: float = 1.5e-3,
        warmup_steps: int = 100,
        final_share: float = 0.02,
        ema_decay: float = 0.999,
        most_clicks: int = 6,
        gradient_clip: float = 3.0,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a step after every click of a session
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.final_share = final_share
        self.most_clicks = most_clicks
        self.gradient_clip = gradient_clip
        self.net = load(net)
        maps = features_of(self.net, np.zeros((64, 64, 3), np.uint8), inner_strides)
        channels = [len(level) for level in maps.pyramid]
        self.decoder = ClickDecoder(
            num_image_channels(channels, [len(level) for level in maps.inner.values()]),
            num_prompt_channels(len(channels)),
            inner_strides=inner_strides,
        ).to(memory_format=torch.channels_last)
        if start_from is not None:
            trained = load_decoder(start_from)
            if trained is None:
                raise ValueError(f"'{start_from}' holds features without a click decoder")
            start_from_trained(self.decoder, trained, start_from)
        self._keeps_norms = start_from is not None
        self.averaged = averaged_copy(self.decoder, ema_decay)

    def training_step(self, batch: SessionBatch, batch_idx: int) -> None:
        """Play some clicks of all sessions, with an optimizer step after each."""
        if self._keeps_norms:
            for module in self.decoder.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        sessions = batch["sessions"]
        rng = np.random.default_rng([self.global_step, batch_idx])
        number = int(rng.choice(self.most_clicks, p=self._shares_of_clicks())) + 1
        for click in range(1, number + 1):
            for session in sessions:
                session.click()
            first, second, iou = self._shown(sessions, self.decoder)
            self._step(first.loss.mean() + second.loss.mean())
            logged = {f"train/iou_{click}": iou}
            for name, looked in (("first", first), ("second", second)):
                logged[f"train/loss_{name}_look"] = float(looked.loss.detach().mean())
            self.log_dict(logged, batch_size=len(sessions))

    def _shares_of_clicks(self) -> Float64Array:
        """Share of batches with 1, 2, ... clicks, (most_clicks,)."""
        weights = 1 / np.arange(2, self.most_clicks + 2)
        shares: Float64Array = weights / weights.sum()
        return shares

    def _step(self, loss: Tensor) -> None:
        """One step of the optimizer."""
        optimizer = self.optimizers()
        self.manual_backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.gradient_clip)
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.averaged.update_parameters(self.decoder)
        self.log("train/grad_norm", norm.detach())

    def validation_step(self, batch: SessionBatch, batch_idx: int) -> None:
        """Play all clicks of held-out sessions with the averaged weights."""
        sessions = batch["sessions"]
        decoder: ClickDecoder = self.averaged.module  # type: ignore[assignment]
        ious = []
        for click in range(1, self.most_clicks + 1):
            for session in sessions:
                session.click()
            *_, iou = self._shown(sessions, decoder)
            self.log(f"val/iou_{click}", iou, batch_size=len(sessions), sync_dist=True)
            ious.append(iou)
        mean = float(np.mean(ious))
        self.log("val/iou", mean, prog_bar=True, batch_size=len(sessions), sync_dist=True)

    def _shown(
        self, sessions: list[TrainingSession], decoder: ClickDecoder
    ) -> tuple[Looked, Looked, float]:
        """Both looks, and the mean IoU of the masks of them that all users see next."""
        firsts = [s.first for s in sessions]
        prompts = [maps_of(s.given, s.first) for s in sessions]
        first = self._look(sessions, firsts, prompts, decoder)
        seconds = [s.second(coarse) for s, coarse in zip(sessions, first.logits, strict=True)]
        prompts = [
            maps_of(s.given, look, coarse_at(s.first.look, coarse, look.look))
            for s, look, coarse in zip(sessions, seconds, first.logits, strict=True)
        ]
        second = self._look(sessions, seconds, prompts, decoder)
        for s, look, fine, coarse in zip(
            sessions, seconds, second.logits, first.logits, strict=True
        ):
            s.show(look.look, fine, coarse)
        return first, second, mean_iou(sessions)

    def _look(
        self,
        sessions: list[TrainingSession],
        looks: Sequence[LookMaps],
        prompt_maps: Sequence[Tensor],
        decoder: ClickDecoder,
    ) -> Looked:
        """One look of all sessions, some of them mirrored, with the maps of its prompts."""
        image = torch.stack([look.image_maps for look in looks])
        counted = torch.stack([look.inside for look in looks])
        prompts = torch.stack(list(prompt_maps))
        pairs = zip(sessions, looks, strict=True)
        target = torch.stack([s.target(look.look) for s, look in pairs])
        mirrored = torch.tensor([s.is_flipped for s in sessions])
        for maps in (image, prompts, target, counted):
            maps[mirrored] = maps[mirrored].flip(-1)
        device = self.device
        image, prompts = (
            maps.to(device, memory_format=torch.channels_last) for maps in (image, prompts)
        )
        logits = decoder(decoder.encode(image), prompts).float()
        loss = look_loss(logits, target.to(device), counted.to(device))
        shown = logits.detach().cpu().clone()
        shown[mirrored] = shown[mirrored].flip(-1)
        return Looked(shown, loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `load_decoder` and `maskfeat.load` need to build decoder and features."""
        checkpoint[DECODER_KEY] = dict(self.decoder.config)
        checkpoint |= net_entry(self.net, "net")

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's
        """AdamW; the learning rate rises linearly, then falls along a cosine."""
        optimizer = torch.optim.AdamW(
            self.decoder.parameters(), lr=self.learning_rate, weight_decay=0.01
        )
        total = self.trainer.estimated_stepping_batches
        if self.trainer.max_steps == -1:  # a number of batches, of several steps each
            total *= 1 + float(self._shares_of_clicks() @ np.arange(self.most_clicks))
        share = warmup_cosine(self.warmup_steps, total, self.final_share)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, share)]


def mean_iou(sessions: list[TrainingSession]) -> float:
    """Mean IoU of the masks so far."""
    return float(np.mean([(s.pred & s.mask).sum() / (s.pred | s.mask).sum() for s in sessions]))


def look_loss(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Normalized focal loss and Dice loss, (B,), of the cells that count, each map (B, h, w).

    The focal weights (1 - p_t) of a look are scaled to the mean 1, so that a mask that is nearly
    right still has a loss at its outline (NFL of RITM with gamma = 1). Dice weighs small objects as
    large ones. Targets are the share of object in each cell, in [0, 1].
    """
    probability, count = torch.sigmoid(logits), counted.sum(dim=(1, 2)).clamp(min=1)
    agreement = probability * target + (1 - probability) * (1 - target)
    weight = (1 - agreement.detach()) * counted
    weight = weight * (count / (weight.sum(dim=(1, 2)) + 1e-4))[:, None, None]
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (entropy * weight).sum(dim=(1, 2)) / count
    both = (probability * target * counted).sum(dim=(1, 2))
    either = ((probability + target) * counted).sum(dim=(1, 2))
    return focal + 1 - (2 * both + 1) / (either + 1)


class SessionCheckpoint(ModelCheckpoint):
    """Saves last.ckpt after a number of batches, and at the end of an epoch.

    Lightning's own counts steps. As a batch takes several, it would seldom meet the number.

    Args:
        every_n_batches: How often.
        dirpath: Where; null is the folder of the run.
    """

    def __init__(self, every_n_batches: int = 100, dirpath: str | None = None) -> None:
        super().__init__(dirpath, save_last=True, save_top_k=0, enable_version_counter=False)
        self.every_n_batches = every_n_batches

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:  # noqa: ANN401
        """Save, whole or not at all."""
        if (trainer.fit_loop.total_batch_idx + 1) % self.every_n_batches == 0:
            assert self.dirpath is not None  # since the start of the fit
            name = f"{self.CHECKPOINT_NAME_LAST}{self.FILE_EXTENSION}"
            trainer.save_checkpoint(os.path.join(self.dirpath, name))


class SessionStrips(L.Callback):
    """Draws the sessions of a step: the mask after the last click with all clicks, the true mask.

    Args:
        every_n_batches: How often.
        num_sessions: Rows of a strip.
    """

    def __init__(self, every_n_batches: int = 100, num_sessions: int = 4) -> None:
        self.every_n_batches, self.num_sessions = every_n_batches, num_sessions

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's
        batch: SessionBatch,
        batch_idx: int,
    ) -> None:
        """Add a strip to TensorBoard."""
        add_image = getattr(getattr(trainer.logger, "experiment", None), "add_image", None)
        if add_image is None or not trainer.is_global_zero or batch_idx % self.every_n_batches:
            return
        for row, session in enumerate(batch["sessions"][: self.num_sessions]):
            strip = session.drawn()
            add_image(f"train/session_{row}", strip, trainer.global_step, dataformats="HWC")
