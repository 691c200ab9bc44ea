"""The state of the input in a checkpoint: written at any step, read by a run of another shape.

It is plain: numbers, words and lists, which `torch.load(weights_only=True)` reads.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from maskfeat.data.job import gathered, is_in_job
from maskfeat.data.order.loaders import Progress, ResumableLoader, TrainerWatch
from maskfeat.data.order.plan import Cursor, ReaderState
from maskfeat.data.order.run_order import RunOrder, carried_over
from maskfeat.data.order.streaming import StreamLoader

_LOG = logging.getLogger("maskfeat")
State = dict[str, Any]


def state_of(loader: ResumableLoader | None) -> State:
    """The state of training in its epoch.

    Args:
        loader: The training loader; None before there is one.

    Returns:
        "epoch" and "num_batches" (of it, trained on by each rank). Where there is a loader, also
        "seed", "global_batch" (images) and "order" (`RunOrder.to_plain`). In streaming mode also
        "fingerprint" (`StreamPlan.fingerprint`) and "reader_states": for each rank and each reader
        [samples given, [slice pass, part, start, samples of the block] of each set]. Then all
        ranks must call this at once, as for any checkpoint.
    """
    if loader is None:
        return {"epoch": 0, "num_batches": 0}
    epoch, num_batches = loader.trained
    order = loader.order
    state: State = {"epoch": epoch, "num_batches": num_batches, "seed": order.seed}
    state |= {"global_batch": order.global_batch, "order": order.to_plain()}
    if isinstance(loader, StreamLoader):
        own = loader.reader_states_after(num_batches)
        listed = None
        if own is not None:
            listed = [[one.num_items, *map(list, one.cursors)] for one in own]
        state["fingerprint"] = loader.plan.fingerprint
        if num_batches == loader.progress.num_batches or not is_in_job():
            state["reader_states"] = gathered(listed)
        else:  # in mid-step, at a signal: waiting for the others could be for ever
            plan = loader.plan
            others = [None] * (plan.world_size - plan.rank - 1)
            state["reader_states"] = [*[None] * plan.rank, listed, *others]
    return state


def go_on(loader: ResumableLoader, state: State) -> None:
    """Let a new loader go on where a checkpoint was written.

    Where the settings of this run make an exact continuation impossible, a warning is logged.

    Args:
        loader: The training loader, before its first batch.
        state: From `state_of`, or of an older version: {"num_batches": n}.
    """
    # Lightning warns of every loader; what is not exact is logged here.
    warnings.filterwarnings("ignore", message="(?s).*your dataloader is not resumable")
    seed, now = loader.order.seed, loader.order.global_batch
    num_batches, before = state["num_batches"], state.get("global_batch", now)
    if before != now:
        num_batches = num_batches * before // now
        _LOG.warning(
            "a step had %d images of all devices in the checkpoint and has %d now; training goes "
            "on after the images that were read, and this epoch has another number of steps",
            before,
            now,
        )
    changes: list[str] = []
    if state.get("seed", seed) != seed:
        _LOG.warning(
            "data.seed was %d in the checkpoint and is %d now, so the order is another one: "
            "images of this epoch may come again or be left out",
            state["seed"],
            seed,
        )
    elif "order" in state and state["epoch"] is not None:
        order = RunOrder.from_plain(state["order"], seed, before)
        num_batches, changes = _go_on_in_order(loader, order, state, num_batches)
    loader.go_on_after(Progress(state.get("epoch"), num_batches))
    if isinstance(loader.watch, TrainerWatch) and num_batches != state["num_batches"]:
        loader.watch.count_otherwise(num_batches - state["num_batches"])
    if isinstance(loader, StreamLoader) and not _go_on_streaming(loader, state, changes):
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
    """Let each set go on after its last image.

    Returns:
        Batches of this epoch to skip, and what changed about the sets.
    """
    epoch, now = state["epoch"], loader.order
    is_whole = state["num_batches"] >= before.num_steps
    num_batches = now.num_steps if is_whole else min(num_batches, now.num_steps - 1)
    # A stream with another fingerprint goes on exactly from the next epoch on.
    is_rough = isinstance(loader, StreamLoader) and not is_whole
    orders, changes = carried_over(
        before,
        before.index_after(epoch, 0 if is_rough else state["num_batches"]),
        now,
        now.index_after(epoch, 0 if is_rough else num_batches),
    )
    loader.dataset.take_orders(orders)  # type: ignore[attr-defined]
    return num_batches, changes


def _go_on_streaming(loader: StreamLoader, state: State, changes: list[str]) -> bool:
    """Restore the readers; False, with a warning, in mid-epoch where that is not possible."""
    plan = loader.plan
    is_same = state.get("fingerprint") == plan.fingerprint and not changes
    own = state["reader_states"][plan.rank] if is_same else None
    if own is not None:
        loader.reader_states = [
            ReaderState(num_items, tuple(Cursor(*cursor) for cursor in cursors))
            for num_items, *cursors in own
        ]
    elif 0 < loader.progress.num_batches < len(loader):
        changed = f"data.train has changed ({'; '.join(changes)}) and " if changes else ""
        _LOG.warning(
            "%sthe checkpoint does not say where the %d readers of rank %d of %d stand, so for the "
            "rest of this epoch images may come again or be left out; to go on exactly, keep the "
            "shards, the number of devices, and data.batch_size, epoch_images, seed and streaming",
            changed,
            plan.num_readers,
            plan.rank,
            plan.world_size,
        )
        return False
    return True
