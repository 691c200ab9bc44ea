"""Streaming: what the readers give, in which order, and how they go on."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bad_server import bad_server
from shard_factory import write_shard

from maskfeat.batch import SkippedSample
from maskfeat.data.augment import Example
from maskfeat.data.examples import StreamedBatches
from maskfeat.data.loaders import Progress, StreamLoader
from maskfeat.data.readers import StreamPlan, StreamReader, finish
from maskfeat.data.sample import AnnotatedImage, SampleError


def make_example(sample: AnnotatedImage, rng: np.random.Generator) -> Example:
    if int(sample.key.removeprefix("sa_")) % 1000 == 13:
        raise SampleError("bad jpg", "thirteen")
    points = rng.integers(0, 4, (2, 2))  # so that batches tell whether randomness is the same
    return Example(sample.key, np.zeros((4, 4, 3), np.uint8), points, np.ones((1, 2), bool))


def write_shards(folder: Path, sizes: list[int], name: str = "") -> tuple[str, ...]:
    for number, size in enumerate(sizes):
        path = folder / f"{name}{number}.tar"
        first = 1000 * (number + 1) + 100_000 * len(name)
        write_shard(path, size, number, size=(8, 8), num_masks=1, first_id=first)
    return tuple(str(folder / f"{name}{number}.tar") for number in range(len(sizes)))


def keys_of(reader: StreamReader, num: int) -> list[str]:
    return [raw.key for raw, _ in itertools.islice(reader, num)]


def loader_of(
    plan: StreamPlan, num_batches: int, num_workers: int = 0, **more: Any
) -> StreamLoader:
    data = StreamedBatches(plan, make_example, batch_size=3)
    return StreamLoader(data, num_batches, num_workers=num_workers, **more)


def seen(batch: dict) -> tuple:
    skipped = [one.key for one in batch["skipped"]]
    return (*batch["keys"], *skipped, *batch["points_yx"].flatten().tolist())


def epochs_of(loader: StreamLoader, *epochs: int) -> list[tuple]:
    found = []
    for epoch in epochs:
        loader.set_epoch(epoch)
        found += [seen(batch) for batch in loader]
    return found


@pytest.mark.parametrize(
    ("num_shards", "world_size", "num_readers"),
    [(1, 1, 1), (1, 2, 2), (2, 3, 1), (3, 1, 2), (5, 1, 3), (4, 2, 2)],
)
def test_readers_share_each_pass_and_read_nothing_twice(
    tmp_path: Path, num_shards: int, world_size: int, num_readers: int
) -> None:
    shards = write_shards(tmp_path, [6] * num_shards)
    passes: dict[int, Counter[str]] = {0: Counter(), 1: Counter()}
    for rank, number in itertools.product(range(world_size), range(num_readers)):
        plan = StreamPlan((shards,), (1.0,), 5, rank, world_size, num_readers, max_samples=4)
        for raw, (_, pass_number) in StreamReader(plan, number, plan.start()):
            if pass_number > 1:
                break
            passes[pass_number][raw.key] += 1
    keys = {f"sa_{1000 * (s + 1) + i}" for s in range(num_shards) for i in range(6)}
    assert passes[0] == passes[1] == Counter(dict.fromkeys(keys, 1))


def test_a_reader_goes_on_from_any_place_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    sets = (write_shards(tmp_path, [5, 1, 7, 4]), write_shards(tmp_path, [3, 6], "b"))
    for max_samples in (1, 3, 100):
        plan = StreamPlan(sets, (3.0, 1.0), 7, num_readers=2, max_samples=max_samples)
        whole = StreamReader(plan, 1, plan.start())
        unbroken, standings = [], []
        for raw, seeds in itertools.islice(whole, 40):
            unbroken.append((raw.key, seeds))
            standings.append(whole.standing)
        for place in range(0, 39, 1 if max_samples == 3 else 7):
            resumed = StreamReader(plan, 1, standings[place])
            got = [(raw.key, seeds) for raw, seeds in itertools.islice(resumed, 39 - place)]
            assert got == unbroken[place + 1 :]


def test_the_shuffle_buffer_is_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path, [20])
    plan = StreamPlan((shards,), (1.0,), max_samples=100, max_bytes=4000)
    sizes = []

    def noting(size: int, *seeds: int) -> np.ndarray:
        sizes.append(size)
        return np.arange(size)

    monkeypatch.setattr("maskfeat.data.readers.block_order", noting)
    raws = [raw for raw, _ in itertools.islice(StreamReader(plan, 0, plan.start()), 20)]
    assert [raw.key for raw in raws] == [f"sa_{1000 + i}" for i in range(20)]
    ends = np.cumsum(sizes)
    for start, end in itertools.pairwise([0, *ends]):
        held = [len(raw.jpg) + len(raw.json) for raw in raws[start:end]]
        assert sum(held) <= 4000
        assert end >= 20 or sum(held) + len(raws[end].jpg) + len(raws[end].json) > 4000
    assert len(sizes) > 2


def test_a_buffer_of_one_keeps_the_order_and_a_larger_one_does_not(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [9])
    ordered = [f"sa_{1000 + i}" for i in range(9)]
    one, many = (StreamPlan((shards,), (1.0,), max_samples=n) for n in (1, 100))
    assert keys_of(StreamReader(one, 0, one.start()), 9) == ordered
    shuffled = keys_of(StreamReader(many, 0, many.start()), 9)
    assert shuffled != ordered
    assert sorted(shuffled) == ordered


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, num_workers: int) -> None:
    shards = write_shards(tmp_path, [20, 9, 14])  # some hold a sample that is skipped
    plan = StreamPlan((shards,), (1.0,), 3, num_readers=3, max_samples=5)
    expected = epochs_of(loader_of(plan, 7), 0, 1)
    assert epochs_of(loader_of(plan, 7, num_workers), 0, 1) == expected
    assert len(expected) == 14


def test_a_loader_goes_on_after_any_batch_with_another_number_of_workers(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [20, 9, 14])
    plan = StreamPlan((shards,), (1.0,), 3, num_readers=2, max_samples=4)
    unbroken = epochs_of(loader_of(plan, 6), 0, 1, 2)
    for stop in range(1, 6):
        first = loader_of(plan, 6)
        begun = epochs_of(first, 0)
        first.set_epoch(1)
        begun += [seen(batch) for batch in itertools.islice(first, stop)]
        resumed = loader_of(plan, 6, num_workers=stop % 3)
        resumed.standings = first.standings_after(first.progress.num_batches)
        resumed.go_on_after(first.progress)
        assert first.progress == Progress(1, stop)
        assert begun + epochs_of(resumed, 1, 2) == unbroken


def test_epochs_shorter_than_a_pass_reach_the_end_of_every_shard(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [12, 12])
    plan = StreamPlan((shards,), (1.0,), num_readers=2, max_samples=3)
    data = StreamedBatches(plan, lambda s, rng: make_example(s, rng), batch_size=2)
    found = epochs_of(StreamLoader(data, 4), 0, 1, 2)
    keys = {key for one in found for key in one if isinstance(key, str)}
    assert len(keys) == 24


def test_the_order_is_a_function_of_seed_and_epoch_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path, [6, 6])

    def read(seed: int, epoch: int) -> list[tuple]:
        return epochs_of(loader_of(StreamPlan((shards,), (1.0,), seed), 4), epoch)

    first = read(0, 0)
    monkeypatch.setenv("WDS_SEED", "77")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "8")
    np.random.seed(1)  # noqa: NPY002 - to show that nobody listens
    assert read(0, 0) == first
    assert read(0, 1) != first
    assert read(1, 0) != first


def test_sets_come_by_their_weights_from_every_reader(tmp_path: Path) -> None:
    sets = (write_shards(tmp_path, [6, 6]), write_shards(tmp_path, [5, 5], "b"))
    plan = StreamPlan(sets, (0.75, 0.25), 1, num_readers=2, max_samples=3)
    for number in range(2):
        keys = keys_of(StreamReader(plan, number, plan.start()), 80)
        assert abs(sum(int(key[3:]) > 100_000 for key in keys) - 20) <= 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_started_in_any_way_read_from_a_server(tmp_path: Path, method: str) -> None:
    write_shards(tmp_path, [3, 3])
    with bad_server(tmp_path) as server:
        urls = tuple(f"{server.url}/{number}.tar" for number in range(2))
        plan = StreamPlan((urls,), (1.0,), num_readers=2, max_samples=3)
        loader = loader_of(plan, 2, num_workers=1, multiprocessing_context=method)
        keys = [key for batch in loader for key in batch["keys"]]
    assert sorted(keys) == sorted(f"sa_{s}00{i}" for s in (1, 2) for i in range(3))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_user_can_mend_is_raised_as_it_is_without_a_page_of_traceback(
    tmp_path: Path, num_workers: int
) -> None:
    write_shard(tmp_path / "a.tar", 6, order="halves")
    plan = StreamPlan(((str(tmp_path / "a.tar"),),), (1.0,))
    with pytest.raises(ValueError, match=r"^shard '.*a.tar' is not sorted .*$") as error:
        list(loader_of(plan, 1, num_workers))
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_or_used_is_given_as_a_skip(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 4, faults={0: "bad json"}, first_id=12)
    plan = StreamPlan(((str(tmp_path / "a.tar"),),), (1.0,))
    reader = StreamReader(plan, 0, plan.start())
    got = [finish(raw, seeds, make_example) for raw, seeds in itertools.islice(reader, 4)]
    reasons = {one.key: one.reason for one in got if isinstance(one, SkippedSample)}
    assert reasons == {"sa_12": "bad json", "sa_13": "bad jpg"}


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank must lie in \[0, world_size\)"):
        StreamPlan((("a.tar",),), (1.0,), rank=2, world_size=2)
