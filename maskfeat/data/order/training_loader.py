"""The training loader of one rank, in either mode."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from maskfeat.data.order.examples import ScheduledExamples, StreamedBatches
from maskfeat.data.order.loaders import PlaceLoader, PlaceSampler, ResumableLoader, StreamLoader
from maskfeat.data.order.mixture import sets_of
from maskfeat.data.order.readers import StreamPlan
from maskfeat.data.order.run_order import RunOrder, shards_of
from maskfeat.data.order.schedule import evenly_spaced

if TYPE_CHECKING:
    from maskfeat.data.datamodule import ShardDataModule

_LOG = logging.getLogger("maskfeat")


def indexed_loader(data: ShardDataModule, ranks: tuple[int, int]) -> ResumableLoader:
    """Batches by place in the endless order.

    Args:
        data: The settings.
        ranks: This rank and the number of ranks.
    """
    rank, world_size = ranks
    sets = sets_of(data.train)
    shards = [data.indexed(one.shards) for one in sets]
    indices = [evenly_spaced(len(one), data.num_train_images) for one in shards]
    epoch_images = data.epoch_images or sum(len(one) for one in indices)
    dataset = ScheduledExamples(
        shards,
        indices,
        [one.weight for one in sets],
        data.example_maker(data.augmentation),
        data.seed,
        [one.unmarked for one in sets],
    )
    order = RunOrder(
        tuple(shards_of(one.shards, one.sizes) for one in shards),
        tuple(map(len, indices)),
        tuple(one.weight for one in sets),
        data.seed,
        epoch_images,
        data.batch_size * world_size,
        dataset.orders,
    )
    places = PlaceSampler(epoch_images, data.batch_size, rank, world_size)
    settings = {"persistent_workers": data.num_workers > 0, **data.loading()}
    return PlaceLoader(dataset, places, order, **settings)


def streaming_loader(data: ShardDataModule, ranks: tuple[int, int]) -> ResumableLoader:
    """Batches by virtual readers in turn.

    Args:
        data: The settings.
        ranks: This rank and the number of ranks.
    """
    rank, world_size = ranks
    sets = sets_of(data.train)
    shards = tuple(data.counted(one.shards) for one in sets)
    plan = StreamPlan(
        sets=shards,
        weights=tuple(one.weight for one in sets),
        epoch_images=data.epoch_images or sum(one.num_samples for each in shards for one in each),
        batch_size=data.batch_size,
        seed=data.seed,
        rank=rank,
        world_size=world_size,
        num_readers=data.num_readers,
        max_samples=data.shuffle_buffer,
        max_bytes=data.shuffle_buffer_mb * 1e6 / data.num_readers / len(sets),
        source=data.source,
        keep_crowds=data.keep_crowds,
    )
    maker = data.example_maker(data.augmentation)
    dataset = StreamedBatches(plan, maker, [one.unmarked for one in sets])
    settings = data.loading()
    del settings["collate_fn"]  # the workers make whole batches
    if data.num_workers > data.num_readers:
        _LOG.warning(
            "%d of %d workers are started, as data.num_readers is no more",
            data.num_readers,
            data.num_workers,
        )
        settings["num_workers"] = data.num_readers
    return StreamLoader(dataset, **settings)
