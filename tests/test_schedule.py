"""Who reads what, without torch and without files."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from maskfeat.data.schedule import (
    batches_of_worker,
    block_order,
    consumer_of,
    deal_shards,
    places_of,
    sample_at,
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
        places_of(epoch, epoch_images, rank, world_size, batch_size) for rank in range(world_size)
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
        parts = [places_of(2, 40, rank, world_size, batch_size) for rank in range(world_size)]
        return [
            {p for part in parts for p in part[s * batch_size : (s + 1) * batch_size]}
            for s in range(3)
        ]

    assert steps(1) == steps(2) == steps(3) == steps(4)


@given(
    num_shards=st.integers(1, 12),
    num_consumers=st.integers(1, 20),
    seed=st.integers(0, 3),
    pass_number=st.integers(0, 5),
    num_samples=st.integers(1, 30),
)
@settings(max_examples=100, deadline=None)
def test_a_pass_deals_out_every_sample_of_every_shard_once(
    num_shards: int, num_consumers: int, seed: int, pass_number: int, num_samples: int
) -> None:
    dealt: Counter[tuple[int, int]] = Counter()
    loads = []
    for consumer in range(num_consumers):
        parts = deal_shards(num_shards, seed, pass_number, consumer, num_consumers)
        loads.append(len(parts))
        for shard, number, num_parts in parts:
            dealt.update((shard, i) for i in range(number, num_samples, num_parts))
    assert dealt == Counter({(s, i): 1 for s in range(num_shards) for i in range(num_samples)})
    assert min(loads) >= 1  # also where there are fewer shards than consumers
    assert max(loads) - min(loads) <= 1


def test_passes_deal_otherwise_and_over_them_nobody_gets_more() -> None:
    passes = [[tuple(deal_shards(5, 0, p, c, 3)) for c in range(3)] for p in range(3)]
    assert len({tuple(one) for one in passes}) == 3
    assert [sum(len(one[c]) for one in passes) for c in range(3)] == [5, 5, 5]
    assert deal_shards(5, 1, 0, 0, 3) != deal_shards(5, 0, 0, 0, 3)


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


def test_readers_of_all_ranks_have_different_numbers_and_blocks_different_orders() -> None:
    numbers = {consumer_of(rank, 4, reader) for rank in range(4) for reader in range(3)}
    assert numbers == set(range(12))
    orders = {tuple(block_order(20, 0, p, c, 0, s)) for p in (0, 1) for c in (0, 1) for s in (0, 9)}
    assert len(orders) == 8
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_the_schedule_needs_no_torch() -> None:
    names = "maskfeat.data.schedule, maskfeat.data.mixture"
    words = f"import sys, {names}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", words], check=True)
