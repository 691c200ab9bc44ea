"""Groups of settings of the data module."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """How much training examples vary.

    Args:
        min_scale: Smallest enlargement of the image. The crop never reaches beyond the image,
            unless the image is smaller than the crop at `max_scale`, or there are margins.
        max_scale: Largest enlargement.
        max_stretch: Width against height of a pixel varies by up to this factor.
        flip: Share of examples that are mirrored left to right.
        transpose: Share of examples whose rows become columns: turned by a quarter and mirrored.
        margins: Whether the crop may reach beyond the image where `min_scale` asks for it: border
            pixels are repeated there, and nothing is known of them.
        native: Share of examples at scale 1, cut between pixels. Others are resampled, which blurs
            them a little at any scale, while whole images are not.
        brightness: Largest change, as a share of the full range.
        contrast: Contrast is multiplied by a factor between 1 - this and 1 + this.
        saturation: As contrast, for colorfulness.
        hue_degrees: Largest turn of the hue.
        grey: Share of examples without color.
        invert: Share of examples whose colors are inverted.
        recolor: Share of examples with channels in another order, any hue and up to twice the
            colorfulness.
        paste: Share of examples that objects of another image are pasted onto, with their parts;
            see `maskfeat.data.composition`. In streaming mode the other image is the one before
            in the batch, and the first image of a batch is left alone.
        max_pasted: Most objects.
    """

    min_scale: float = 0.5
    max_scale: float = 2.0
    max_stretch: float = 1.2
    flip: float = 0.5
    brightness: float = 0.15
    contrast: float = 0.3
    saturation: float = 0.4
    hue_degrees: float = 15.0
    grey: float = 0.05
    invert: float = 0.0
    recolor: float = 0.0
    paste: float = 0.0
    max_pasted: int = 2
    transpose: float = 0.0
    native: float = 0.0
    margins: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(
                f"scales must satisfy 0 < min_scale <= max_scale, got {self.min_scale} "
                f"and {self.max_scale}"
            )
        for name in ("invert", "recolor", "paste", "transpose", "native"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")
        if self.max_pasted < 1:
            raise ValueError(f"max_pasted must be at least 1, got {self.max_pasted}")


@dataclass(frozen=True)
class ExampleSettings:
    """What is cut out of an image.

    Args:
        crop_size: Height and width of training examples, pixels.
        short_side: Images count as reduced to this short side, pixels, before augmentation
            scales them; null leaves them as they are. For SA-1B (1500) take 512 to 1024.
        num_points: Points sampled per example.
        border_share: Share of the points that lie near mask borders.
        num_pairs: Pairs of nearby pixels sampled per example, for model.local_weight.
        pair_radius: Largest distance of the two pixels of a pair, on each axis.
        boundaries: Whether examples have a map of boundaries, for model.boundary_weight.
        max_masks: Most masks per example, a random choice where there are more.
        keep_crowds: Whether masks of many objects at once (`iscrowd` of COCO) are read.
        augmentation: How much training examples vary.

    Raises:
        ValueError: If a number is out of its range; names the setting.
    """

    crop_size: int = 256
    short_side: int | None = None
    num_points: int = 512
    border_share: float = 0.5
    num_pairs: int = 0
    pair_radius: int = 8
    boundaries: bool = False
    max_masks: int = 128
    keep_crowds: bool = False
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        check_least(
            1,
            "examples.",
            crop_size=self.crop_size,
            short_side=self.short_side,
            max_masks=self.max_masks,
            pair_radius=self.pair_radius,
        )
        check_least(0, "examples.", num_pairs=self.num_pairs)
        check_least(2, "examples.", num_points=self.num_points)  # a loss compares points
        if not 0 <= self.border_share <= 1:
            raise ValueError(
                f"data.examples.border_share must lie between 0 and 1, got {self.border_share}"
            )


@dataclass(frozen=True)
class StreamSettings:
    """How shards are read in streaming mode.

    Args:
        num_readers: Shards that are read side by side, per device; the order depends on it, so
            keep it. Workers share the readers: take a multiple of num_workers. More workers than
            readers are not started. Each epoch is cut into one slice for each reader of each
            device; a slice that begins inside a shard skips the front of that shard.
        shuffle_buffer: Most samples held for shuffling, per reader.
        shuffle_buffer_mb: Most memory for shuffling, MB per device, all its readers together
            (JPEG and JSON as they lie in the tar; 1 MB a sample in SA-1B).

    Raises:
        ValueError: If num_readers is below 1.
    """

    num_readers: int = 4
    shuffle_buffer: int = 200
    shuffle_buffer_mb: float = 1000

    def __post_init__(self) -> None:
        check_least(1, "streaming.", num_readers=self.num_readers)


def check_least(least: int, group: str = "", **settings: int | None) -> None:
    """Refuse a setting below `least`; None is allowed.

    Raises:
        ValueError: Names the setting.
    """
    for name, value in settings.items():
        if value is not None and value < least:
            raise ValueError(f"data.{group}{name} must be at least {least}, got {value}")
