"""The order of a run's images, and how it continues in a run with other settings.

Each set has its own endless order; the mixture says which set each sample index draws from. A run
that goes on with other weights, another length of epoch or more sets continues the draws of each
set: by a shift, and by the seed that the set had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskfeat.data.order.schedule import Mixture, seed_of_set

# For each shard its name with its folder's ("coco/train-000000.tar"; in former checkpoints
# without it), and its number of samples.
Shards = tuple[tuple[str, int], ...]


class SetOrder(NamedTuple):
    """The endless order of one set.

    Attributes:
        seed: Of its shuffling.
        shift: Added to the numbers of its draws from the mixture.
    """

    seed: int
    shift: int = 0


@dataclass(frozen=True)
class RunOrder:
    """Determines the order of a run's images.

    Args:
        sets: The shards of each set.
        num_samples: Samples taken of each set.
        weights: Of each set.
        seed: Of all order.
        epoch_images: Images in an epoch, all ranks together.
        global_batch: Images in a step, all ranks together.
        orders: Of each set.
    """

    sets: tuple[Shards, ...]
    num_samples: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int
    epoch_images: int
    global_batch: int
    orders: tuple[SetOrder, ...]

    @property
    def num_steps(self) -> int:
        """Steps in an epoch."""
        return self.epoch_images // self.global_batch

    def index_after(self, epoch: int, num_steps: int) -> int:
        """The index that is read next after a number of steps of an epoch."""
        if num_steps >= self.num_steps:
            return (epoch + 1) * self.epoch_images
        return epoch * self.epoch_images + num_steps * self.global_batch

    def to_plain(self) -> dict[str, Any]:
        """Lists and numbers for a checkpoint, without the seed and the global batch."""
        return {
            "sets": [[list(shard) for shard in shards] for shards in self.sets],
            "num_samples": list(self.num_samples),
            "weights": list(self.weights),
            "epoch_images": self.epoch_images,
            "orders": [list(order) for order in self.orders],
        }

    @staticmethod
    def from_plain(plain: dict[str, Any], seed: int, global_batch: int) -> RunOrder:
        """What `to_plain` gave."""
        return RunOrder(
            tuple(tuple((name, size) for name, size in shards) for shards in plain["sets"]),
            tuple(plain["num_samples"]),
            tuple(plain["weights"]),
            seed,
            plain["epoch_images"],
            global_batch,
            tuple(SetOrder(*order) for order in plain["orders"]),
        )


def new_order(
    shards: Sequence[tuple[Sequence[str], Sequence[int]]],
    weights: Sequence[float],
    seed: int,
    epoch_images: int,
    global_batch: int,
    num_samples: Sequence[int] | None = None,
) -> RunOrder:
    """The order of a new run.

    Args:
        shards: Names and sizes of the shards of each set.
        weights: As of `RunOrder`.
        seed: Of all order.
        epoch_images: Images in an epoch, all ranks together.
        global_batch: Images in a step, all ranks together.
        num_samples: Samples taken of each set; None takes all.
    """
    sets = []
    for urls, sizes in shards:  # what lies above the folder of a shard may change
        names = ("/".join(url.partition("?")[0].split("/")[-2:]) for url in urls)
        sets.append(tuple(zip(names, map(int, sizes), strict=True)))
    return RunOrder(
        tuple(sets),
        tuple(num_samples or (sum(sizes) for _, sizes in shards)),
        tuple(weights),
        seed,
        epoch_images,
        global_batch,
        tuple(SetOrder(seed_of_set(seed, n, len(sets))) for n in range(len(sets))),
    )


def carried_over(
    before: RunOrder, index_before: int, now: RunOrder, index_now: int
) -> tuple[tuple[SetOrder, ...], list[str]]:
    """Let each set go on after its last sample.

    The run before would have read `index_before` next; the run now, of the same seed, reads
    `index_now` first.

    Returns:
        The order of each set of `now`: one whose shards are the same gives its next sample; one
        whose shards have changed begins a new pass; a new one begins. And what has changed.
    """
    draws = Mixture(before.weights, before.seed).draws_before(index_before)
    draws_now = Mixture(now.weights, now.seed).draws_before(index_now)
    partners = _matched(before.sets, now.sets)
    if all(partner is None for partner in partners):  # as where all folders are renamed
        partners = _matched(*(list(map(_without_folders, run.sets)) for run in (before, now)))
    orders, changes = [], list[str]()
    for number, partner in enumerate(partners):
        if partner is None:
            orders.append(SetOrder(now.orders[number].seed, -draws_now[number]))
            continue
        seed, shift = before.orders[partner]
        draw = draws[partner] + shift
        if (change := _change(before, partner, now, number)) is not None:
            changes.append(change)
            draw = -(-draw // before.num_samples[partner]) * now.num_samples[number]
        orders.append(SetOrder(seed, draw - draws_now[number]))
    return tuple(orders), changes


def _matched(before: Sequence[Shards], now: Sequence[Shards]) -> list[int | None]:
    """For each set now, the set before with the same shards, else one that shares some."""
    partners: list[int | None] = [None] * len(now)
    for must_be_same in (True, False):
        for number, shards in enumerate(now):
            for other, shards_before in enumerate(before):
                is_free = partners[number] is None and other not in partners
                shares_some = not dict(shards_before).keys().isdisjoint(dict(shards))
                if is_free and (shards_before == shards if must_be_same else shares_some):
                    partners[number] = other
    return partners


def _without_folders(shards: Shards) -> Shards:
    return tuple((name.rpartition("/")[2], size) for name, size in shards)


def _change(before: RunOrder, partner: int, now: RunOrder, number: int) -> str | None:
    """The change of a set in words; None if it is the same."""
    old, new = map(_without_folders, (before.sets[partner], now.sets[number]))
    if old == new:
        if before.num_samples[partner] == now.num_samples[number]:
            return None
        return "num_train_images takes another number of samples"
    sizes, sizes_now = dict(old), dict(new)
    shared = [name for name in sizes_now if name in sizes]
    parts = {
        "new": [name for name in sizes_now if name not in sizes],
        "gone": [name for name in sizes if name not in sizes_now],
        "of another length": [name for name in shared if sizes[name] != sizes_now[name]],
    }
    words = [
        f"'{names[0]}' is {what}"
        if len(names) == 1
        else f"{len(names)} shards are {what}, e.g. '{names[0]}'"
        for what, names in parts.items()
        if names
    ]
    return ", ".join(words) or "its shards come in another order"
