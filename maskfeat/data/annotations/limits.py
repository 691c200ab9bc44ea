"""What one sample, shard or pattern may ask for, so that memory stays bounded."""

from __future__ import annotations

from dataclasses import dataclass, fields

MB = 1e6  # bytes
MAX_PIXELS = 2**26  # 67 megapixels: what one image may have


@dataclass(frozen=True)
class Limits:
    """Bounds on input. A sample beyond them is skipped and counted.

    Args:
        jpg_mb: Largest image file, MB (10^6 bytes).
        json_mb: Largest JSON, MB: annotations of an image, or the index.json of a folder. It takes
            up to 25 times as much memory to read.
        masks: Connected masks of two pixels or more in an image.
        runs: Runs of pixels within columns, over all masks of an image; 150 bytes each.
        held_out_gb: What a held-out image takes in memory after it was reduced, GB (10^9 bytes):
            a byte for each pixel of each mask, 8 for each of its true partitions.
        names: Names that the braces of a pattern stand for; a longer pattern is refused.
        max_skipped_share: Training stops when a larger share of the samples was skipped.

    Raises:
        ValueError: If one is not above 0, or the share is not in [0, 1].
    """

    jpg_mb: float = 256
    json_mb: float = 64
    masks: int = 2**15
    runs: int = 2**22
    held_out_gb: float = 4
    names: int = 100_000
    max_skipped_share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.max_skipped_share <= 1:
            raise ValueError(
                "data.limits.max_skipped_share must lie between 0 and 1, got "
                f"{self.max_skipped_share}"
            )
        for field in fields(self):
            if field.name != "max_skipped_share" and not getattr(self, field.name) > 0:
                raise ValueError(
                    f"limits.{field.name} must be above 0, got {getattr(self, field.name)}"
                )
