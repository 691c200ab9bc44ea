"""1,000 shards on 64 ranks of 8 workers, with the very code that deals samples out in training.

    python experiments/scale/simulate.py --out experiments/scale

No image is read. Indexed mode is simulated at the full size of SA-1B: every place of one pass, by
the sampler of every rank. Streaming mode runs the real readers over shards of unequal sizes whose
samples are bare numbers, a hundredth as many. Either is stopped at random steps and gone on from,
with another number of workers, and indexed mode with another number of ranks, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from maskfeat.data.order import streaming as reading
from maskfeat.data.order.loaders import EpochSampler
from maskfeat.data.order.plan import StreamPlan
from maskfeat.data.order.run_order import new_order
from maskfeat.data.order.schedule import batches_of_worker, sample_at
from maskfeat.data.order.streaming import StreamReader
from maskfeat.data.shards.count import CountedShard

Rows = dict[str, Any]


def indexed(
    num_shards: int,
    per_shard: int,
    world_size: int,
    num_workers: int,
    batch_size: int,
    num_resumes: int,
    seed: int = 0,
) -> Rows:
    """One pass in indexed mode.

    Args:
        num_shards: Shards of the set.
        per_shard: Samples in each.
        world_size: Ranks.
        num_workers: Workers of each; a loader gives them the batches in turn.
        batch_size: Images in a batch of a rank.
        num_resumes: How often the pass is stopped at a random step.
        seed: Of the order, and of where it is stopped.

    Returns:
        Its properties, by name.
    """
    rng = np.random.default_rng(seed)
    total, step = num_shards * per_shard, batch_size * world_size
    order = first_pass(total, seed)
    counts = np.zeros(total, np.uint8)
    batches = []
    for rank in range(world_size):
        places = places_after(0, total, batch_size, rank, world_size)
        batches.append(len(places) / batch_size)
        np.add.at(counts, order[places], 1)
    num_steps = total // step
    asked = rng.integers(0, total, 1000)
    assert all(order[place] == sample_at(int(place), total, seed) for place in asked)

    num_wrong = 0
    for number in range(num_resumes):
        done = int(rng.integers(0, num_steps))
        new_world = (world_size, world_size // 2, world_size * 2)[number % 3]
        new_batch = step // new_world
        seen = np.zeros(total, np.uint8)
        for rank in range(world_size):
            places = places_after(0, total, batch_size, rank, world_size)
            seen[places[: done * batch_size]] += 1
        for rank in range(new_world):
            seen[places_after(done, total, new_batch, rank, new_world)] += 1
        num_wrong += int((seen[: num_steps * step] != 1).sum() + (seen[num_steps * step :]).sum())
    of_worker = np.bincount(np.arange(num_steps) % num_workers, minlength=num_workers)
    return {
        "samples": total,
        "read once": int((counts == 1).sum()),
        "read twice or more": int((counts > 1).sum()),
        "left over, less than a global batch": int((counts == 0).sum()),
        "batches per rank, least and most": [int(min(batches)), int(max(batches))],
        "batches per worker, least and most": [int(of_worker.min()), int(of_worker.max())],
        "resumes": num_resumes,
        "samples lost or repeated by them": num_wrong,
    }


def first_pass(total: int, seed: int) -> np.ndarray:
    """The samples of the first pass, in order."""
    from maskfeat.data.order import schedule

    return schedule._shuffled(total, seed, 0)


def places_after(
    num_done: int, total: int, batch_size: int, rank: int, world_size: int
) -> np.ndarray:
    """Indices that a rank's sampler gives after a number of batches."""
    sampler = EpochSampler(total, batch_size, rank, world_size)
    sampler.num_done = num_done
    rest = sampler._indices()[num_done * batch_size :]
    first = list(itertools.islice(iter(sampler), 3))
    assert first == list(rest[:3])  # what iteration gives, without a Python loop over all of it
    return np.arange(rest.start, rest.stop, rest.step)


class Readings:
    """Reads shards of bare numbers with the real readers, and keeps count of it.

    Attributes:
        opened: How many shards each reader opened, shape (epochs, ranks, readers).
        passed_over: Samples that were skipped at the start of shards, by all of them.
        is_counted: Whether to count just now.

    Args:
        sizes: Samples of each shard, (S,).
        shape: Of `opened`.
    """

    def __init__(self, sizes: np.ndarray, shape: tuple[int, int, int]) -> None:
        self.opened = np.zeros(shape, int)
        self.passed_over = 0
        self.is_counted = True
        self._firsts = np.cumsum(sizes) - sizes
        self._at_work = (0, 0, 0)

    def raw_samples(self, url: str, source: object, wanted: range) -> Iterator[Any]:
        """In place of `streaming.raw_samples`: samples are numbers."""
        self.opened[self._at_work] += self.is_counted
        self.passed_over += wanted.start * self.is_counted
        for place in wanted:
            yield place, self._firsts[int(url)] + place

    def batches(
        self,
        plan: StreamPlan,
        epoch: int,
        wanted: range,
        num_workers: int,
        reader_states: list[Any],
    ) -> list[Any]:
        """Batches of a rank, in the order of its loader; moves `reader_states`."""
        num_readers = plan.num_readers
        own = {n: StreamReader(plan, n, epoch, reader_states[n]) for n in range(num_readers)}
        streams = {n: iter(reader) for n, reader in own.items()}
        turns = [
            batches_of_worker(worker, num_workers, num_readers, wanted.start, wanted.stop)
            for worker in range(num_workers)
        ]
        given = []
        for batch in itertools.chain.from_iterable(itertools.zip_longest(*turns)):
            if batch is not None:
                name = batch % num_readers
                self._at_work = (epoch, plan.rank, name)
                samples = itertools.islice(streams[name], plan.batch_size)
                given.append([raw for raw, _ in samples])
                reader_states[name] = own[name].reader_state
        return given

    def num_changed_by_a_stop(
        self,
        plan: StreamPlan,
        epoch: int,
        whole: list[Any],
        num_workers: int,
        rng: np.random.Generator,
    ) -> int:
        """Stop a rank at a random batch, go on with another number of workers, and compare."""
        done, states = int(rng.integers(1, len(whole))), [plan.start()] * plan.num_readers
        first = self.batches(plan, epoch, range(done), num_workers, states)
        workers = int(rng.integers(1, plan.num_readers + 1))
        rest = self.batches(plan, epoch, range(done, len(whole)), workers, states)
        return sum(one != other for one, other in zip(whole, first + rest, strict=True))


