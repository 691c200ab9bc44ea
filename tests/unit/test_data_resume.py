"""The datamodule goes on in mid-epoch, in both modes; several sets; what is skipped is counted."""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
import yaml
from lightning.pytorch.loops.fit_loop import _FitLoop
from shard_factory import FAULTS, write_shard
from test_datamodule import Rank, module

from maskfeat.batch import SkippedSample
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.order.skips import SkipLedger

STREAM = {"mode": "streaming", "epoch_images": 24, "num_readers": 2, "shuffle_buffer": 4}
INDEXED = {"mode": "indexed", "epoch_images": 24}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    for number in range(4):
        path = tmp_path / f"train-{number}.tar"
        write_shard(path, 6, number, first_id=100 * (number + 1), size=(36, 40), num_masks=2)
    write_shard(tmp_path / "val-0.tar", 4, seed=9, first_id=900)
    return tmp_path


def at_work(folder: Path, rank: int = 0, world_size: int = 1, **settings: Any) -> ShardDataModule:
    data = module(folder, **{"batch_size": 2, **settings})
    data.trainer = Rank(rank, world_size)
    data.setup("fit")
    return data


def epoch_of(data: ShardDataModule, epoch: int, num: int | None = None) -> list[tuple]:
    """Keys and points of the batches of an epoch, or its first few."""
    loader = data._train_loader or data.train_dataloader()
    loader.set_epoch(epoch)
    found = []
    for batch in loader:
        found.append((*batch["keys"], *batch["points_yx"].flatten().tolist()))
        if len(found) == num:
            break
    return found


def through_disk(state: dict, folder: Path) -> dict:
    torch.save(state, folder / "state.ckpt")
    loaded: dict = torch.load(folder / "state.ckpt", weights_only=True)
    return loaded


@pytest.mark.parametrize("settings", [INDEXED, STREAM], ids=["indexed", "streaming"])
@pytest.mark.parametrize("stop", [1, 10])
def test_a_checkpoint_goes_on_exactly_with_another_number_of_workers(
    shards: Path, settings: dict, stop: int
) -> None:
    whole = at_work(shards, **settings)
    unbroken = [batch for epoch in range(3) for batch in epoch_of(whole, epoch)]
    assert len(unbroken) == 36

    first = at_work(shards, num_workers=stop % 2, **settings)
    begun = [*epoch_of(first, 0), *epoch_of(first, 1, stop)]
    state = through_disk(first.state_dict(), shards)
    assert (state["epoch"], state["num_batches"], state["seed"]) == (1, stop, 0)
    second = at_work(shards, num_workers=(stop + 1) % 2, **settings)
    second.load_state_dict(state)
    rest = [*epoch_of(second, 1), *epoch_of(second, 2)]
    assert begun + rest == unbroken


@pytest.mark.parametrize("settings", [INDEXED, STREAM], ids=["indexed", "streaming"])
def test_a_checkpoint_at_the_end_of_an_epoch_goes_on_with_the_next(
    shards: Path, settings: dict
) -> None:
    first = at_work(shards, **settings)
    epoch_of(first, 0)
    state = through_disk(first.state_dict(), shards)
    expected = epoch_of(first, 1)
    second = at_work(shards, **settings)
    second.load_state_dict(state)
    assert second.train_dataloader() is second._train_loader
    assert second.state_dict()["num_batches"] == 12  # nothing is lost by a second checkpoint
    assert epoch_of(second, 1) == expected


def test_a_batch_that_was_not_trained_on_is_read_again(shards: Path) -> None:
    """As when a signal asks for a checkpoint in mid-step."""
    for settings in (INDEXED, STREAM):
        unbroken = epoch_of(at_work(shards, **settings), 0)
        first = at_work(shards, **settings)
        loop = _FitLoop(trainer=None)  # type: ignore[arg-type]
        first.trainer.fit_loop = loop  # type: ignore[union-attr]
        loop.epoch_loop.batch_progress.total.processed = 7  # of epochs before
        epoch_of(first, 0, 5)
        loop.epoch_loop.batch_progress.total.processed += 4
        state = first.state_dict()
        second = at_work(shards, **settings)
        second.load_state_dict(state)
        assert epoch_of(second, 0) == unbroken[4:]


