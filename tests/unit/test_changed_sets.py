"""A run goes on with a set, a weight, an epoch or a batch that is not what it was."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from shard_factory import write_shard
from test_data_resume import at_work, epoch_of, through_disk

from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.order.run_order import RunOrder, SetOrder, carried_over, new_order

# In this order samples are streamed as they lie in their shards, one shard after the other.
IN_ORDER = {"mode": "streaming", "num_readers": 1, "shuffle_buffer": 1}
INDEXED = {"mode": "indexed"}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for name, first in (("a", 100), ("b", 200), ("c", 300), ("d", 400)):
        write_shard(tmp_path / f"{name}.tar", 5, first, first_id=first, size=(8, 8), num_masks=1)
    return tmp_path


def run_of(folder: Path, train: Any, state: dict | None = None, **settings: Any) -> ShardDataModule:
    settings = {"crop_size": 8, "num_points": 4, "val": f"{folder}/d.tar", **settings}
    data = at_work(folder, train=train, **settings)
    if state is not None:
        data.load_state_dict(through_disk(state, folder))
    return data


def keys_of(data: ShardDataModule, epoch: int, num: int | None = None) -> list[str]:
    return [key for one in epoch_of(data, epoch, num) for key in one[: data.batch_size]]


def of_set(keys: list[str], letter: str) -> list[str]:
    return [key for key in keys if key.startswith({"a": "sa_1", "b": "sa_2", "c": "sa_3"}[letter])]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "maskfeat")
    return caplog


@pytest.mark.parametrize("change", ["added", "gone"])
def test_after_a_shard_came_or_went_no_image_is_left_out_and_it_is_said(
    shards: Path, told: pytest.LogCaptureFixture, change: str
) -> None:
    fewer, more = f"{shards}/[ab].tar", f"{shards}/[abc].tar"
    before, after = (fewer, more) if change == "added" else (more, fewer)
    first = run_of(shards, before, epoch_images=10)
    keys_of(first, 0, 3)
    second = run_of(shards, after, first.state_dict(), epoch_images=10)
    rest = [*keys_of(second, 0), *keys_of(second, 1), *keys_of(second, 2)]
    word = "new" if change == "added" else "gone"
    assert f"data.train has changed since the checkpoint ('c.tar' is {word})" in told.text
    size = 15 if change == "added" else 10
    assert len({*rest[:size]}) == size  # a whole pass, then the next
    assert len({*rest[size : 2 * size]}) == min(size, 24 - size)


@pytest.mark.parametrize(("settings", "num_before"), [(INDEXED, 7), (IN_ORDER, 15)])
def test_with_other_weights_each_set_goes_on_with_its_next_sample(
    shards: Path, told: pytest.LogCaptureFixture, settings: dict, num_before: int
) -> None:
    """A stream between epochs; in the midst of one it says that it cannot."""

    def mix(weight: float) -> dict[str, float]:
        return {f"{shards}/a.tar": weight, f"{shards}/[bc].tar": 1}

    settings = {**settings, "epoch_images": 30}
    whole = run_of(shards, mix(1), **settings)
    truth = [key for epoch in range(4) for key in keys_of(whole, epoch)]
    first = run_of(shards, mix(1), **settings)
    begun = keys_of(first, 0, num_before)
    second = run_of(shards, mix(3), first.state_dict(), **settings)
    begun += [*keys_of(second, 0 if num_before == 7 else 1)]
    third = run_of(shards, mix(0.5), second.state_dict(), **settings)  # and once more
    epoch = 1 if num_before == 7 else 2
    keys = [*begun, *keys_of(third, epoch), *keys_of(third, epoch + 1)]
    both = [[key for key in all_ if key >= "sa_2"] for all_ in (keys, truth)]
    for mine, theirs in ((of_set(keys, "a"), of_set(truth, "a")), both):
        num = min(len(mine), len(theirs))
        assert mine[:num] == theirs[:num]
    assert not told.text


def test_a_second_set_leaves_the_order_of_the_first(
    shards: Path, told: pytest.LogCaptureFixture
) -> None:
    alone = run_of(shards, f"{shards}/[ab].tar")
    truth = [key for epoch in range(3) for key in keys_of(alone, epoch)]
    first = run_of(shards, f"{shards}/[ab].tar")
    keys = keys_of(first, 0, 3)
    train = {f"{shards}/c.tar": 1, f"{shards}/[ab].tar": 1}
    second = run_of(shards, train, first.state_dict(), epoch_images=20)
    rest = [*keys_of(second, 0), *keys_of(second, 1)]
    keys += [key for key in rest if key < "sa_3"]
    assert keys == truth[: len(keys)]
    assert Counter(of_set(rest, "c")[:5]) == Counter({f"sa_{300 + i}": 1 for i in range(5)})
    assert not told.text


@pytest.mark.parametrize(
    ("change", "num_before"), [({"epoch_images": 14}, 3), ({"batch_size": 5}, 4)]
)
def test_another_epoch_or_batch_repeats_nothing(
    shards: Path, change: dict, num_before: int
) -> None:
    train = f"{shards}/[abc].tar"
    whole = run_of(shards, train, epoch_images=30)
    truth = [key for epoch in range(4) for key in keys_of(whole, epoch)]
    first = run_of(shards, train, epoch_images=30)
    keys = [*keys_of(first, 0), *keys_of(first, 1, num_before)]
    second = run_of(shards, train, first.state_dict(), **{"epoch_images": 30, **change})
    keys += [*keys_of(second, 1), *keys_of(second, 2)]
    assert keys == truth[: len(keys)]


def test_a_stream_says_in_mid_epoch_what_has_changed(
    shards: Path, told: pytest.LogCaptureFixture
) -> None:
    first = run_of(shards, f"{shards}/[ab].tar", **IN_ORDER)
    keys_of(first, 0, 3)
    second = run_of(shards, f"{shards}/[abc].tar", first.state_dict(), **IN_ORDER)
    rest = keys_of(second, 0)
    assert "data.train has changed ('c.tar' is new) and the checkpoint does not say" in told.text
    assert len(told.records) == 1
    # The pass began with this epoch, so that the next two end it.
    later = [*keys_of(second, 1), *keys_of(second, 2)]
    assert len({*rest, *later}) == 15


@pytest.mark.parametrize("settings", [INDEXED, IN_ORDER])
def test_the_same_shards_in_another_folder_go_on_exactly(
    shards: Path, told: pytest.LogCaptureFixture, settings: dict
) -> None:
    train = f"{shards}/[ab].tar"
    truth = keys_of(run_of(shards, train, **settings), 0)
    first = run_of(shards, train, **settings)
    keys = keys_of(first, 0, 2)
    moved = shutil.copytree(shards, shards / "moved")
    second = run_of(moved, f"{moved}/[ab].tar", first.state_dict(), **settings)
    assert keys + keys_of(second, 0) == truth
    assert not told.text


@pytest.mark.parametrize("names_before", ["with folders", "without folders"])
def test_sets_whose_shards_have_equal_names_are_told_apart_by_their_folders(
    shards: Path, told: pytest.LogCaptureFixture, names_before: str
) -> None:
    for letter in "abc":
        (shards / letter).mkdir()
        (shards / f"{letter}.tar").rename(shards / letter / "train-0.tar")

    def mix(letters: str) -> dict[str, float]:
        return {f"{shards}/{letter}/train-0.tar": 1 for letter in letters}

    whole = run_of(shards, mix("ab"))
    truth = [key for epoch in range(4) for key in keys_of(whole, epoch)]
    first = run_of(shards, mix("ab"))
    begun = keys_of(first, 0, 3)
    state = first.state_dict()
    letters = "bc"
    if names_before == "without folders":  # then the order of the sets has to tell
        letters = "ab"
        for one in state["order"]["sets"]:
            one[:] = [[name.rpartition("/")[2], size] for name, size in one]
    second = run_of(shards, mix(letters), state)
    keys = [*begun, *keys_of(second, 0), *keys_of(second, 1)]
    mine, theirs = of_set(keys, "b"), of_set(truth, "b")
    num = min(len(mine), len(theirs))
    assert num > 3
    assert mine[:num] == theirs[:num]
    assert not told.text


def test_what_changed_is_named() -> None:
    def order(*sets: tuple[tuple[str, int], ...], weights: tuple[float, ...]) -> RunOrder:
        shards = [([name for name, _ in one], [size for _, size in one]) for one in sets]
        return new_order(shards, weights, 0, 10, 2)

    before = order((("a", 4), ("b", 6)), weights=(1.0,))
    now = order((("a", 4), ("b", 5), ("c", 1)), (("d", 3),), weights=(1.0, 1.0))
    orders, changes = carried_over(before, 13, now, 20)
    assert changes == ["'c' is new, 'b' is of another length"]
    drawn = 20 - 10  # of two sets of the same weight, after 20 places, up to one
    assert abs(orders[0].shift - (20 - drawn)) <= 1  # the third pass begins, of ten samples
    assert orders[0].seed == 0
    assert abs(orders[1].shift + drawn) <= 1
    same = order((("b", 6), ("a", 4)), weights=(1.0,))
    assert carried_over(before, 13, same, 13)[1] == ["its shards come in another order"]
    assert carried_over(before, 13, before, 3) == ((SetOrder(0, 10),), [])
