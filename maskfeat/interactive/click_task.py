"""The LightningModule that trains a click decoder on frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from maskfeat.features.optimization import averaged_copy, warmup_cosine
from maskfeat.features.reading import features_of
from maskfeat.features.weights import load, net_entry
from maskfeat.interactive.click_data import SessionBatch
from maskfeat.interactive.decoded_image import coarse_at
from maskfeat.interactive.decoder import ClickDecoder
from maskfeat.interactive.decoder_file import DECODER_KEY, load_decoder, start_from_trained
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
    mask that was decoded, as in RITM's iterative training. Checkpoints hold the features, too, so
    that `maskfeat.load` and `load_decoder` read the same file.

    Args:
        net: The network of the features: a name that comes with the package, or a file. Its
            weights stay as they are.
        inner_strides: Strides of the maps inside the network that the decoder reads beside the
            features, see `FeaturePyramid.features`; an empty list for none.
        learning_rate: Peak learning rate of AdamW.
        warmup_steps: Steps over which it rises from zero.
        final_share: Share of it that is left at `max_steps`; a cosine leads there. 1 keeps it.
        ema_decay: How much of the averaged weights is kept at each step.
        most_clicks: Clicks of a session, drawn from 1 to this number, few more often.
        gradient_clip: Largest length of the gradient.
        start_from: File of a trained decoder to start from, see `load_decoder`; null for none. It
            may read fewer maps.

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
        self.most_clicks, self.gradient_clip = most_clicks, gradient_clip
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
        self.averaged = averaged_copy(self.decoder, ema_decay)

    def training_step(self, batch: SessionBatch, batch_idx: int) -> None:
        """Play some clicks of all sessions, with an optimizer step after each."""
        sessions = batch["sessions"]
        rng = np.random.default_rng([self.global_step, batch_idx])
        weights = 1 / np.arange(2, self.most_clicks + 2)
        number = int(rng.choice(self.most_clicks, p=weights / weights.sum())) + 1
        for click in range(1, number + 1):
            for session in sessions:
                session.click()
            self._step(sessions, click)

    def _step(self, sessions: list[TrainingSession], click: int) -> None:
        """Both looks, a step of the optimizer, and the masks that are shown next."""
        optimizer = self.optimizers()
        first = self._look(sessions, [s.first for s in sessions], None, self.decoder)
        self.manual_backward(first.loss.mean())
        looks = [s.second(coarse) for s, coarse in zip(sessions, first.logits, strict=True)]
        previous = _at_second(sessions, looks, first.logits)
        second = self._look(sessions, looks, previous, self.decoder)
        self.manual_backward(second.loss.mean())
        norm = torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), self.gradient_clip)
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.averaged.update_parameters(self.decoder)
        iou = _shown_iou(sessions, looks, second.logits, first.logits)
        self.log_dict(
            {
                "train/loss_first_look": first.loss.mean().detach(),
                "train/loss_second_look": second.loss.mean().detach(),
                f"train/iou_{click}": iou,
                "train/grad_norm": norm.detach(),
            },
            batch_size=len(sessions),
        )

    def validation_step(self, batch: SessionBatch, batch_idx: int) -> None:
        """Play all clicks of held-out sessions with the averaged weights."""
        sessions = batch["sessions"]
        decoder: ClickDecoder = self.averaged.module  # type: ignore[assignment]
        for click in range(1, self.most_clicks + 1):
            for session in sessions:
                session.click()
            first = self._look(sessions, [s.first for s in sessions], None, decoder)
            looks = [s.second(coarse) for s, coarse in zip(sessions, first.logits, strict=True)]
            previous = _at_second(sessions, looks, first.logits)
            second = self._look(sessions, looks, previous, decoder)
            iou = _shown_iou(sessions, looks, second.logits, first.logits)
            self.log(f"val/iou_{click}", iou, batch_size=len(sessions), sync_dist=True)

    def _look(
        self,
        sessions: list[TrainingSession],
        looks: list[LookMaps],
        previous: Sequence[Tensor] | None,
        decoder: ClickDecoder,
    ) -> Looked:
        image = torch.stack([look.image_maps for look in looks])
        coarse: Sequence[Tensor | None] = previous or [None] * len(looks)
        prompts = torch.stack(
            [
                session.given.maps(look, before)
                for session, look, before in zip(sessions, looks, coarse, strict=True)
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
        logits = decoder(decoder.encode(image), prompts).float()
        loss = look_loss(logits, target.to(device), inside.to(device))
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
        share = warmup_cosine(self.warmup_steps, total, self.final_share)
        return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, share)]


def _at_second(
    sessions: list[TrainingSession], looks: list[LookMaps], coarse: Tensor
) -> list[Tensor]:
    """Logits of the first look of each session on the grid of its second one."""
    return [
        coarse_at(session.first.look, logits, look.look)
        for session, look, logits in zip(sessions, looks, coarse, strict=True)
    ]


def _shown_iou(
    sessions: list[TrainingSession], looks: list[LookMaps], fine: Tensor, coarse: Tensor
) -> float:
    """Let all users see their mask; the mean IoU of these masks."""
    for session, look, logits, before in zip(sessions, looks, fine, coarse, strict=True):
        session.show(look.look, logits, before)
    return float(np.mean([(s.pred & s.mask).sum() / (s.pred | s.mask).sum() for s in sessions]))


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
