"""The LightningModule that trains a click decoder on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from maskfeat.interactive.decoded_image import coarse_at
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_file import DECODER_KEY, load_decoder
from maskfeat.interactive.prompt_maps import LookMaps, num_image_channels, num_prompt_channels
from maskfeat.interactive.training_session import TrainingSession


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
    mask that was decoded, as in RITM's iterative training. The learning rate is constant after the
    warm-up and the weights are averaged, so training can go on for as long as there is time.

    Args:
        feature_channels: Channels of each level of the features.
        learning_rate: Of AdamW.
        warmup_steps: Steps over which it rises from zero.
        ema_decay: How much of the averaged weights is kept at each step.
        most_clicks: Clicks of a session, drawn from 1 to this number, few more often.
        gradient_clip: Largest length of the gradient.
        start_from: File of a trained decoder to start from, see `load_decoder`; null for none.

    References:
        Sofiiuk et al.: Reviving iterative training with mask guidance, ICIP 2022 (RITM).
        Chen et al.: FocalClick, CVPR 2022 (arXiv:2204.02574), the two looks.
    """

    def __init__(
        self,
        feature_channels: Sequence[int] = (1, 4, 16, 64),
        learning_rate: float = 1.5e-3,
        warmup_steps: int = 100,
        ema_decay: float = 0.999,
        most_clicks: int = 6,
        gradient_clip: float = 3.0,
        start_from: str | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # a step after every click of a session
        self.learning_rate, self.warmup_steps = learning_rate, warmup_steps
        self.most_clicks, self.gradient_clip = most_clicks, gradient_clip
        self.decoder = ClickDecoder(
            num_image_channels(feature_channels), num_prompt_channels(len(feature_channels))
        ).to(memory_format=torch.channels_last)
        if start_from is not None:
            trained = load_decoder(start_from)
            if trained is None:
                raise ValueError(f"'{start_from}' holds features without a click decoder")
            self.decoder.load_state_dict(trained.state_dict())
        average = get_ema_multi_avg_fn(ema_decay)  # type: ignore[no-untyped-call]
        self.averaged = AveragedModel(self.decoder, multi_avg_fn=average, use_buffers=True)

    def training_step(self, batch: list[TrainingSession], batch_idx: int) -> None:
        """Play some clicks of all sessions, with an optimizer step after each."""
        rng = np.random.default_rng([self.global_step, batch_idx])
        weights = 1 / np.arange(2, self.most_clicks + 2)
        number = int(rng.choice(self.most_clicks, p=weights / weights.sum())) + 1
        for click in range(1, number + 1):
            for session in batch:
                session.click()
            self._step(batch, click)

    def _step(self, sessions: list[TrainingSession], click: int) -> None:
        """Both looks, a step of the optimizer, and the masks that are shown next."""
        optimizer = self.optimizers()
        first = self._look(sessions, [s.first for s in sessions], [None] * len(sessions))
        self.manual_backward(first.loss.mean())
        looks = [s.second(coarse) for s, coarse in zip(sessions, first.logits, strict=True)]
        previous = [
            coarse_at(s.first.look, coarse, look.look)
            for s, coarse, look in zip(sessions, first.logits, looks, strict=True)
        ]
        second = self._look(sessions, looks, previous)
        self.manual_backward(second.loss.mean())
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.gradient_clip)
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.averaged.update_parameters(self.decoder)
        for session, look, fine, coarse in zip(
            sessions, looks, second.logits, first.logits, strict=True
        ):
            session.show(look.look, fine, coarse)
        ious = [(s.pred & s.mask).sum() / (s.pred | s.mask).sum() for s in sessions]
        self.log_dict(
            {
                "train/loss_first_look": first.loss.mean().detach(),
                "train/loss_second_look": second.loss.mean().detach(),
                f"train/iou_{click}": float(np.mean(ious)),
                "train/grad_norm": norm.detach(),
            },
            batch_size=len(sessions),
        )

    def _look(
        self,
        sessions: list[TrainingSession],
        looks: list[LookMaps],
        previous: Sequence[Tensor | None],
    ) -> Looked:
        image = torch.stack([look.image_maps for look in looks])
        prompts = torch.stack(
            [
                session.given.maps(look, before)
                for session, look, before in zip(sessions, looks, previous, strict=True)
            ]
        )
        targets = [s.target(look.look) for s, look in zip(sessions, looks, strict=True)]
        target, inside = torch.stack(targets), torch.cat([look.inside for look in looks])
        mirrored = torch.tensor([session.is_flipped for session in sessions])
        for maps in (image, prompts, target, inside):
            maps[mirrored] = maps[mirrored].flip(-1)
        device = self.device
        image, prompts = (
            maps.to(device, memory_format=torch.channels_last) for maps in (image, prompts)
        )
        logits = self.decoder(self.decoder.encode(image), prompts).float()
        loss = look_loss(logits, target.to(device), inside.to(device))
        shown = logits.detach().cpu().clone()
        shown[mirrored] = shown[mirrored].flip(-1)
        return Looked(shown, loss)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `load_decoder` needs to build the decoder."""
        checkpoint[DECODER_KEY] = dict(self.decoder.config)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's
        """AdamW; the learning rate rises linearly and stays."""
        optimizer = torch.optim.AdamW(
            self.decoder.parameters(), lr=self.learning_rate, weight_decay=0.01
        )
        warmup = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / self.warmup_steps)
        )
        return [optimizer], [warmup]


class SessionStrips(L.Callback):
    """Draws the sessions of a step: image and clicks, mask after the last click, true mask.

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
        batch: list[TrainingSession],
        batch_idx: int,
    ) -> None:
        """Add a strip to TensorBoard."""
        add_image = getattr(getattr(trainer.logger, "experiment", None), "add_image", None)
        if add_image is None or not trainer.is_global_zero or batch_idx % self.every_n_batches:
            return
        for row, session in enumerate(batch[: self.num_sessions]):
            strip = session.drawn()
            add_image(f"train/session_{row}", strip, trainer.global_step, dataformats="HWC")


def look_loss(logits: Tensor, target: Tensor, inside: Tensor) -> Tensor:
    """Normalized focal loss and Dice loss of the cells inside the image.

    The focal weights (1 - p_t) of a look are scaled to the mean 1, so that a mask that is nearly
    right still has a loss at its outline (NFL of RITM with gamma = 1). Dice weighs small objects
    as large ones.

    Args:
        logits: Shape (B, h, w).
        target: Share of object in each cell, in [0, 1], (B, h, w).
        inside: 1 for cells in the image, else 0, (B, h, w).

    Returns:
        Shape (B,).
    """
    probability, count = torch.sigmoid(logits), inside.sum(dim=(1, 2)).clamp(min=1)
    agreement = probability * target + (1 - probability) * (1 - target)
    weight = (1 - agreement.detach()) * inside
    weight = weight * (count / (weight.sum(dim=(1, 2)) + 1e-4))[:, None, None]
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = (entropy * weight).sum(dim=(1, 2)) / count
    both = (probability * target * inside).sum(dim=(1, 2))
    either = ((probability + target) * inside).sum(dim=(1, 2))
    return focal + 1 - (2 * both + 1) / (either + 1)
