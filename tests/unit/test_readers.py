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

from maskfeat.batch import Example, SkippedSample
from maskfeat.data.annotations.image import SampleError
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.order.loaders import Progress
from maskfeat.data.order.plan import StreamPlan
from maskfeat.data.order.run_order import new_order
from maskfeat.data.order.streaming import (
    StreamedBatches,
    StreamLoader,
    StreamReader,
    finish,
)
from maskfeat.data.shards.count import CountedShard


def make_example(
    sample: AnnotatedImage, rng: np.random.Generator, donor: object = None, /
) -> Example:
    if int(sample.key.removeprefix("sa_")) % 1000 == 13:
        raise SampleError("bad jpg", "thirteen")
    points = rng.integers(0, 4, (2, 2))  # so that batches tell whether randomness is the same
    return Example(sample.key, np.zeros((4, 4, 3), np.uint8), points, np.ones((1, 2), bool))


def write_shards(folder: Path, sizes: list[int], name: str = "") -> tuple[CountedShard, ...]:
    for number, size in enumerate(sizes):
        path = folder / f"{name}{number}.tar"
        first = 1000 * (number + 1) + 100_000 * len(name)
        write_shard(path, size, number, size=(8, 8), num_masks=1, first_id=first)
    return tuple(
        CountedShard(str(folder / f"{name}{number}.tar"), size) for number, size in enumerate(sizes)
    )


def plan_of(*sets: tuple[CountedShard, ...], **settings: Any) -> StreamPlan:
    """Epochs of one pass, in batches of three, if nothing else is said."""
    total = sum(shard.num_samples for shards in sets for shard in shards)
    order = new_order(
        [([s.url for s in one], [s.num_samples for s in one]) for one in sets],
        settings.pop("weights", (1.0,) * len(sets)),
        settings.pop("seed", 0),
        settings.pop("epoch_images", total),
        settings.pop("batch_size", 3) * settings.get("world_size", 1),
    )
    return StreamPlan(sets, order, **settings)


def reader_of(plan: StreamPlan, number: int = 0, epoch: int = 0) -> StreamReader:
    return StreamReader(plan, number, epoch, plan.start())


def keys_of(reader: StreamReader, num: int) -> list[str]:
    return [raw.key for raw, _ in itertools.islice(reader, num)]


def loader_of(plan: StreamPlan, num_workers: int = 0, **more: Any) -> StreamLoader:
    return StreamLoader(StreamedBatches(plan, make_example), num_workers=num_workers, **more)


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
    ("sizes", "world_size", "num_readers"),
    [
        ([6], 1, 1),
        ([9], 2, 2),
        ([6, 7], 3, 1),
        ([3, 11, 2], 1, 2),
        ([1, 1, 17, 5, 6], 1, 3),
        ([5, 4, 9, 8], 2, 2),
        ([2] * 9, 4, 3),  # more readers than batches
    ],
)
def test_each_epoch_reads_every_sample_once_however_shards_and_readers_divide(
    tmp_path: Path, sizes: list[int], world_size: int, num_readers: int
) -> None:
    shards = write_shards(tmp_path, sizes)
    keys = {f"sa_{1000 * (s + 1) + i}" for s, size in enumerate(sizes) for i in range(size)}
    for batch_size, epoch in itertools.product((1, 2), range(3)):
        found = Counter[str]()
        for rank, number in itertools.product(range(world_size), range(num_readers)):
            plan = plan_of(
                shards,
                batch_size=batch_size,
                seed=5,
                rank=rank,
                world_size=world_size,
                num_readers=num_readers,
                max_samples=4,
            )
            num_own = len(range(number, plan.order.num_steps, num_readers)) * batch_size
            found.update(keys_of(reader_of(plan, number, epoch), num_own))
        assert set(found.values()) == {1}
        assert set(found) <= keys
        assert len(keys) - len(found) == len(keys) % (batch_size * world_size)


def test_a_reader_goes_on_from_any_place_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    sets = (write_shards(tmp_path, [5, 1, 7, 4]), write_shards(tmp_path, [3, 6], "b"))
    for max_samples in (1, 3, 100):
        plan = plan_of(
            *sets,
            weights=(3.0, 1.0),
            epoch_images=60,
            seed=7,
            num_readers=2,
            max_samples=max_samples,
        )
        whole = reader_of(plan, 1, epoch=2)
        unbroken, reader_states = [], []
        for raw, seeds in itertools.islice(
            whole, 40
        ):  # a stretch of thirty, then another slice_pass
            unbroken.append((raw.key, seeds))
            reader_states.append(whole.reader_state)
        assert {slice_pass for _, (_, _, slice_pass) in unbroken} == {0, 1}
        for place in range(0, 39, 1 if max_samples == 3 else 7):
            resumed = StreamReader(plan, 1, 2, reader_states[place])
            got = [(raw.key, seeds) for raw, seeds in itertools.islice(resumed, 39 - place)]
            assert got == unbroken[place + 1 :]


def test_the_shuffle_buffer_is_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(write_shards(tmp_path, [20]), batch_size=1, max_samples=100, max_bytes=4000)
    sizes = []

    def noting(size: int, *seeds: int) -> np.ndarray:
        sizes.append(size)
        return np.arange(size)

    monkeypatch.setattr("maskfeat.data.order.streaming.block_order", noting)
    raws = [raw for raw, _ in itertools.islice(reader_of(plan), 20)]
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
    one, many = (plan_of(shards, max_samples=n) for n in (1, 100))
    assert keys_of(reader_of(one), 9) == ordered
    shuffled = keys_of(reader_of(many), 9)
    assert shuffled != ordered
    assert sorted(shuffled) == ordered


