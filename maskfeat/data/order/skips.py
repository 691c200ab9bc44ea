"""The account of what could not be read: exact over workers and ranks, and kept over a resume."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

import torch.distributed

from maskfeat.batch import SkippedSample

_LOG = logging.getLogger("maskfeat")
# A sample that was skipped, for a checkpoint: reason, shard, key.
Entry = tuple[str, str, str]


class SkipLedger:
    """Counts the samples that could not be read, and stops training when they are too many.

    Each sample counts and is logged once, however often it is met.

    Args:
        max_share: Largest share of skipped samples among all samples, in [0, 1].
        min_samples: Below so many samples, read or skipped, nothing is checked.

    Attributes:
        counts: Distinct skipped samples by reason.
    """

    def __init__(self, max_share: float = 0.05, min_samples: int = 20) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_share must lie in [0, 1], got {max_share}")
        self.max_share = max_share
        self.min_samples = min_samples
        self.counts: Counter[str] = Counter()
        self._seen: dict[tuple[str, str], str] = {}  # (shard, key) -> reason
        self._met: Counter[str] = Counter()  # by reason, those met while reading
        self._news: list[Entry] = []  # what the other ranks have not been told

    @property
    def total(self) -> int:
        """Distinct skipped samples."""
        return len(self._seen)

    def add(self, skipped: SkippedSample) -> None:
        """Count and log a sample, unless it has been before."""
        if self._note((skipped.reason, skipped.shard, skipped.key)):
            self._met[skipped.reason] += 1
            self._news.append((skipped.reason, skipped.shard, skipped.key))
            _LOG.warning(
                "skipped sample '%s' of %s (%s): %s",
                skipped.key,
                skipped.shard,
                skipped.reason,
                skipped.detail,
            )

    def add_known(self, skipped: Sequence[SkippedSample], num_sound: int) -> None:
        """Count what an index has found to be incomplete, before anything is read.

        Args:
            skipped: Those samples; whoever made the index has logged them.
            num_sound: Samples of the same set that are complete.

        Raises:
            RuntimeError: If the share of them is above `max_share`.
        """
        for one in skipped:
            self._note((one.reason, one.shard, one.key))
        self._check_share(Counter(one.reason for one in skipped), num_sound)

    def check(self, num_read: int) -> None:
        """Stop when too large a share was skipped.

        Args:
            num_read: Samples that were read well so far by this process. Reading some again
                counts again, so the share can only come out smaller than it is.

        Raises:
            RuntimeError: If the share is above `max_share`.
        """
        self._check_share(self._met, num_read)

    def share(self) -> None:
        """Tell the other ranks what was skipped here, and hear what was skipped there.

        All ranks must call it at the same step. What another rank has met is counted, not logged
        again, and does not stop training here: the other rank sees to that.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        news, self._news = self._news, []
        heard: list[list[Entry]] = [[] for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather_object(heard, news)
        self.restore(entry for entries in heard for entry in entries)

    def entries(self) -> list[Entry]:
        """All that was counted, for a checkpoint."""
        return [(reason, shard, key) for (shard, key), reason in self._seen.items()]

    def restore(self, entries: Iterable[Sequence[str]]) -> None:
        """Count what was counted elsewhere: on another rank, or before a checkpoint."""
        for reason, shard, key in entries:
            self._note((reason, shard, key))

    def _note(self, entry: Entry) -> bool:
        """Count a sample; whether it is new."""
        reason, *name = entry
        shard, key = name
        if (shard, key) in self._seen:
            return False
        self._seen[shard, key] = reason
        self.counts[reason] += 1
        return True

    def _check_share(self, skipped: Counter[str], num_sound: int) -> None:
        num_skipped = skipped.total()
        num_seen = num_skipped + num_sound
        if num_seen >= self.min_samples and num_skipped > self.max_share * num_seen:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.most_common())
            raise RuntimeError(
                f"{num_skipped} of {num_seen} samples could not be read ({reasons}), more than the "
                f"allowed share of {self.max_share:g}; look at the log, mend the shards or raise "
                "data.max_skipped_share"
            )
