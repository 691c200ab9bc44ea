"""Sharded training (FSDP2): each rank keeps a part of the weights, gradients and moments."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from maskfeat.features.pyramid import FeaturePyramid


class ShardedStrategy(DDPStrategy):
    """Trains as ddp does, with the network and the state of its optimizer sharded over all ranks.

    torch's `fully_shard` (FSDP2) gathers the weights of one part of the network at a time, and
    leaves on each rank the mean gradient of its own shard. The averaged weights stay whole on
    every rank: ranks evaluate unevenly many images, and in a sharded network one would wait for
    the others forever. Checkpoints are whole too, and as ddp's: either goes on with the other's.

    Unlike Lightning's `ModelParallelStrategy` it needs no mesh of given sizes, converts norms for
    `sync_batchnorm`, and keeps the optimizer's state under the numbers that torch gives it.

    Args:
        process_group_backend: "nccl", "gloo"; null takes what suits the device.
        timeout_s: Seconds that ranks wait for one another before they give up.
    """

    def __init__(self, process_group_backend: str | None = None, timeout_s: float = 1800.0) -> None:
        super().__init__(
            process_group_backend=process_group_backend, timeout=timedelta(seconds=timeout_s)
        )

    def setup(self, trainer: Trainer) -> None:
        """Shard the network where ddp wraps it: on its device, before the optimizer is built."""
        ParallelStrategy.setup(self, trainer)

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        task: Any = model
        if isinstance(task.net, FSDPModule):  # by an earlier fit in this process
            return model
        copy_from_rank_zero([*task.parameters(), *task.buffers()])
        if task.trainer.state.fn == TrainerFn.FITTING:
            self._shard(task)
        return model

    def _shard(self, task: Any) -> None:  # noqa: ANN401 - a FeatureTask, which imports this file
        if task.averaged is None:
            raise ValueError(
                "sharded training evaluates averaged weights, which need model.ema_decay above 0, "
                "got 0; set it, or train with trainer.strategy: ddp"
            )
        if self._layer_sync is not None:
            self._layer_sync.apply(task)
        shard(task.net, self.root_device.type)
        for parameter in task.parameters():
            if parameter.requires_grad and not isinstance(parameter, DTensor):
                parameter.register_post_accumulate_grad_hook(_average_gradient)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole weights, on all ranks."""
        return _for_file(super().lightning_module_state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load whole weights, also where they are sharded already."""
        assert self.lightning_module is not None
        own = self.lightning_module.state_dict()
        weights = {
            name: sharded_like(own.get(name), value)
            for name, value in checkpoint["state_dict"].items()
        }
        super().load_model_state_dict({"state_dict": weights}, strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The state as ddp's optimizer has it, whole, on all ranks."""
        state: dict[str, Any] = super().optimizer_state(optimizer)
        entries = {number: _for_file(entry) for number, entry in state["state"].items()}
        return {**state, "state": entries}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load a whole state, as ddp or this strategy wrote it."""
        states = []
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            numbers = [number for group in state["param_groups"] for number in group["params"]]
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            parameter_of = dict(zip(numbers, parameters, strict=True))
            entries = {
                number: {
                    name: sharded_like(parameter_of[number], value) for name, value in entry.items()
                }
                for number, entry in state["state"].items()
            }
            states.append({**state, "state": entries})
        super().load_optimizer_state_dict({"optimizer_states": states})


def shard(net: FeaturePyramid, device_type: str) -> None:
    """Shard a network over all ranks, in place: backbone, steps of the decoder, and the rest.

    The device type is "cuda" or "cpu". The weights are the same on all ranks. Scalars stay whole,
    as `fully_shard` refuses them; who calls sees to their gradients. It refuses channels_last
    weights as well, so that they become contiguous; images stay channels_last, and with them what
    convolutions give.
    """
    for parameter in net.parameters():
        parameter.data = parameter.data.contiguous()
    scalars = {p for p in net.parameters() if p.ndim == 0}
    mesh = dist.device_mesh.init_device_mesh(device_type, (dist.get_world_size(),))
    for part in (net.backbone, *net.steps, net):
        try:
            fully_shard(part, mesh=mesh, ignored_params=scalars)
        except ValueError:
            # Up to torch 2.9 no container is a part of its own, even one that has a forward, as
            # timm's list of features has. The whole takes it.
            if not isinstance(part, nn.ModuleDict | nn.ModuleList):
                raise
    if hasattr(net, "maps"):
        register_fsdp_forward_method(net, "maps")


@contextmanager
def gathered(net: nn.Module) -> Iterator[None]:
    """While this lasts a sharded network is whole, and the same on all ranks; others are as ever.

    Buffers, running means of norms, are then those of rank zero, as with ddp.
    """
    parts = [module for module in net.modules() if isinstance(module, FSDPModule)]
    if parts:
        copy_from_rank_zero(net.buffers())
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()


def whole(value: Tensor) -> Tensor:
    """The whole of a sharded tensor, which all ranks must ask for; any other as it is."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def copy_from_rank_zero(tensors: Iterable[Tensor]) -> None:
    """Give all ranks rank zero's values, in one message; counters, which agree, are left alone."""
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    message = torch.cat([tensor.detach().flatten() for tensor in floats])
    dist.broadcast(message, src=0)
    for tensor, new in zip(floats, torch.split(message, [t.numel() for t in floats]), strict=True):
        tensor.detach().copy_(new.view_as(tensor))


def _average_gradient(parameter: Tensor) -> None:
    assert parameter.grad is not None
    dist.all_reduce(parameter.grad)
    parameter.grad /= dist.get_world_size()


def _for_file(values: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors, for which the devices need room one at a time."""
    return {
        name: value.full_tensor().cpu() if isinstance(value, DTensor) else value
        for name, value in values.items()
    }


def sharded_like(like: Any, value: Any) -> Any:  # noqa: ANN401 - what a state holds
    """The part of a whole tensor that this rank keeps; the optimizer's count of steps is whole."""
    if not isinstance(like, DTensor) or value.ndim == 0:
        return value
    # Every rank has read the file: each takes its part, and none waits for rank zero.
    return distribute_tensor(
        value.contiguous(), like.device_mesh, like.placements, src_data_rank=None
    )
