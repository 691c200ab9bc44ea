"""The state of the input in a checkpoint: written at any step, read by a run of another shape.

It is plain: numbers, words and lists, which `torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import lightning as L
import torch.distributed

from maskfeat.data.order.loaders import Progress, ResumableLoader, StreamLoader
from maskfeat.data.order.readers import Cursor, Standing, StreamPlan
from maskfeat.data.order.run_order import RunOrder, carried_over

if TYPE_CHECKING:
    from maskfeat.data.datamodule import ShardDataModule

_LOG = logging.getLogger("maskfeat")
State = dict[str, Any]


def state_of(loader: ResumableLoader | None, data: ShardDataModule) -> State:
    """Where training stands.

    Args:
        loader: The training loader; None before there is one.
        data: The settings.

    Returns:
        "epoch", "num_batches" (of it, trained on by each rank), "seed", "global_batch" (images),
        "skipped" (reason, shard, key of each), "order" (`RunOrder.to_plain`), and in streaming
        mode "deal" (see `StreamPlan.deal`) and "standings", where the readers of each rank stand
        in the epoch: [samples given, [lap, part, start, samples of the block] of each set].
        In streaming mode on several ranks all of them must ask at once, as for any checkpoint.
    """
    epoch, num_batches = loader.trained if loader is not None else (0, 0)
    state: State = {
        "epoch": epoch,
        "num_batches": num_batches,
        "seed": data.seed,
        "global_batch": _global_batch(data),
        "skipped": [list(entry) for entry in data.skips.entries()],
    }
    if loader is not None:
        state["order"] = loader.order.to_plain()
    if isinstance(loader, StreamLoader):
        own = loader.standings_after(num_batches)
        listed = None if own is None else [_to_list(one) for one in own]
        state["deal"] = _plan_of(loader).deal
        is_together = num_batches == loader.progress.num_batches
        state["standings"] = _gathered(listed, is_together)
    return state


class TrainerWatch:
    """Says what a trainer has done with its batches, whatever it was resumed from.

    Args:
        trainer: In its fit.
    """

    def __init__(self, trainer: L.Trainer) -> None:
        self._loop = trainer.fit_loop

    def begin_epoch(self) -> None:
        """Let Lightning count the epoch that it is in.

        Resumed at the last step of an epoch, it goes into the next one and forgets to. A
        checkpoint of that one then looks like one between epochs, and batches of the epoch are
        counted from 0: the epoch ends without validation, and gradients accumulate out of step.
        """
        epochs = self._loop.epoch_progress
        for counts in (epochs.total, epochs.current):
            counts.ready = counts.started = counts.processed + 1  # type: ignore[attr-defined]

    def count_otherwise(self, difference: int) -> None:
        """Let so many more batches of this epoch be done, where steps are of another size."""
        current: Any = self._loop.epoch_loop.batch_progress.current
        for name in ("ready", "started", "processed", "completed"):
            setattr(current, name, getattr(current, name) + difference)

    def num_trained(self) -> int:
        """Batches of all epochs: Lightning's count of those in this one can begin in mid-epoch."""
        return int(self._loop.epoch_loop.batch_progress.total.processed)  # type: ignore[attr-defined]


