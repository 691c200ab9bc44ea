"""All samples of shards, read front to back as streaming mode does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from maskfeat.batch import SkippedSample
from maskfeat.data.annotations.sample import AnnotatedImage
from maskfeat.data.order.streaming import finish
from maskfeat.data.shards.names import expand_shards
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples


def stream_samples(
    urls: str | Sequence[str], allow_pipe: bool = False
) -> Iterator[AnnotatedImage | SkippedSample]:
    """Each sample, or why it could not be read."""
    source = ShardSource(allow_pipe=allow_pipe)
    for url in expand_shards(urls, allow_pipe):
        for _, raw in raw_samples(url, source):
            yield finish(raw, (0,), lambda sample, _: sample)
