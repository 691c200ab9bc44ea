"""What one rank trains on: from the shards of a set to a loader of batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from maskfeat.data.annotations.sample import UNMARKED
from maskfeat.data.order.loaders import (
    EpochSampler,
    IndexedLoader,
    MakeExample,
    ResumableLoader,
    ScheduledExamples,
)
from maskfeat.data.order.plan import StreamPlan
from maskfeat.data.order.run_order import RunOrder, new_order
from maskfeat.data.order.schedule import evenly_spaced
from maskfeat.data.order.skips import SkipLedger
from maskfeat.data.order.streaming import StreamedBatches, StreamLoader
from maskfeat.data.settings import StreamSettings
from maskfeat.data.shards.count import CountedShard, count_samples
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.names import expand_shards
from maskfeat.data.shards.remote import ShardSource

_LOG = logging.getLogger("maskfeat")

# One set by its patterns, or several with their weights, as `data.train` takes them.
Train = str | Sequence[str] | Mapping[str, Any]


class WeightedSet(NamedTuple):
    """Shards of one set, its share of the samples, and the meaning of its unmarked pixels.

    Attributes:
        unmarked: "unknown": nothing is learned from pixels that no mask holds, for sets that mark
            some objects. "background": each connected region of them counts as a mask.
            "everything": no mask of the set is used; its images serve distillation alone.
    """

    shards: str | list[str]
    weight: float
    unmarked: str = "unknown"


def sets_of(train: Train) -> list[WeightedSet]:
    """Read `data.train`.

    Args:
        train: Shards, for one set; else {shards: weight} or {name: {"shards": a pattern or a list,
            "weight": a number, "unmarked": a word of `UNMARKED`, "unknown" where left out}}. Of
            weights only their proportions count.

    Returns:
        The sets, in the order given.

    Raises:
        ValueError: If a weight is no number above 0, or an entry has other keys or words.
    """
    if not isinstance(train, Mapping):
        return [WeightedSet(train if isinstance(train, str) else list(train), 1.0)]
    if not train:
        raise ValueError("data.train is an empty mapping; give at least one set with its weight")
    found = []
    for name, value in train.items():
        shards, weight, unmarked = name, value, "unknown"
        if isinstance(value, Mapping):
            if {*value, "unmarked"} != {"shards", "weight", "unmarked"}:
                raise ValueError(
                    f"a set of data.train needs 'shards' and 'weight', got {sorted(value)} "
                    f"for '{name}'; it may have 'unmarked', too"
                )
            shards, weight = value["shards"], value["weight"]
            unmarked = value.get("unmarked", unmarked)
        if unmarked not in UNMARKED:
            raise ValueError(
                f"unmarked of a set in data.train must be {' or '.join(UNMARKED)}, got "
                f"{unmarked!r} for '{name}'"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
            raise ValueError(
                f"the weight of a set in data.train must be a number above 0, got {weight!r} "
                f"for '{name}'"
            )
        found.append(WeightedSet(shards, float(weight), unmarked))
    return found


class OpenSets:
    """Sets of shards; each is indexed or counted once.

    Args:
        source: Opens the shards.
        keep_crowds: As in `maskfeat.data.annotations.sample.read_sample`.
    """

    def __init__(self, source: ShardSource, keep_crowds: bool) -> None:
        self.source = source
        self.keep_crowds = keep_crowds
        self._indexed: dict[str, IndexedShards] = {}
        self._counted: dict[str, tuple[CountedShard, ...]] = {}

    def indexed(self, shards: str | list[str]) -> IndexedShards:
        """A set of local tars."""
        source, name = self.source, str(shards)
        if name not in self._indexed:
            settings = source.index_dir, self.keep_crowds, source.limits
            self._indexed[name] = IndexedShards(shards, *settings)
        return self._indexed[name]

    def counted(self, shards: str | list[str]) -> tuple[CountedShard, ...]:
        """A set of streamed tars."""
        source, name = self.source, str(shards)
        if name not in self._counted:
            urls = expand_shards(shards, source.allow_pipe, source.limits.names)
            self._counted[name] = count_samples(urls, source)
        return self._counted[name]


@dataclass(frozen=True)
class Training:
    """What one rank trains on.

    Args:
        sets: Opens the shards.
        rank: This process, of `world_size`; the others are settings of `ShardDataModule`.
    """

    train: Train
    mode: str
    sets: OpenSets
    streaming: StreamSettings
    batch_size: int
    epoch_images: int | None
    num_train_images: int | None
    seed: int
    rank: int
    world_size: int

    def check(self, skips: SkipLedger) -> None:
        """Look at the shards, and count the samples that their indexes call incomplete.

        Raises:
            FileNotFoundError: If a shard is missing.
            ValueError: If an epoch has no whole batch for every device.
            RuntimeError: If too many samples are incomplete.
        """
        num_images = self._num_images()
        if self.mode == "indexed":
            found = [self.sets.indexed(one.shards) for one in sets_of(self.train)]
            incomplete = [one for shards in found for one in shards.incomplete]
            skips.add_known(incomplete, sum(map(len, found)))
        if num_images < self.batch_size * self.world_size:
            raise ValueError(
                f"an epoch of {num_images} images has no whole batch of "
                f"{self.batch_size} images on {self.world_size} devices; lower data.batch_size or "
                "set data.epoch_images"
            )

    def _num_images(self) -> int:
        """Images in an epoch."""
        sets = sets_of(self.train)
        if self.mode == "streaming":
            counted = [shard for one in sets for shard in self.sets.counted(one.shards)]
            return self.epoch_images or sum(shard.num_samples for shard in counted)
        sizes = [len(self.sets.indexed(one.shards)) for one in sets]
        return self.epoch_images or sum(min(n, self.num_train_images or n) for n in sizes)

    def loader(self, make_example: MakeExample, **loading: Any) -> ResumableLoader:  # noqa: ANN401
        """Make the loader of this rank.

        Args:
            make_example: Cuts an example out of an image.
            loading: What else a DataLoader takes.
        """
        make_loader = self._streaming if self.mode == "streaming" else self._indexed
        return make_loader(make_example, loading)

    def _indexed(self, make_example: MakeExample, loading: dict[str, Any]) -> ResumableLoader:
        sets = sets_of(self.train)
        shards = [self.sets.indexed(one.shards) for one in sets]
        indices = [evenly_spaced(len(one), self.num_train_images) for one in shards]
        order = self._order(
            [(one.shards, one.sizes) for one in shards], [len(one) for one in indices]
        )
        unmarked = [one.unmarked for one in sets]
        dataset = ScheduledExamples(shards, indices, order, make_example, unmarked)
        sampler = EpochSampler(order.epoch_images, self.batch_size, self.rank, self.world_size)
        is_kept = loading["num_workers"] > 0
        return IndexedLoader(dataset, sampler, persistent_workers=is_kept, **loading)

    def _streaming(self, make_example: MakeExample, loading: dict[str, Any]) -> ResumableLoader:
        sets, streaming = sets_of(self.train), self.streaming
        shards = tuple(self.sets.counted(one.shards) for one in sets)
        plan = StreamPlan(
            shards,
            self._order(
                [([s.url for s in one], [s.num_samples for s in one]) for one in shards], None
            ),
            self.rank,
            self.world_size,
            streaming.num_readers,
            streaming.shuffle_buffer,
            streaming.shuffle_buffer_mb * 1e6 / streaming.num_readers / len(sets),
            self.sets.source,
            self.sets.keep_crowds,
            tuple(one.unmarked for one in sets),
        )
        num_workers = min(loading["num_workers"], streaming.num_readers)
        if num_workers < loading["num_workers"]:
            _LOG.warning(
                "%d of %d workers are started, as data.streaming.num_readers is no more",
                num_workers,
                loading["num_workers"],
            )
        settings = {**loading, "num_workers": num_workers}
        return StreamLoader(StreamedBatches(plan, make_example), **settings)

    def _order(
        self, shards: Sequence[tuple[list[str], list[int]]], num_samples: list[int] | None
    ) -> RunOrder:
        return new_order(
            shards,
            [one.weight for one in sets_of(self.train)],
            self.seed,
            self._num_images(),
            self.batch_size * self.world_size,
            num_samples,
        )
