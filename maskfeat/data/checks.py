"""What is wrong with the settings of the data is said before anything starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from maskfeat.data.order.mixture import sets_of

if TYPE_CHECKING:
    from maskfeat.data.datamodule import ShardDataModule


def check_training(data: ShardDataModule) -> None:
    """Look at the training shards, and count what their indexes find incomplete.

    Raises:
        ValueError: If an epoch has no whole batch for every device.
        RuntimeError: If too many samples are incomplete.
    """
    sets = sets_of(data.train)
    num_images = data.epoch_images
    if data.mode == "streaming":
        counted = [shard for one in sets for shard in data.counted(one.shards)]
        num_images = num_images or sum(shard.num_samples for shard in counted)
    else:
        found = [data.indexed(one.shards) for one in sets]
        sizes = [min(len(shards), data.num_train_images or len(shards)) for shards in found]
        num_images = num_images or sum(sizes)
        incomplete = [one for shards in found for one in shards.incomplete]
        data.skips.add_known(incomplete, sum(len(shards) for shards in found))
    world_size = data.ranks()[1]
    if num_images < data.batch_size * world_size:
        raise ValueError(
            f"an epoch of {num_images} images has no whole batch of "
            f"{data.batch_size} images on {world_size} devices; lower data.batch_size or "
            "set data.epoch_images"
        )


def check_held_out(data: ShardDataModule, shards: str | list[str]) -> None:
    """Look at held-out shards.

    Raises:
        ValueError: If they hold fewer images than there are devices.
    """
    world_size, num_images = data.ranks()[1], len(data.indexed(shards))
    if min(num_images, data.num_val_images) < world_size:
        raise ValueError(
            f"{min(num_images, data.num_val_images)} held-out images are fewer than the "
            f"{world_size} devices; give more images or fewer devices"
        )


def check_least(least: int, **settings: int | None) -> None:
    """Refuse a setting below `least`; None is none."""
    for name, value in settings.items():
        if value is not None and value < least:
            raise ValueError(f"data.{name} must be at least {least}, got {value}")


def check_share(**settings: float) -> None:
    """Refuse a setting outside [0, 1]."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise ValueError(f"data.{name} must lie between 0 and 1, got {value}")