def go_on(loader: ResumableLoader, state: State, data: ShardDataModule) -> None:
    """Let a new loader go on where a checkpoint says.

    Args:
        loader: The training loader, before its first batch.
        state: Of `state_of`, or of an older version: {"num_batches": n}.
        data: The settings of this run; where they say that what was read cannot be told from what
            was not, that is logged.
    """
    # It is: what is not exact is said here.
    warnings.filterwarnings("ignore", message="(?s).*your dataloader is not resumable")
    num_batches = state["num_batches"]
    before, now = state.get("global_batch", _global_batch(data)), _global_batch(data)
    if before != now:
        num_batches = num_batches * before // now
        _LOG.warning(
            "a step had %d images of all devices in the checkpoint and has %d now; training goes "
            "on after the images that were read, and this epoch has another number of steps",
            before,
            now,
        )
    changes: list[str] = []
    if state.get("seed", data.seed) != data.seed:
        _LOG.warning(
            "data.seed was %d in the checkpoint and is %d now, so the order is another one: "
            "images of this epoch may come again or be left out",
            state["seed"],
            data.seed,
        )
    elif "order" in state and state["epoch"] is not None:
        order = RunOrder.from_plain(state["order"], data.seed, before)
        num_batches, changes = _go_on_in_order(loader, order, state, num_batches)
    loader.go_on_after(Progress(state.get("epoch"), num_batches))
    if isinstance(loader.watch, TrainerWatch) and num_batches != state["num_batches"]:
        loader.watch.count_otherwise(num_batches - state["num_batches"])
    if isinstance(loader, StreamLoader) and _go_on_streaming(loader, state, changes):
        return
    if changes:
        _LOG.warning(
            "data.train has changed since the checkpoint (%s), so a new pass over it begins: none "
            "of its images is left out, and those that were read before may come again",
            "; ".join(changes),
        )


def _go_on_in_order(
    loader: ResumableLoader, before: RunOrder, state: State, num_batches: int
) -> tuple[int, list[str]]:
    """Let each set go on where it stood; batches of this epoch to pass over, and what changed."""
    epoch, now = state["epoch"], loader.order
    is_whole = state["num_batches"] >= before.num_steps
    num_batches = now.num_steps if is_whole else min(num_batches, now.num_steps - 1)
    # A stream that is dealt out otherwise goes on exactly from the next epoch on.
    is_rough = isinstance(loader, StreamLoader) and not is_whole
    orders, changes = carried_over(
        before,
        before.place_after(epoch, 0 if is_rough else state["num_batches"]),
        now,
        now.place_after(epoch, 0 if is_rough else num_batches),
    )
    loader.take_orders(orders)
    return num_batches, changes


def _go_on_streaming(loader: StreamLoader, state: State, changes: list[str]) -> bool:
    """Let the readers go on where they stood; whether it was said that they cannot."""
    plan = _plan_of(loader)
    is_same = state.get("deal") == plan.deal and not changes
    own = state["standings"][plan.rank] if is_same else None
    if own is not None:
        loader.standings = [_from_list(one) for one in own]
    elif 0 < loader.progress.num_batches < len(loader):
        changed = f"data.train has changed ({'; '.join(changes)}) and " if changes else ""
        _LOG.warning(
            "%sthe checkpoint does not say where the %d readers of rank %d of %d stand, so for the "
            "rest of this epoch images may come again or be left out; to go on exactly, keep the "
            "shards, the number of devices, and data.batch_size, epoch_images, num_readers, "
            "shuffle_buffer, shuffle_buffer_mb and seed",
            changed,
            plan.num_readers,
            plan.rank,
            plan.world_size,
        )
        return True
    return False


def _plan_of(loader: StreamLoader) -> StreamPlan:
    plan: StreamPlan = loader.dataset.plan  # type: ignore[attr-defined]
    return plan


def _gathered(own: list[Any] | None, is_together: bool) -> list[Any]:
    """What each rank says; of the others nothing where they may not be asking, too."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [own]
    heard: list[Any] = [None] * torch.distributed.get_world_size()
    if is_together:
        torch.distributed.all_gather_object(heard, own)
    else:  # in mid-step, at a signal: waiting for the others could be for ever
        heard[torch.distributed.get_rank()] = own
    return heard


def _global_batch(data: ShardDataModule) -> int:
    world_size = data.trainer.world_size if data.trainer is not None else 1
    return data.batch_size * world_size


def _to_list(standing: Standing) -> list[Any]:
    return [standing.num_items, *(list(cursor) for cursor in standing.cursors)]


def _from_list(listed: list[Any]) -> Standing:
    num_items, *cursors = listed
    return Standing(num_items, tuple(Cursor(*cursor) for cursor in cursors))
