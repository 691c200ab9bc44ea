"""The LightningModule: network, loss and optimizer. It knows nothing of evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from maskfeat.batch import Batch
from maskfeat.features import weights
from maskfeat.features.losses import Loss, MaskConsistencyLoss
from maskfeat.features.objective import Boundaries, Objective
from maskfeat.features.optimization import (
    GRADIENTS_KEY,
    averaged_copy,
    restore_gradients,
    save_gradients,
    warmup_cosine,
    weight_groups,
)
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.reading import Features
from maskfeat.features.sharding import gathered, whole
from maskfeat.features.stored_config import CLASS_KEY, check_class, checked_network

if TYPE_CHECKING:  # not there in the lowest version of Lightning that is allowed
    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig


class FeatureTask(L.LightningModule):
    """Learns a feature pyramid from masks.

    Args:
        net: The network: `FeaturePyramid`, a subclass, or a module with forward(images) -> list of
            maps, `strides`, `scale`, features(rgb), and `config`, the arguments of its constructor.
        loss: Called as loss(features (B, P, C), membership (B, M, P), scale, points_yx (B, P, 2)),
            gives a `Loss`. Null is `MaskConsistencyLoss()`; others lie in maskfeat.features.losses,
            maskfeat.features.ranking and maskfeat.features.distill. One that needs more of a batch
            is a `maskfeat.features.objective.OutputsLoss`.
        learning_rate: Peak learning rate of AdamW.
        backbone_rate: The backbone's share of every learning rate. One that starts from trained
            weights takes 0.1 to 0.3; from scratch it is 1.
        weight_decay: Decoupled weight decay, on weights of two or more dimensions.
        warmup_steps: Optimizer steps over which the learning rate rises from zero.
        final_share: Share of the peak learning rate that is left at the last step; a cosine
            leads there. It stays at the peak when neither max_steps nor max_epochs is set.
        ema_decay: How much of the averaged weights is kept at each optimizer step; they are what
            is evaluated and exported. 0 evaluates the raw weights.
        compile_backend: Compile the network by torch.compile and this backend, "inductor" on GPUs;
            null leaves it as it is. Minutes at the start, faster steps after; weights and
            checkpoints stay the same. Evaluation, whose images have many sizes, is not compiled.
        untrained_seed: Seed of the untrained network that results are compared with.
        start_from: Trained weights to start from, of a network of the same settings: a checkpoint,
            a .safetensors file, or a name that comes with the package ("maskfeat-b0"). Null starts
            from those of `net`.
        local_weight: Weight of `local_pairs_loss`, beside `loss`; needs data.examples.num_pairs.
        boundary_weight: Weight of `boundary_loss`; needs data.examples.boundaries and a network
            with a boundary head.
        boundary_consensus: See `boundary_loss`; in [0, 1].
        trained: "everything", or "boundaries": the boundary head alone, by `boundary_loss` alone.
            Features stay what they are, bit for bit; use it with `start_from`, whose
            boundary head, if it has one, is not taken.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module | None = None,
        learning_rate: float = 2e-3,
        backbone_rate: float = 1.0,
        weight_decay: float = 0.02,
        warmup_steps: int = 100,
        final_share: float = 0.01,
        ema_decay: float = 0.998,
        compile_backend: str | None = None,
        untrained_seed: int = 0,
        start_from: str | None = None,
        local_weight: float = 0.0,
        boundary_weight: float = 0.0,
        boundary_consensus: float = 0.0,
        trained: Literal["everything", "boundaries"] = "everything",
    ) -> None:
        super().__init__()
        _check_rates(learning_rate, backbone_rate, ema_decay)
        _check_weights(local_weight, boundary_weight, boundary_consensus, trained, net)
        self.save_hyperparameters(ignore=["net", "loss"])
        checked = checked_network(net, needs_backbone=backbone_rate != 1)
        if start_from is not None:  # before the average begins
            weights.start_from(checked, start_from, has_new_head=trained == "boundaries")
        if trained == "boundaries":
            checked.freeze_features()
        self.net = checked.to(memory_format=torch.channels_last)
        self.loss = loss if loss is not None else MaskConsistencyLoss()
        self.trained, self.untrained_seed = trained, untrained_seed
        self.learning_rate, self.backbone_rate = learning_rate, backbone_rate
        self.weight_decay, self.warmup_steps = weight_decay, warmup_steps
        self.final_share, self.local_weight = final_share, local_weight
        self.boundary_weight, self.boundary_consensus = boundary_weight, boundary_consensus
        self._gradients: Any = None  # of a checkpoint, until training starts
        self.averaged = averaged_copy(self.net, ema_decay) if ema_decay else None
        if compile_backend is not None:  # after the copy, which is to stay as it is
            self._compile(compile_backend)

    def _compile(self, backend: str) -> None:
        """Let training run a compiled network."""
        known = torch.compiler.list_backends(exclude_tags=())
        if backend not in known:
            raise ValueError(
                f"compile_backend must be one of {', '.join(known)} or null, got {backend!r}"
            )
        self.net.compile(backend=backend)
        if self.objective.needs_boundaries:
            self.net.maps = torch.compile(self.net.maps, backend=backend)  # type: ignore[method-assign]

    def setup(self, stage: str) -> None:
        """Refuse what `check_precision` does, in whichever way the trainer was made."""
        check_precision(self.trainer.precision)

    @property
    def encoder(self) -> FeaturePyramid:
        """The network that is evaluated: the averaged weights, where there are any."""
        return self.net if self.averaged is None else self.averaged.module  # type: ignore[return-value]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature pyramid of normalized images (B, 3, H, W), by the evaluated weights."""
        maps: list[Tensor] = self.encoder(images)
        return maps

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """Features of one image, uint8 (H, W, 3), by the evaluated weights."""
        return self.encoder.features(rgb)

    def untrained_encoder(self) -> FeaturePyramid:
        """The same network before any training, always with the same random weights."""
        with torch.random.fork_rng():
            torch.manual_seed(self.untrained_seed)
            return type(self.net)(**self.net.config).to(self.device).eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of the raw weights on one batch."""
        loss = self._loss(self.net, batch)
        self.log("train/loss", loss.total, prog_bar=True, batch_size=len(batch["keys"]))
        if self._is_logged_step():
            parts = {f"train/loss_{name}": value for name, value in loss.parts.items()}
            self.log_dict({**parts, "train/scale": torch.as_tensor(self.net.scale).detach()})
        return loss.total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of the evaluated weights on one held-out batch, averaged over all of them."""
        loss = self._loss(self.encoder, batch)
        self.log(
            "val/loss", loss.total, prog_bar=True, sync_dist=True, batch_size=len(batch["keys"])
        )

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As `validation_step`, under test/."""
        loss = self._loss(self.encoder, batch)
        self.log("test/loss", loss.total, sync_dist=True, batch_size=len(batch["keys"]))

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Features:
        """Features of the one image of a prediction batch, `batch["rgb"]`, uint8 (H, W, 3)."""
        return self.features(batch["rgb"])

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW; the learning rate rises linearly, then falls as a cosine."""
        groups = weight_groups(
            self.net, self.loss, self.learning_rate, self.backbone_rate, self.weight_decay
        )
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        total = self.trainer.estimated_stepping_batches
        schedule = warmup_cosine(self.warmup_steps, total, self.final_share)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Log the length of the gradient before it is clipped, and the learning rate."""
        if self._is_logged_step():
            gradients = [p.grad for p in self.net.parameters() if p.grad is not None]
            self.log("train/grad_norm", whole(torch.nn.utils.get_total_norm(gradients)))
            self.log("train/lr", optimizer.param_groups[0]["lr"])

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - Lightning's
        """Step, then let the averaged weights follow."""
        super().optimizer_step(*args, **kwargs)
        if self.averaged is not None:
            with gathered(self.net):
                self.averaged.update_parameters(self.net)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what `maskfeat.load` needs to build the network, and accumulated gradients."""
        checkpoint.update(
            weights.net_entry(self.net, "net" if self.averaged is None else "averaged.module")
        )
        save_gradients(self, checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of another network before torch names all that does not fit.

        Raises:
            ValueError: If it holds no network, or one that was built otherwise.
        """
        path = None if self._trainer is None else self.trainer.ckpt_path
        origin = f"'{path}'" if path else "the checkpoint"
        if weights.CONFIG_KEY not in checkpoint:
            raise ValueError(f"{origin} holds no maskfeat network; give one of `lightning fit`")
        config = checkpoint[weights.CONFIG_KEY]
        weights.check_build(self.net, config, origin, "give another --ckpt_path")
        check_class(self.net, checkpoint.get(CLASS_KEY), origin)
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._gradients = checkpoint.get(GRADIENTS_KEY)

    def on_train_start(self) -> None:
        """Go on with the gradients of a checkpoint that was saved between two steps."""
        if self._gradients is not None:
            restore_gradients(self, self._gradients)
        self._gradients = None

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - torch's
        """As torch's, with a sentence where the names or shapes of the weights do not fit.

        Raises:
            ValueError: If they do not.
        """
        try:
            return super().load_state_dict(*args, **kwargs)
        except RuntimeError as error:
            raise ValueError(
                "the checkpoint's weights are not those of model.net, model.loss and "
                "model.ema_decay (averaged weights, where it is above 0); set these as they were "
                "for that run (its config.yaml), or give another --ckpt_path"
            ) from error

    def _is_logged_step(self) -> bool:
        """Whether this step reaches the logger; each call of `log` costs milliseconds."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.trainer.global_step + 1) % every == 0

    @property
    def objective(self) -> Objective:
        """What is minimized: `loss` and the losses of borders that have weight."""
        if self.trained == "boundaries":
            return Objective([Boundaries(self.boundary_weight, self.boundary_consensus)])
        return Objective.of(
            self.loss, self.local_weight, self.boundary_weight, self.boundary_consensus
        )

    def _loss(self, net: FeaturePyramid, batch: Batch) -> Loss:
        loss = self.objective(net, batch)
        if not torch.isfinite(loss.total):
            raise RuntimeError(
                f"the loss became {loss.total.item()} at step {self.global_step}; lower "
                "learning_rate, or train with precision: 32-true"
            )
        return loss


def check_precision(precision: str | int | None) -> None:
    """Refuse weights of other than 32 bits: "bf16-true", "16-true" and "64-true" of a trainer."""
    if str(precision).endswith("-true") and precision != "32-true":
        raise ValueError(
            f"trainer.precision must be 32-true, bf16-mixed or 16-mixed, got {precision}: weights "
            "and their average have 32 bits here, as fewer would lose the small steps of training"
        )


def _check_rates(learning_rate: float, backbone_rate: float, ema_decay: float) -> None:
    """Refuse rates that are out of range."""
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1), got {ema_decay}")
    if backbone_rate <= 0:
        raise ValueError(f"backbone_rate must be positive, got {backbone_rate}")
    if not learning_rate >= 0:
        raise ValueError(f"learning_rate must not be negative, got {learning_rate}")


def _check_weights(
    local: float, boundary: float, consensus: float, trained: str, net: nn.Module
) -> None:
    """Refuse weights of losses that are out of range, or that the network cannot have."""
    if not (local >= 0 and boundary >= 0):
        raise ValueError(
            f"local_weight and boundary_weight must not be negative, got {local} and {boundary}"
        )
    if not 0 <= consensus <= 1:
        raise ValueError(f"boundary_consensus must lie in [0, 1], got {consensus}")
    if boundary and not getattr(net, "boundary_heads", None):
        raise ValueError("boundary_weight needs model.net.init_args.boundary: true")
    if trained == "boundaries" and not boundary:
        raise ValueError("trained: boundaries needs boundary_weight above 0, got 0")
