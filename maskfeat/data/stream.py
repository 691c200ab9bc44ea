"""The stream: sorted tars read front to back, from disk or over the network, by webdataset.

Who reads what is decided here and not by webdataset: its splits keep a worker on the same shards
for ever, and know the rank only in the training process, not in workers started by spawn.
"""

from __future__ import annotations

import contextlib
import logging
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Generic, NamedTuple, TypeVar

import fsspec
import numpy as np
import torch
from torch.utils.data import IterableDataset
from webdataset.gopen import gopen
from webdataset.tariterators import tar_file_iterator

from maskfeat.batch import SkippedSample
from maskfeat.data.index import member_key
from maskfeat.data.sample import AnnotatedImage, SampleError, read_sample
from maskfeat.data.shards import expand_shards, is_url

_LOG = logging.getLogger("maskfeat")
T = TypeVar("T")


def stream_samples(
    urls: str | Sequence[str], allow_pipe: bool = False
) -> Iterator[AnnotatedImage | SkippedSample]:
    """Read shards front to back, once.

    Args:
        urls: Paths or urls of sorted tars, as in `maskfeat.data.shards.expand_shards`.
        allow_pipe: Let `pipe:COMMAND` run a shell command and read what it prints.

    Yields:
        Each sample, or why it could not be read.

    Raises:
        FileNotFoundError: If a shard is missing.
        ValueError: If a shard is no tar, is not sorted or has no complete sample, or for a
            `pipe:` that is not allowed.
    """
    for url in expand_shards(urls, allow_pipe):
        for raw in _raw_samples(url, allow_pipe):
            yield raw if isinstance(raw, SkippedSample) else _read(raw)


