"""Batches as training sees them: bad samples, epochs, ranks, workers, streams."""

from __future__ import annotations

import json
import logging
from collections import Counter

import lightning as L
import numpy as np
import pytest
import torch
from data_settings import data_module
from forked_python import start_server
from shard_factory import annotation_of, jpg_bytes, write_members, write_shard

from maskfeat.batch import SkippedSample, collate
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.folder import find_images, read_image

# Faults that make a sample unreadable; the others are read rightly.
UNREADABLE = {1: "truncated jpg", 4: "bad json", 7: "rle of another size", 9: "no masks"}


@pytest.fixture
def shards(tmp_path):
    """Two tars, members in random order."""
    write_shard(tmp_path / "train-0.tar", 10, seed=1, order="random", first_id=100)
    write_shard(tmp_path / "train-1.tar", 11, seed=2, order="random", first_id=200)
    write_shard(tmp_path / "val-0.tar", 5, seed=3, order="random", first_id=300)
    return tmp_path


def module(folder, **settings) -> ShardDataModule:
    return data_module(
        **{
            "train": str(folder / "train-*.tar"),
            "val": str(folder / "val-*.tar"),
            "batch_size": 4,
            "crop_size": 32,
            "num_points": 16,
            "num_workers": 0,
            **settings,
        }
    )


class Rank:
    """What the datamodule asks of a trainer."""

    logger = None
    training = True
    global_step = 0
    overfit_batches = 0

    def __init__(self, global_rank: int, world_size: int) -> None:
        self.global_rank, self.world_size = global_rank, world_size


def keys_of(data: ShardDataModule, epoch: int = 0) -> list[str]:
    loader = data.train_dataloader()
    loader.set_epoch(epoch)
    return [key for batch in loader for key in batch["keys"]]


def test_a_batch_holds_what_it_says(shards) -> None:
    data = module(shards)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["images"].dtype == torch.uint8
    assert batch["images"].shape == (4, 3, 32, 32)
    assert batch["membership"].shape == (4, batch["membership"].shape[1], 16)
    assert int(batch["points_yx"].min()) >= 0
    assert int(batch["points_yx"].max()) < 32
    normalized = data.on_after_batch_transfer(dict(batch), 0)["images"]
    red = batch["images"][:, 0].float() / 255
    assert torch.allclose(normalized[:, 0], (red - 0.485) / 0.229, atol=1e-5)


def test_two_ranks_read_each_sample_once_whatever_the_workers(shards) -> None:
    start_server()  # whose forks have imported torch
    expected = None
    for num_workers, start in ((0, None), (2, "fork"), (1, "spawn"), (1, "forkserver")):
        seen = []
        for rank in range(2):
            data = module(shards, batch_size=2, num_workers=num_workers, start_method=start)
            data.trainer = Rank(rank, 2)
            data.setup("fit")
            seen.append(keys_of(data))
        assert len(seen[0]) == len(seen[1]) == 10
        assert max(Counter(seen[0] + seen[1]).values()) == 1
        expected = expected or seen
        assert seen == expected


def test_examples_do_not_depend_on_how_they_are_read(shards) -> None:
    def images(**settings):
        data = module(shards, batch_size=2, **settings)
        data.setup("fit")
        return {
            key: image
            for batch in data.train_dataloader()
            for key, image in zip(batch["keys"], batch["images"], strict=True)
        }

    one, two = images(num_workers=0), images(num_workers=2)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_epochs_differ_and_a_stated_length_is_kept(shards) -> None:
    data = module(shards, epoch_images=50)
    data.setup("fit")
    first, second = keys_of(data, 0), keys_of(data, 1)
    assert len(first) == len(second) == 48
    assert first != second
    assert max(Counter(first).values()) <= 3  # 48 of 21 samples: nobody more than thrice


def test_the_state_of_the_datamodule_tells_where_the_epoch_stands(shards) -> None:
    def loader_of(data):
        data.setup("fit")
        return data.train_dataloader()

    whole = [batch["keys"] for batch in loader_of(module(shards))]
    data = module(shards)
    batches = iter(loader_of(data))
    begun = [next(batches)["keys"] for _ in range(2)]
    resumed = module(shards)
    resumed.load_state_dict(data.state_dict())
    assert begun + [batch["keys"] for batch in loader_of(resumed)] == whole
    finished = module(shards)
    finished.load_state_dict(resumed.state_dict())
    assert len(list(loader_of(finished))) == len(whole)