def streaming(
    num_shards: int,
    per_shard: int,
    world_size: int,
    num_workers: int,
    num_readers: int,
    batch_size: int,
    num_resumes: int,
    num_epochs: int = 4,
    seed: int = 0,
) -> Rows:
    """Epochs in streaming mode, each as long as the set.

    Args:
        num_shards: Shards of the set.
        per_shard: Samples in each on average; sizes differ by up to a tenth.
        world_size: Ranks.
        num_workers: Workers of each.
        num_readers: Readers of each.
        batch_size: Images in a batch of a rank.
        num_resumes: How many ranks are stopped at a random batch.
        num_epochs: How many epochs are read.
        seed: Of the order, and of where it is stopped.

    Returns:
        Its properties, by name.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(round(0.9 * per_shard), round(1.1 * per_shard) + 1, num_shards)
    total, names = int(sizes.sum()), [str(number) for number in range(num_shards)]
    shards = tuple(map(CountedShard, names, sizes.tolist()))
    order = new_order([(names, sizes)], [1.0], seed, total, batch_size * world_size)
    buffer = max(1, per_shard // 10)
    plans = [
        StreamPlan((shards,), order, rank, world_size, num_readers, buffer)
        for rank in range(world_size)
    ]
    readings = Readings(sizes, (num_epochs, world_size, num_readers))
    counts = np.zeros((num_epochs, total), np.uint8)
    lengths, lost = [], 0
    stopped = set(rng.permutation(world_size)[:num_resumes].tolist())
    with mock.patch.object(reading, "raw_samples", readings.raw_samples):
        for plan, epoch in itertools.product(plans, range(num_epochs)):
            states, all_of_it = [plan.start()] * num_readers, range(order.num_steps)
            readings.is_counted = True
            whole = readings.batches(plan, epoch, all_of_it, num_workers, states)
            np.add.at(counts[epoch], np.concatenate(whole), 1)
            lengths.append(len(whole))
            if plan.rank in stopped:
                readings.is_counted = False
                lost += readings.num_changed_by_a_stop(plan, epoch, whole, num_workers, rng)
    return {
        "samples": total,
        "read once in each epoch, least": int((counts == 1).sum(1).min()),
        "read twice or more in an epoch, most": int((counts > 1).sum(1).max()),
        "left over in an epoch, most": int((counts == 0).sum(1).max()),
        "batches per rank and epoch, least and most": [min(lengths), max(lengths)],
        "shards opened per reader and epoch, least and most": [
            int(readings.opened.min()),
            int(readings.opened.max()),
        ],
        "passed over, share of what is read": readings.passed_over / counts.sum(dtype=int),
        "resumes": num_resumes * num_epochs,
        "batches that differ after resumes": lost,
    }


def table(found: dict[str, Rows]) -> str:
    """Markdown."""
    lines = ["| mode | what | figure |", "|---|---|--:|"]
    for mode, rows in found.items():
        for name, value in rows.items():
            lines.append(f"| {mode} | {name} | {_text(value)} |")
    return "\n".join(lines) + "\n"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_text, value))
    return f"{value:.2%}" if isinstance(value, float) else f"{value:,}"


def main() -> None:
    """Simulate both modes, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for simulation.json, .md")
    parser.add_argument("--num_shards", type=int, default=1000)
    parser.add_argument("--per_shard", type=int, default=11186, help="samples in each")
    parser.add_argument("--world_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_resumes", type=int, default=6)
    options = parser.parse_args()
    start = time.perf_counter()
    sizes = (options.num_shards, options.world_size, options.num_workers, options.batch_size)
    num_shards, world_size, num_workers, batch_size = sizes
    found = {
        "indexed": indexed(
            num_shards,
            options.per_shard,
            world_size,
            num_workers,
            batch_size,
            options.num_resumes,
        ),
        "streaming": streaming(
            num_shards,
            max(1, options.per_shard // 100),
            world_size,
            num_workers,
            num_workers,
            batch_size,
            options.num_resumes,
        ),
    }
    text = table(found)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "simulation.md").write_text(text)
    (options.out / "simulation.json").write_text(json.dumps(found, indent=1) + "\n")
    print(text)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