class StreamedShards(IterableDataset[T | SkippedSample], Generic[T]):
    """An endless stream of samples out of sorted shards, split over ranks and workers.

    Each pass shuffles all shards and deals them out to the consumers, that is to every worker of
    every rank; where there are fewer shards than consumers, each shard is dealt out in parts,
    every n-th sample to one. So a sample is read once per pass. Order and randomness are a
    function of (seed, epoch, pass, rank, worker).

    Args:
        shards: As in `stream_samples`.
        seed: Of all randomness.
        rank: This process.
        world_size: Number of processes.
        shuffle_buffer: Samples held to be shuffled, as files (a megabyte each for SA-1B); 1 keeps
            the order of the shards.
        allow_pipe: As in `stream_samples`.
        transform: Makes of a sample what is to be given; may raise `SampleError`. Its generator
            depends on the seed, epoch, pass and key alone.
    """

    def __init__(
        self,
        shards: str | Sequence[str],
        seed: int,
        rank: int,
        world_size: int,
        shuffle_buffer: int = 200,
        allow_pipe: bool = False,
        *,
        transform: Callable[[AnnotatedImage, np.random.Generator], T],
    ) -> None:
        if not 0 <= rank < world_size or shuffle_buffer < 1:
            raise ValueError(
                "rank must lie in [0, world_size) and shuffle_buffer be at least 1, "
                f"got rank {rank}, world_size {world_size}, shuffle_buffer {shuffle_buffer}"
            )
        self.shards = expand_shards(shards, allow_pipe)
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle_buffer = shuffle_buffer
        self.allow_pipe = allow_pipe
        self.transform = transform
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the iterators made from now on; running ones keep theirs."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[T | SkippedSample]:
        """Give samples without end."""
        worker = torch.utils.data.get_worker_info()
        number, num_workers = (worker.id, worker.num_workers) if worker else (0, 1)
        consumer, num_consumers = self.rank * num_workers + number, self.world_size * num_workers
        pass_number = 0
        while True:
            seeds = [self.seed, self.epoch, pass_number]
            rng = np.random.default_rng([*seeds, consumer])
            mine = self._deal(pass_number, consumer, num_consumers)
            for raw in _shuffled(self._read_parts(mine), self.shuffle_buffer, rng):
                yield self._finish(raw, seeds)
            pass_number += 1

    def _deal(self, pass_number: int, consumer: int, num_consumers: int) -> list[_Part]:
        """What one consumer reads in one pass."""
        num_parts = -(-num_consumers // len(self.shards))
        parts = [_Part(url, k, num_parts) for url in self.shards for k in range(num_parts)]
        rng = np.random.default_rng([self.seed, self.epoch, pass_number])
        order = rng.permutation(len(parts))
        # The passes laid end to end are dealt out in turn, so that no consumer gets more.
        first = (consumer - pass_number * len(parts)) % num_consumers
        return [parts[i] for i in order[first::num_consumers]]

    def _read_parts(self, parts: Sequence[_Part]) -> Iterator[_Raw | SkippedSample]:
        for part in parts:
            for place, raw in enumerate(_raw_samples(part.url, self.allow_pipe)):
                if place % part.num_parts == part.number:
                    yield raw

    def _finish(self, raw: _Raw | SkippedSample, seeds: Sequence[int]) -> T | SkippedSample:
        sample = raw if isinstance(raw, SkippedSample) else _read(raw)
        if isinstance(sample, SkippedSample):
            return sample
        name = zlib.crc32(sample.key.encode())
        try:
            return self.transform(sample, np.random.default_rng([*seeds, name]))
        except SampleError as error:
            return SkippedSample(error.reason, sample.shard, sample.key, error.detail)


class _Part(NamedTuple):
    """Every `num_parts`-th sample of a shard."""

    url: str
    number: int
    num_parts: int


class _Raw(NamedTuple):
    """The files of one sample."""

    key: str
    url: str
    jpg: bytes
    json: bytes


def _read(raw: _Raw) -> AnnotatedImage | SkippedSample:
    try:
        return read_sample(raw.key, raw.url, raw.jpg, raw.json)
    except SampleError as error:
        return SkippedSample(error.reason, raw.url, raw.key, error.detail)


def _raw_samples(url: str, allow_pipe: bool) -> Iterator[_Raw | SkippedSample]:
    """Pair the members of a shard; those that miss their half come last."""
    lone: dict[tuple[str, str], None] = {}  # halves whose other half has not followed
    key, held = "", dict[str, bytes]()
    num_samples = 0
    for key_now, kind, data in _members(url, allow_pipe):
        if key_now != key:
            lone.update({(key, half): None for half in held})
            key, held = key_now, {}
        other = "json" if kind == "jpg" else "jpg"
        if (key, other) in lone:
            raise ValueError(
                f"shard '{url}' is not sorted (member {key}.{other} is not followed by its "
                f"{kind}); read it in indexed mode or re-shard it"
            )
        held[kind] = data
        if len(held) == 2:
            num_samples += 1
            yield _Raw(key, url, held["jpg"], held["json"])
            key, held = "", {}
    lone.update({(key, half): None for half in held})
    if num_samples == 0:
        raise ValueError(
            f"shard '{url}' has no complete sample; it should hold KEY.jpg with KEY.json, "
            "as in SA-1B"
        )
    for key, half in lone:
        missing = "json" if half == "jpg" else "jpg"
        detail = f"the shard has no {key}.{missing}"
        yield SkippedSample("incomplete", url, key, detail)


def _members(url: str, allow_pipe: bool) -> Iterator[tuple[str, str, bytes]]:
    """Key, kind and content of the jpg and json members of a shard, in order.

    A shard that is cut short gives its whole members, with a warning in the log.
    """
    last = None
    with contextlib.closing(_open(url, allow_pipe)) as stream:
        tail = _Tail(stream)
        try:
            for member in tar_file_iterator(tail, select_files=_is_wanted):
                last = member["fname"]
                named = member_key(last)
                assert named is not None  # _is_wanted
                yield *named, member["data"]
        except (tarfile.ReadError, EOFError, zlib.error) as error:
            if last is None:
                raise ValueError(f"shard '{url}' is no tar, or has no whole member") from error
            tail.chunk = b""
        if last is not None and not tail.is_end_of_tar():
            _LOG.warning("shard %s is cut short after member %s", url, last)


def _is_wanted(name: str) -> bool:
    return member_key(name) is not None


class _Tail:
    """A stream that remembers what it gave last."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.chunk = b""

    def read(self, size: int) -> bytes:
        chunk = self.stream.read(size)
        self.chunk = chunk or self.chunk
        return chunk

    def is_end_of_tar(self) -> bool:
        """Whether the stream closed with a block of zeros, as a whole tar does."""
        return self.chunk[-512:] == bytes(512)


def _open(url: str, allow_pipe: bool) -> IO[bytes]:
    """Open a shard; no shell is run but for an allowed `pipe:`."""
    stream: IO[bytes]
    if url.startswith("pipe:"):
        if not allow_pipe:
            raise ValueError(f"'{url}' would run a shell command; set data.allow_pipe to allow it")
        stream = gopen(url)
    elif not is_url(url):
        stream = open(url, "rb")
    else:
        # Over http one request for the whole file, not one for each block.
        options = {"block_size": 0} if url.startswith(("http://", "https://")) else {}
        stream = fsspec.open(url, "rb", **options).open()
    return stream


def _shuffled(
    items: Iterator[_Raw | SkippedSample], size: int, rng: np.random.Generator
) -> Iterator[_Raw | SkippedSample]:
    """Shuffle a finite stream within a buffer."""
    buffer: list[_Raw | SkippedSample] = []
    for item in items:
        buffer.append(item)
        if len(buffer) >= size:
            place = int(rng.integers(len(buffer)))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            yield buffer.pop()
    for place in rng.permutation(len(buffer)):
        yield buffer[place]
