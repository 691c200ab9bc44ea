"""Who reads what, without torch and without files."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.data.order import schedule
from maskfeat.data.order.schedule import (
    batches_of_worker,
    block_order,
    evenly_spaced,
    indices_of,
    parts_of,
    sample_at,
    slice_of,
)


@given(num_samples=st.integers(1, 50), seed=st.integers(0, 5), number=st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_each_pass_holds_every_sample_once(num_samples: int, seed: int, number: int) -> None:
    start = number * num_samples
    order = [sample_at(start + i, num_samples, seed) for i in range(num_samples)]
    assert sorted(order) == list(range(num_samples))


def test_passes_differ_and_seeds_differ() -> None:
    orders = {
        (seed, number): tuple(sample_at(number * 30 + i, 30, seed) for i in range(30))
        for seed in range(3)
        for number in range(3)
    }
    assert len(set(orders.values())) == 9


@given(
    epoch=st.integers(0, 5),
    epoch_images=st.integers(0, 200),
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_ranks_share_an_epoch_equally_and_read_nothing_twice(
    epoch: int, epoch_images: int, world_size: int, batch_size: int
) -> None:
    parts = [
        indices_of(epoch, epoch_images, rank, world_size, batch_size) for rank in range(world_size)
    ]
    assert len({len(part) for part in parts}) == 1
    assert len(parts[0]) % batch_size == 0
    together = sorted(place for part in parts for place in part)
    first = epoch * epoch_images
    assert together == list(range(first, first + len(together)))
    assert epoch_images - len(together) < batch_size * world_size


def test_a_global_step_reads_the_same_places_on_any_number_of_ranks() -> None:
    def steps(world_size: int) -> list[set[int]]:
        batch_size = 12 // world_size
        parts = [indices_of(2, 40, rank, world_size, batch_size) for rank in range(world_size)]
        return [
            {p for part in parts for p in part[s * batch_size : (s + 1) * batch_size]}
            for s in range(3)
        ]

    assert steps(1) == steps(2) == steps(3) == steps(4)


@given(
    epoch=st.integers(0, 4),
    epoch_images=st.integers(0, 300),
    world_size=st.integers(1, 5),
    batch_size=st.integers(1, 6),
    num_readers=st.integers(1, 7),
)
@settings(max_examples=200, deadline=None)
def test_the_stretches_of_all_readers_are_the_epoch_but_for_less_than_a_global_batch(
    epoch: int, epoch_images: int, world_size: int, batch_size: int, num_readers: int
) -> None:
    num_batches = epoch_images // (batch_size * world_size)
    places = []
    for rank in range(world_size):
        own = [
            slice_of(epoch, epoch_images, rank, world_size, batch_size, reader, num_readers)
            for reader in range(num_readers)
        ]
        # What the reader needs for its batches, counted one by one.
        made = Counter(batch % num_readers for batch in range(num_batches))
        assert [len(one) for one in own] == [made[r] * batch_size for r in range(num_readers)]
        places += [place for one in own for place in one]
    first = epoch * epoch_images
    assert sorted(places) == list(range(first, first + num_batches * batch_size * world_size))
    assert epoch_images - len(places) < batch_size * world_size


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any),
    seed=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 150), min_size=2, max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_shards_of_any_sizes_cut_anywhere_give_every_sample_once_in_a_pass(
    sizes: list[int], seed: int, cuts: list[int]
) -> None:
    """However the endless order is cut, its pieces laid end to end are the shards in turn."""
    total = sum(sizes)
    cuts = sorted(cuts)
    found: dict[int, Counter[tuple[int, int]]] = {}
    order = []
    for start, stop in itertools.pairwise(cuts):
        parts = parts_of(sizes, seed, start, stop)
        assert sum(part.stop - part.start for part in parts) == stop - start
        for shard, begin, end, number in parts:
            order += [(number, shard, i) for i in range(begin, end)]
            found.setdefault(number, Counter()).update((shard, i) for i in range(begin, end))
    one_piece = parts_of(sizes, seed, cuts[0], cuts[-1])
    assert order == [(n, s, i) for s, begin, end, n in one_piece for i in range(begin, end)]
    whole = Counter((s, i) for s, size in enumerate(sizes) for i in range(size))
    for number, samples in found.items():
        assert samples <= whole
        if cuts[0] <= number * total and (number + 1) * total <= cuts[-1]:
            assert samples == whole


def test_passes_and_seeds_have_other_orders_of_shards() -> None:
    orders = {
        tuple(part.shard for part in parts_of([1] * 20, seed, number * 20, number * 20 + 20))
        for seed in range(3)
        for number in range(3)
    }
    assert len(orders) == 9


@given(
    num_workers=st.integers(1, 9),
    num_readers=st.integers(1, 9),
    start=st.integers(0, 40),
    length=st.integers(0, 40),
)
@settings(max_examples=200, deadline=None)
def test_workers_asked_in_turn_give_the_batches_in_order_however_many_they_are(
    num_workers: int, num_readers: int, start: int, length: int
) -> None:
    turns = [
        list(batches_of_worker(w, num_workers, num_readers, start, start + length))
        for w in range(num_workers)
    ]
    assert len({len(one) for one in turns}) == 1  # a loader drops a worker that has ended
    asked = [batch for round_ in zip(*turns, strict=True) for batch in round_]
    assert [batch for batch in asked if batch is not None] == list(range(start, start + length))
    for one in turns:  # a reader stays with its worker
        mine = {batch % num_readers for batch in one if batch is not None}
        assert all(
            mine.isdisjoint({b % num_readers for b in o if b is not None})
            for o in turns
            if o is not one
        )


def test_blocks_have_different_orders() -> None:
    orders = {
        tuple(block_order(20, 0, place, slice_pass, 0))
        for place in range(4)
        for slice_pass in (0, 1)
    }
    assert len(orders) == 8
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_the_schedule_needs_no_torch() -> None:
    names = "maskfeat.data.order.schedule, maskfeat.data.order.schedule"
    words = f"import sys, {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True)


def test_a_worker_keeps_two_orders_of_each_set_and_four_bytes_a_sample() -> None:
    schedule._CACHE.clear()
    for place in range(0, 12_000, 7):  # twelve passes
        sample_at(place, 1000, seed=3)
        sample_at(place, 800, seed=4)
    assert sum(order.nbytes for order in schedule._CACHE.values()) <= 2 * 4 * (1000 + 800)
    assert isinstance(evenly_spaced(10**12, None), range)  # and no list of all numbers