def test_unreadable_samples_are_skipped_counted_and_logged_once(tmp_path, caplog) -> None:
    write_shard(tmp_path / "train-0.tar", 40, seed=1, faults=UNREADABLE)
    write_shard(tmp_path / "val-0.tar", 3, seed=2)
    data = module(tmp_path, batch_size=8, max_skipped_share=0.5)
    data.setup("fit")
    with caplog.at_level(logging.WARNING, logger="maskfeat"):
        for epoch in range(3):
            loader = data.train_dataloader()
            loader.set_epoch(epoch)
            for batch in loader:
                assert len(batch["keys"]) == 8
                data.on_before_batch_transfer(batch, 0)
    assert data.skips.total == len(UNREADABLE)
    assert sum(data.skips.counts.values()) == len(UNREADABLE)
    for number in UNREADABLE:
        # By identity: where a command ran before, pytest listens at two loggers and hears twice.
        heard = {id(record): record for record in caplog.records}.values()
        mentions = [r for r in heard if f"sa_{100 + number}" in r.getMessage()]
        assert len(mentions) == 1
        assert "train-0.tar" in mentions[0].getMessage()


def test_too_many_unreadable_samples_stop_training_with_a_sentence(tmp_path) -> None:
    faults = dict.fromkeys(range(0, 40, 2), "truncated jpg")
    write_shard(tmp_path / "train-0.tar", 40, seed=1, faults=faults)
    write_shard(tmp_path / "val-0.tar", 3, seed=2)
    data = module(tmp_path, max_skipped_share=0.1)
    data.setup("fit")

    def epoch() -> None:
        for batch in data.train_dataloader():
            data.on_before_batch_transfer(batch, 0)

    with pytest.raises(RuntimeError, match="could not be read"):
        epoch()


def test_grey_cmyk_and_turned_images_are_read(tmp_path) -> None:
    faults = {0: "gray", 1: "cmyk", 2: "exif rotated", 3: "palette"}
    write_shard(tmp_path / "train-0.tar", 4, seed=1, faults=faults)
    write_shard(tmp_path / "val-0.tar", 3, seed=2)
    data = module(tmp_path)
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert len(set(batch["keys"])) == 4
    assert not batch["skipped"]


def test_streams_give_whole_batches_and_ranks_share_the_shards(shards, tmp_path) -> None:
    for number, first in enumerate((100, 200)):
        write_shard(tmp_path / f"sorted-{number}.tar", 10, seed=number, first_id=first)
    seen = []
    for rank in range(2):
        data = module(
            shards,
            train=str(tmp_path / "sorted-*.tar"),
            mode="streaming",
            epoch_images=None,  # one pass: the samples are counted
            num_readers=1,
            batch_size=2,
            num_workers=1,
        )
        data.trainer = Rank(rank, 2)
        data.setup("fit")
        loader = data.train_dataloader()
        assert len(loader) == 5
        seen.append(keys_of(data))
    assert [len(keys) for keys in seen] == [10, 10]
    assert set(seen[0]).isdisjoint(seen[1])


def test_an_unequal_pair_of_shards_is_streamed_once_by_three_readers_of_two_ranks(
    shards, tmp_path
) -> None:
    for number, (size, first) in enumerate([(13, 100), (6, 200)]):
        write_shard(tmp_path / f"sorted-{number}.tar", size, seed=number, first_id=first)
    everything = {f"sa_{100 + i}" for i in range(13)} | {f"sa_{200 + i}" for i in range(6)}
    for epoch in range(3):
        seen = []
        for rank in range(2):
            data = module(
                shards,
                train=str(tmp_path / "sorted-*.tar"),
                mode="streaming",
                epoch_images=None,
                num_readers=3,
                batch_size=2,
                num_workers=0,
            )
            data.trainer = Rank(rank, 2)
            data.setup("fit")
            data.train_dataloader().set_epoch(epoch)
            seen += [key for batch in data._train_loader for key in batch["keys"]]
        assert len(seen) == len(set(seen)) == 16  # four steps; three samples are left over
        assert set(seen) <= everything


def test_held_out_images_are_split_over_ranks_without_repeats(shards) -> None:
    keys = []
    for rank in range(2):
        data = module(shards)
        data.trainer = Rank(rank, 2)
        data.setup("validate")
        keys.append([key for batch in data.val_dataloader() for key in batch["keys"]])
    assert sorted(keys[0] + keys[1]) == [f"sa_{300 + number}" for number in range(5)]


def test_an_unreadable_held_out_sample_is_replaced_by_the_next(tmp_path) -> None:
    write_shard(tmp_path / "train-0.tar", 4, seed=1)
    write_shard(tmp_path / "val-0.tar", 5, seed=2, faults={4: "truncated jpg"})
    data = module(tmp_path)
    data.setup("validate")
    batches = list(data.val_dataloader())
    assert [len(batch["keys"]) for batch in batches] == [4, 1]
    assert batches[1]["keys"] == ["sa_100"]
    assert [skipped.key for skipped in batches[1]["skipped"]] == ["sa_104"]


