"""The count of unreadable samples: exact over workers and ranks, and kept over a resume."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence

from maskfeat.batch import LeftOutCrowds, SkippedSample
from maskfeat.data.job import gathered

_LOG = logging.getLogger("maskfeat")
_CROWD = "crowd"
# For a checkpoint: reason, shard and key of a skipped sample; or "crowd", shard, key and the number
# of masks that were left out of a sample.
Entry = tuple[str, str, str, int]


class SkipLedger:
    """Counts the samples that could not be read, and stops training when there are too many.

    Each sample counts and is logged once, however often it is read.

    Args:
        max_share: Largest share of skipped samples among all samples, in [0, 1].
        min_samples: Below this number of samples, read or skipped, training is never stopped.

    Attributes:
        counts: Distinct skipped samples by reason.
        num_crowds: Masks left out as crowds, of distinct samples.
    """

    def __init__(self, max_share: float = 0.05, min_samples: int = 20) -> None:
        if not 0 <= max_share <= 1:
            raise ValueError(f"max_share must lie in [0, 1], got {max_share}")
        self.max_share = max_share
        self.min_samples = min_samples
        self.counts: Counter[str] = Counter()
        self.num_crowds = 0
        self._seen: dict[tuple[str, str], str] = {}  # (shard, key) -> reason
        self._crowds: dict[tuple[str, str], int] = {}  # (shard, key) -> masks left out
        self._met: Counter[str] = Counter()  # by reason, of this process
        self._news: list[Entry] = []  # for the other ranks

    @property
    def total(self) -> int:
        """Distinct skipped samples."""
        return len(self._seen)

    def metrics(self) -> dict[str, float]:
        """The counts by their tags: data/skipped, data/skipped/REASON, data/left_out/crowd."""
        counts = {f"data/skipped/{name}": float(num) for name, num in self.counts.items()}
        if self.num_crowds:
            counts["data/left_out/crowd"] = float(self.num_crowds)
        return {"data/skipped": float(self.total), **counts}

    def add(self, skipped: SkippedSample) -> None:
        """Count and log a sample, unless it was counted before."""
        entry = (skipped.reason, skipped.shard, skipped.key, 0)
        if self._note(entry):
            self._met[skipped.reason] += 1
            self._news.append(entry)
            _LOG.warning(
                "skipped sample '%s' of %s (%s): %s",
                skipped.key,
                skipped.shard,
                skipped.reason,
                skipped.detail,
            )

    def add_crowds(self, crowds: LeftOutCrowds) -> None:
        """Count the masks that were left out of a sample as crowds; the log names the first."""
        if not self.num_crowds:
            _LOG.info(
                "masks of many objects (iscrowd) are left out, e.g. in sample '%s' of %s, and "
                "counted under data/left_out/crowd; data.examples.keep_crowds reads them",
                crowds.key,
                crowds.shard,
            )
        entry = (_CROWD, crowds.shard, crowds.key, crowds.num)
        if self._note(entry):
            self._news.append(entry)

    def add_known(self, skipped: Sequence[SkippedSample], num_sound: int) -> None:
        """Count what an index calls incomplete, before training; the log has it already.

        Raises:
            RuntimeError: If their share among these and the sound ones is above `max_share`.
        """
        for one in skipped:
            self._note((one.reason, one.shard, one.key, 0))
        self._check_share(Counter(one.reason for one in skipped), num_sound)

    def check(self, num_read: int) -> None:
        """Stop when too large a share was skipped of `num_read` samples that this process read.

        Repeated reads count again, so the share is never overestimated.

        Raises:
            RuntimeError: If the share is above `max_share`.
        """
        self._check_share(self._met, num_read)

    def share(self) -> None:
        """Exchange the counts with the other ranks.

        All ranks must call it at the same step. Samples of other ranks are counted, but not logged
        again, and do not stop training here: the other rank does that.
        """
        news, self._news = self._news, []
        self.restore(entry for entries in gathered(news) for entry in entries)

    def entries(self) -> list[Entry]:
        """All counted samples, for a checkpoint."""
        skipped = [(reason, shard, key, 0) for (shard, key), reason in self._seen.items()]
        return skipped + [(_CROWD, *name, num) for name, num in self._crowds.items()]

    def restore(self, entries: Iterable[Sequence[str | int]]) -> None:
        """Count samples of another rank, or of a checkpoint; entries of 0.1 have no number."""
        for reason, shard, key, *num in entries:
            self._note((str(reason), str(shard), str(key), int(num[0]) if num else 0))

    def _note(self, entry: Entry) -> bool:
        """Count a sample; False if it was counted before."""
        reason, shard, key, num = entry
        name = (shard, key)
        if reason == _CROWD:
            is_new = name not in self._crowds
            self._crowds[name] = num
            self.num_crowds += num * is_new
            return is_new
        if name in self._seen:
            return False
        self._seen[name] = reason
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
                "data.limits.max_skipped_share"
            )