def test_indexed_mode_goes_on_with_another_number_of_ranks(shards: Path) -> None:
    def steps(world_size: int, state: dict | None, num: int | None) -> tuple[list[set], dict]:
        found, batch_size = [], 4 // world_size
        for rank in range(world_size):
            data = at_work(shards, rank, world_size, batch_size=batch_size, epoch_images=24)
            if state is not None:
                data.load_state_dict(state)
            found.append([set(one[:batch_size]) for one in epoch_of(data, 0, num)])
        return [set.union(*one) for one in zip(*found, strict=True)], data.state_dict()

    unbroken, _ = steps(1, None, None)
    begun, state = steps(2, None, 2)
    rest, _ = steps(4, state, None)
    assert begun + rest == unbroken


def test_old_checkpoints_are_read_and_what_cannot_be_exact_is_said(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = epoch_of(at_work(shards, **INDEXED), 0)
    old = at_work(shards, **INDEXED)
    old.load_state_dict({"num_batches": 3})
    assert epoch_of(old, 0) == whole[3:]

    with caplog.at_level(logging.WARNING, "maskfeat"):
        streamed = at_work(shards, **STREAM)
        streamed.load_state_dict({"num_batches": 3})
        assert len(epoch_of(streamed, 0)) == 9
        assert "for the rest of this epoch images may come again" in caplog.text
        other = at_work(shards, **INDEXED, seed=5)
        epoch_of(other, 0, 3)
        larger = at_work(shards, **{**INDEXED, "batch_size": 4})
        larger.load_state_dict(other.state_dict())
        epoch_of(larger, 0, 1)
        assert "data.seed was 5 in the checkpoint and is 0 now" in caplog.text
        assert "a step had 2 images of all devices in the checkpoint and has 4" in caplog.text


@pytest.mark.parametrize(
    "change", [{"num_readers": 3}, {"shuffle_buffer": 5}, {"epoch_images": 22}, {"batch_size": 1}]
)
def test_a_stream_that_is_dealt_out_otherwise_says_so_and_the_next_epoch_is_whole_again(
    shards: Path, caplog: pytest.LogCaptureFixture, change: dict
) -> None:
    first = at_work(shards, **STREAM)
    epoch_of(first, 0, 5)
    settings = {**STREAM, **change}
    resumed = at_work(shards, **settings)
    resumed.load_state_dict(through_disk(first.state_dict(), shards))
    with caplog.at_level(logging.WARNING, "maskfeat"):
        rest = epoch_of(resumed, 0)
    assert "for the rest of this epoch images may come again" in caplog.text
    num_done = 5 * 2 // settings.get("batch_size", 2)
    assert len(rest) == len(resumed._train_loader) - num_done
    assert epoch_of(resumed, 1) == epoch_of(at_work(shards, **settings), 1)


@pytest.mark.parametrize("settings", [INDEXED, STREAM], ids=["indexed", "streaming"])
def test_sets_are_mixed_by_weight_in_both_modes(shards: Path, settings: dict) -> None:
    train = {
        f"{shards}/train-0.tar": 1,
        "rest": {"shards": [f"{shards}/train-1.tar", f"{shards}/train-2.tar"], "weight": 3},
    }
    if settings is INDEXED:
        train = {f"{shards}/train-0.tar": 1, f"{shards}/train-[12].tar": 3}
    data = at_work(shards, train=train, **{**settings, "epoch_images": 48})
    keys = [key for one in (*epoch_of(data, 0), *epoch_of(data, 1)) for key in one[:2]]
    assert abs(sum(key < "sa_2" for key in keys) - 24) <= 2
    counts = Counter(keys)
    assert set(counts) == {f"sa_{100 * s + i}" for s in (1, 2, 3) for i in range(6)}
    for first in (True, False):  # each set in its own endless order
        each = [num for key, num in counts.items() if (key < "sa_2") == first]
        assert max(each) - min(each) <= 1

    broken = at_work(shards, train=train, **{**settings, "epoch_images": 48})
    begun = epoch_of(broken, 0, 7)
    resumed = at_work(shards, train=train, num_workers=1, **{**settings, "epoch_images": 48})
    resumed.load_state_dict(broken.state_dict())
    again = [key for one in begun + epoch_of(resumed, 0) for key in one[:2]]
    assert again == keys[:48]


def test_a_wrong_weight_stops_before_anything_starts(shards: Path) -> None:
    with pytest.raises(ValueError, match="must be a number above 0, got -1"):
        at_work(shards, train={f"{shards}/train-0.tar": -1})


def test_mixtures_are_typed_or_written_in_configs(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from maskfeat.cli import main
    from maskfeat.data.training_set import sets_of

    (shards / "mix.yaml").write_text(
        "data:\n  class_path: maskfeat.data.datamodule.ShardDataModule\n  init_args:\n    train:\n"
        "      small: {shards: '${data_root}/train-0.tar', weight: 0.7}\n"
        "      large: {shards: ['${data_root}/train-[12].tar'], weight: 0.3}\n"
    )
    base = Path(__file__).parents[2] / "conf/base.yaml"
    first, second = f"{shards}/train-0.tar", f"{shards}/train-[12].tar"
    for word in ("--config=mix.yaml", f"--data.train={{'{first}': 0.7, '{second}': 0.3}}"):
        monkeypatch.chdir(shards)
        words = ["fit", f"--config={base}", word, f"--data_root={shards}", "--print_config"]
        monkeypatch.setattr(sys, "argv", ["lightning", *words])
        with pytest.raises(SystemExit):
            main()
        train = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["train"]
        (one, other) = sets_of(train)
        assert one[:2] == (first, 0.7)
        assert other[:2] in ((second, 0.3), ([second], 0.3))


def write_faulty(folder: Path, num: int = 210) -> Counter[str]:
    """A tenth of the samples faulty, every fault among them; how often each reason comes."""
    rng = np.random.default_rng(0)
    names = [*FAULTS]
    places = rng.permutation(num)[: num // 10]
    faults = {int(place): names[i % len(names)] for i, place in enumerate(places)}
    write_shard(folder / "train-0.tar", num, 1, faults=faults, size=(36, 40), num_masks=2)
    write_shard(folder / "val-0.tar", 4, 2)
    return Counter(reason for fault in faults.values() if (reason := FAULTS[fault]))


@pytest.mark.parametrize("mode", ["indexed", "streaming"])
def test_a_tar_with_every_fault_trains_through_with_an_exact_count(
    tmp_path: Path, mode: str
) -> None:
    truth = write_faulty(tmp_path)
    assert len(set(truth)) == len({reason for reason in FAULTS.values() if reason})
    settings = {"mode": mode, "epoch_images": 210, "num_workers": 2, "num_readers": 2}
    data = at_work(tmp_path, max_skipped_share=0.5, batch_size=5, **settings)
    for batch in data.train_dataloader():
        data.on_before_batch_transfer(batch, 0)
    assert data.skips.counts == truth
    again = at_work(tmp_path, max_skipped_share=0.5, **settings)
    again.load_state_dict(through_disk(data.state_dict(), tmp_path))
    assert again.skips.counts == truth  # a resumed run goes on counting, and counts nothing twice
    assert again.skips.total == sum(truth.values())


def test_too_many_incomplete_samples_stop_before_training(tmp_path: Path) -> None:
    faults = dict.fromkeys(range(0, 40, 2), "missing json")
    write_shard(tmp_path / "train-0.tar", 40, seed=1, faults=faults)
    write_shard(tmp_path / "val-0.tar", 3, seed=2)
    with pytest.raises(RuntimeError, match=r"20 of 40 samples could not be read \(20 incomplete"):
        at_work(tmp_path)


def _count_on_two_ranks(rank: int, folder: str) -> None:
    address = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", address, rank=rank, world_size=2)
    try:
        data = at_work(
            Path(folder),
            rank,
            2,
            epoch_images=210,
            batch_size=5,
            max_skipped_share=0.5,
            **{
                "mode": "streaming",
                "num_readers": 2,
            },
        )
        data.trainer.log_every_n_steps = 7  # type: ignore[union-attr]
        for batch in data.train_dataloader():
            data.on_before_batch_transfer(batch, 0)
        state = data.state_dict()
        own = data.skips._met.total()
        Path(folder, f"{rank}.json").write_text(
            json.dumps(
                {"counts": data.skips.counts, "own": own, "reader_states": state["reader_states"]}
            )
        )
    finally:
        torch.distributed.destroy_process_group()


def test_two_processes_count_what_either_skipped_and_know_all_readers(tmp_path: Path) -> None:
    truth = write_faulty(tmp_path)
    torch.multiprocessing.start_processes(
        _count_on_two_ranks, (str(tmp_path),), nprocs=2, start_method="fork"
    )
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0]["counts"] == found[1]["counts"] == dict(truth)
    assert 0 < found[0]["own"] < sum(truth.values())  # neither has met them all
    assert found[0]["reader_states"] == found[1]["reader_states"]
    assert [len(own) for own in found[0]["reader_states"]] == [2, 2]


def test_what_is_restored_counts_once() -> None:
    ledger = SkipLedger()
    ledger.restore([("bad jpg", "a.tar", "k")])
    ledger.add(SkippedSample("bad jpg", "a.tar", "k", "cut"))
    assert ledger.total == 1
    assert ledger.entries() == [("bad jpg", "a.tar", "k", 0)]