def test_fewer_held_out_images_than_devices_are_refused(shards) -> None:
    data = module(shards, num_val_images=1)
    data.trainer = Rank(0, 2)
    with pytest.raises(ValueError, match="fewer than the 2 devices"):
        data.setup("fit")


def test_the_same_seed_gives_the_same_training_batches(shards) -> None:
    def first_points(seed):
        data = module(shards, seed=seed)
        data.setup("fit")
        return next(iter(data.train_dataloader()))["points_yx"]

    assert torch.equal(first_points(3), first_points(3))
    assert not torch.equal(first_points(3), first_points(4))


def test_a_batch_without_any_example_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="no sample of a batch could be read"):
        collate([[SkippedSample("bad jpg", "a.tar", "k", "cut short")]])


def test_a_loader_without_a_trainer_reads_alone(shards) -> None:
    assert isinstance(module(shards), L.LightningDataModule)
    data = module(shards)
    data.setup("fit")
    assert len(keys_of(data)) == 20


def test_images_are_found_and_what_is_none_is_said(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nothing to predict on"):
        find_images(None)
    with pytest.raises(FileNotFoundError, match="no image"):
        find_images(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        read_image(tmp_path / "a.png")
    assert np.array_equal(find_images(str(tmp_path / "a.png")), [tmp_path / "a.png"])


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("num_points", 1, "at least 2, got 1"),
        ("max_masks", 0, "at least 1, got 0"),
        ("crop_size", 0, "at least 1, got 0"),
        ("crop_size", -5, "at least 1, got -5"),
        ("batch_size", 0, "at least 1, got 0"),
        ("epoch_images", 0, "at least 1, got 0"),
        ("num_train_images", 0, "at least 1, got 0"),
        ("num_val_images", 0, "at least 1, got 0"),
        ("short_side", 0, "at least 1, got 0"),
        ("num_readers", 0, "at least 1, got 0"),
        ("num_workers", -1, "at least 0, got -1"),
        ("border_share", 1.5, "between 0 and 1, got 1.5"),
        ("max_skipped_share", -0.1, "between 0 and 1, got -0.1"),
    ],
)
def test_a_number_out_of_range_is_refused_with_its_setting(tmp_path, name, value, told) -> None:
    with pytest.raises(ValueError, match=rf"data\.[a-z.]*{name} must (be|lie) {told}"):
        module(tmp_path, **{name: value})


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_crowds_are_trained_on_where_they_are_wanted(tmp_path, mode) -> None:
    """Points lie in the one mask, which holds half the image, or in none."""
    mask = np.zeros((1, 40, 40), bool)
    mask[0, :, :20] = True
    content = annotation_of(mask, extra=[{"iscrowd": 1}])
    tar = [("a.jpg", jpg_bytes(np.zeros((40, 40, 3), np.uint8)))]
    write_members(tmp_path / "train-0.tar", [*tar, ("a.json", json.dumps(content).encode())])
    wanted = {"mode": mode, "batch_size": 1, "num_readers": 1, "val": str(tmp_path / "train-*.tar")}
    data = module(tmp_path, **wanted, keep_crowds=True)
    data.setup("fit")
    assert next(iter(data.train_dataloader()))["membership"].any()
    data = module(tmp_path, **wanted)
    data.setup("fit")
    with pytest.raises(RuntimeError, match="all annotations are crowds"):
        next(iter(data.train_dataloader()))


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_crowds_that_are_left_out_are_counted_once(tmp_path, mode) -> None:
    masks = np.zeros((3, 40, 40), bool)
    masks[0, :, :20] = masks[1, :10] = masks[2, 20:30] = True
    content = annotation_of(masks, extra=[{"iscrowd": 1}, {}, {"iscrowd": 1}])
    jpg = ("a.jpg", jpg_bytes(np.zeros((40, 40, 3), np.uint8)))
    write_members(tmp_path / "train-0.tar", [jpg, ("a.json", json.dumps(content).encode())])
    wanted = {"mode": mode, "batch_size": 1, "num_readers": 1, "val": str(tmp_path / "train-*.tar")}
    data = module(tmp_path, **wanted)
    data.setup("fit")
    for _ in range(2):
        for batch in data.train_dataloader():
            data.on_before_batch_transfer(batch, 0)
    assert data.skips.metrics() == {"data/skipped": 0, "data/left_out/crowd": 2}
    resumed = module(tmp_path, **wanted)
    resumed.load_state_dict(data.state_dict())
    assert resumed.skips.num_crowds == 2
