"""Fits that are killed again and again, around the ends of epochs, too: as if never killed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from killed_fits import Regression, live
from shard_factory import write_shard
from test_datamodule import module

from maskfeat.data.datamodule import ShardDataModule

# Ten steps an epoch, of 21 samples: one is left over.
SETTINGS = {"batch_size": 2, "epoch_images": 20, "num_readers": 2, "shuffle_buffer": 3}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(3):
        path = tmp_path / f"train-{number}.tar"
        write_shard(path, 7, number, first_id=100 * (number + 1), size=(36, 40), num_masks=2)
    write_shard(tmp_path / "val-0.tar", 2, seed=9, first_id=900)
    return tmp_path


def data_of(folder: Path, mode: str) -> ShardDataModule:
    return module(folder, mode=mode, **SETTINGS)


def history(lives: list[Regression]) -> dict:
    """Epoch and keys of each step; of those done again after a kill the last counts."""
    return {number: rest for task in lives for number, *rest in task.seen}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_kills_around_the_end_of_an_epoch_repeat_nothing(shards: Path, mode: str) -> None:
    whole, _ = live(shards / "whole", data_of(shards, mode))
    assert len(whole.seen) == 30
    lives = []
    for hook, step in [
        ("on_validation_start", 10),  # the last checkpoint is that of the epoch's last step
        ("on_train_batch_start", 12),
        ("on_train_batch_start", 13),
        ("on_train_epoch_end", 20),
        ("never", 0),
    ]:
        task, is_done = live(
            shards / "broken",
            data_of(shards, mode),
            lambda name, now, _, hook=hook, step=step: (name, now) == (hook, step),
        )
        lives.append(task)
        assert is_done == (hook == "never")
    assert [len(task.seen) for task in lives] == [10, 2, 1, 7, 10]
    assert history(lives) == history([whole])
    assert torch.equal(task.net.weight, whole.net.weight)
    assert lives[3].validated == [1]  # the epoch that was resumed in its middle ends as others do


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["indexed", "streaming"])
@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 27}])
def test_fourteen_random_kills_change_nothing(shards: Path, mode: str, limit: dict) -> None:
    whole, _ = live(shards / "whole", data_of(shards, mode), **limit)
    rng = np.random.default_rng(3)
    lives = []
    for _ in range(14):
        last = int(rng.integers(1, 13))
        task, is_done = live(
            shards / "broken",
            data_of(shards, mode),
            lambda *now, last=last: now[2] == last,
            **limit,
        )
        lives.append(task)
        assert not is_done
    lives.append(live(shards / "broken", data_of(shards, mode), **limit)[0])
    assert history(lives) == history([whole])
    assert torch.equal(lives[-1].net.weight, whole.net.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["indexed", "streaming"])
@pytest.mark.parametrize(
    "first", [{"max_epochs": -1, "max_steps": 14}, {"max_epochs": 2}, {"max_epochs": 1}]
)
def test_a_fit_that_ended_goes_on_where_it_ended(shards: Path, mode: str, first: dict) -> None:
    whole, _ = live(shards / "whole", data_of(shards, mode))
    lives = [
        live(shards / "broken", data_of(shards, mode), every=8, **limit)[0]
        for limit in (first, {"max_epochs": 3})
    ]
    assert sum(len(task.seen) for task in lives) == 30  # no step was done again
    assert history(lives) == history([whole])
    assert torch.equal(lives[-1].net.weight, whole.net.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_an_exact_resume_is_not_called_unreliable(
    shards: Path, mode: str, recwarn: pytest.WarningsRecorder
) -> None:
    live(shards / "broken", data_of(shards, mode), lambda _, step, num_hooks: step == 3)
    _, is_done = live(shards / "broken", data_of(shards, mode), max_epochs=1)
    assert is_done
    assert not [str(one.message) for one in recwarn if "resum" in str(one.message)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["indexed", "streaming"])
@pytest.mark.parametrize(("amount", "num_batches"), [(1, 1), (2, 2), (0.3, 3)])
def test_overfitted_batches_are_the_same_in_all_epochs(
    shards: Path, mode: str, amount: float, num_batches: int
) -> None:
    write_shard(shards / "val-0.tar", 14, seed=9, first_id=900, size=(36, 40))
    task, _ = live(shards / "whole", data_of(shards, mode), overfit_batches=amount)
    keys = [one[2] for one in task.seen]
    assert keys == keys[:num_batches] * 3
    assert len({*keys}) == num_batches

    killed, _ = live(
        shards / "broken",
        data_of(shards, mode),
        lambda _, step, num_hooks: step == 2 * num_batches - 1,
        overfit_batches=amount,
    )
    rest, _ = live(shards / "broken", data_of(shards, mode), overfit_batches=amount)
    assert history([killed, rest]) == history([task])
    assert torch.equal(rest.net.weight, task.net.weight)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", ["indexed", "streaming"])
@pytest.mark.parametrize(
    ("change", "num_steps"), [({"batch_size": 4}, 3), ({"batch_size": 1}, 12), ({}, 6)]
)
def test_with_steps_of_another_size_an_epoch_goes_on_to_its_end(
    shards: Path, mode: str, change: dict, num_steps: int
) -> None:
    """Lightning's own count of steps would end it too early, or without validation."""
    live(shards / "broken", data_of(shards, mode), lambda _, step, num_hooks: step == 5)
    data = module(shards, mode=mode, **{**SETTINGS, **change})
    rest, _ = live(shards / "broken", data, max_epochs=2)
    assert [one[1] for one in rest.seen].count(0) == num_steps
    assert [one[1] for one in rest.seen].count(1) == 20 // change.get("batch_size", 2)
    assert rest.validated == [0, 1]