def test_what_cannot_be_used_is_made_up_for_by_its_own_stretch(tmp_path: Path) -> None:
    plan = plan_of(write_shards(tmp_path, [18, 18]), num_readers=2, max_samples=4)
    batches = epochs_of(loader_of(plan), 0)
    given = Counter(key for one in batches for key in one if isinstance(key, str))
    assert given["sa_1013"] == given["sa_2013"] == 1  # skipped
    assert len(given) == 36  # everything was met
    assert sum(given.values()) == 36 + 2  # and two came again in their stead


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_batches_do_not_depend_on_the_number_of_workers(tmp_path: Path, num_workers: int) -> None:
    shards = write_shards(tmp_path, [20, 9, 14])  # some hold a sample that is skipped
    plan = plan_of(shards, seed=3, num_readers=3, max_samples=5)
    expected = epochs_of(loader_of(plan), 0, 1)
    assert epochs_of(loader_of(plan, num_workers), 0, 1) == expected
    assert len(expected) == 2 * 14


def test_a_loader_goes_on_after_any_batch_with_another_number_of_workers(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [20, 9, 14])
    plan = plan_of(shards, epoch_images=20, seed=3, num_readers=2, max_samples=4)
    unbroken = epochs_of(loader_of(plan), 0, 1, 2)
    for stop in range(1, 6):
        first = loader_of(plan)
        begun = epochs_of(first, 0)
        first.set_epoch(1)
        begun += [seen(batch) for batch in itertools.islice(first, stop)]
        resumed = loader_of(plan, num_workers=stop % 3)
        resumed.reader_states = first.reader_states_after(first.progress.num_batches)
        resumed.go_on_after(first.progress)
        assert first.progress == Progress(1, stop)
        assert begun + epochs_of(resumed, 1, 2) == unbroken


def test_epochs_shorter_than_a_pass_go_on_where_the_one_before_ended(tmp_path: Path) -> None:
    shards = write_shards(tmp_path, [12, 12])
    plan = plan_of(shards, epoch_images=8, batch_size=2, num_readers=2, max_samples=3)
    found = epochs_of(loader_of(plan), 0, 1, 2)
    keys = [key for one in found for key in one if isinstance(key, str)]
    assert len(keys) == len(set(keys)) == 24


def test_the_order_is_a_function_of_seed_and_epoch_and_of_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_shards(tmp_path, [6, 6])

    def read(seed: int, epoch: int) -> list[tuple]:
        return epochs_of(loader_of(plan_of(shards, seed=seed)), epoch)

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
    plan = plan_of(*sets, weights=(0.75, 0.25), epoch_images=162, seed=1, num_readers=2)
    for number in range(2):
        keys = keys_of(reader_of(plan, number), 80)
        assert abs(sum(int(key[3:]) > 100_000 for key in keys) - 20) <= 1


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_started_in_any_way_read_from_a_server(tmp_path: Path, method: str) -> None:
    write_shards(tmp_path, [3, 3])
    with bad_server(tmp_path) as server:
        urls = tuple(CountedShard(f"{server.url}/{number}.tar", 3) for number in range(2))
        plan = plan_of(urls, num_readers=2, max_samples=3)
        loader = loader_of(plan, num_workers=1, multiprocessing_context=method)
        keys = [key for batch in loader for key in batch["keys"]]
    assert sorted(keys) == sorted(f"sa_{s}00{i}" for s in (1, 2) for i in range(3))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_a_user_can_mend_is_raised_as_it_is_without_a_page_of_traceback(
    tmp_path: Path, num_workers: int
) -> None:
    write_shard(tmp_path / "a.tar", 6, order="halves")
    plan = plan_of((CountedShard(str(tmp_path / "a.tar"), 6),))
    with pytest.raises(ValueError, match=r"^shard '.*a.tar' is not sorted .*$") as error:
        list(loader_of(plan, num_workers))
    assert "\n" not in str(error.value)


def test_shards_that_hold_less_than_was_counted_end_in_a_sentence(tmp_path: Path) -> None:
    (shard,) = write_shards(tmp_path, [4])
    plan = plan_of((CountedShard(shard.url, 12),), num_readers=2)  # the second finds nothing
    with pytest.raises(ValueError, match=r"0.tar' holds fewer samples than its index says"):
        list(loader_of(plan))


@pytest.mark.parametrize(
    ("num_counted", "told"),
    [(6, "holds fewer than the 6 samples"), (3, "holds more than the 3 samples"), (4, "")],
)
def test_a_count_that_is_wrong_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, num_counted: int, told: str
) -> None:
    (shard,) = write_shards(tmp_path, [4])
    reader = reader_of(plan_of((CountedShard(shard.url, num_counted),), batch_size=1))
    keys = keys_of(reader, 3 * num_counted)
    assert set(keys) == {f"sa_100{i}" for i in range(min(4, num_counted))}
    assert [told in record.message for record in caplog.records] == [True] * bool(told)


def test_what_cannot_be_read_or_used_is_given_as_a_skip(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", 4, faults={0: "bad json"}, first_id=12)
    plan = plan_of((CountedShard(str(tmp_path / "a.tar"), 4),), batch_size=4)
    reader = reader_of(plan)
    got = [finish(raw, seeds, make_example) for raw, seeds in itertools.islice(reader, 4)]
    reasons = {one.key: one.reason for one in got if isinstance(one, SkippedSample)}
    assert reasons == {"sa_12": "bad json", "sa_13": "bad jpg"}


def test_a_rank_outside_the_world_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rank must lie in \[0, world_size\)"):
        plan_of((CountedShard("a.tar", 3),), rank=2, world_size=2)
