"""Score many held-out items on many processes: who scores what, and the mean they agree on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from maskfeat.batch import ClickTarget, HeldOutImage
from maskfeat.evaluate.clicking import (
    ClicksWithRadius,
    click_score_names,
    pick_target,
    session_ious,
    summarize_clicks,
)
from maskfeat.evaluate.metrics import MeanScores
from maskfeat.evaluate.protocol import (
    partition_score_names,
    score_pairs,
    score_partition,
)
from maskfeat.features.reading import FeatureModel
from maskfeat.interactive.segmenter import InteractiveSegmenter

SECONDS_BETWEEN_LINES = 5.0

Item = TypeVar("Item")


class HeldOutItems(Protocol):
    """Any sequence class of `HeldOutImage` or `ClickTarget`, as a config may name it.

    A config cannot name a class for the type `Sequence[...]`: jsonargparse takes that for a list.
    It can for a protocol, recognized by its methods without underscores: hence `count`, which
    collections.abc.Sequence has, untyped there and so here.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401 - either kind of item

    def count(self, value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
        """How often an item occurs."""


Source = Sequence[HeldOutImage] | Sequence[ClickTarget] | HeldOutItems | None


@dataclass(frozen=True)
class Evaluation:
    """One model on held-out items, shared by all processes; they evaluate together.

    Attributes:
        trainer: Knows the processes and the progress bar.
        pl_module: Its device holds the sums.
        model: What is evaluated.
        items: Held-out images or click targets, the same on all processes; may read each one when
            it is asked for.
        column: Name of the model in the progress lines; "" if it is the only one.
    """

    trainer: Trainer
    pl_module: LightningModule
    model: FeatureModel
    items: Sequence[Any]
    column: str = ""

    def chosen(self, num_items: int) -> list[int]:
        """Positions of at most that many items, evenly spaced; one in a `fast_dev_run`."""
        return evenly_spaced(len(self.items), few_if_tried(self.trainer, num_items))

    def means(
        self,
        names: Sequence[str],
        places: Sequence[Item],
        score: Callable[[Item], Mapping[str, float]],
        kind: str,
    ) -> dict[str, float]:
        """Score every place once, each on one process, and average over all of them.

        Rank r takes places r, r + world_size, and so on; nothing is repeated to even out, and a
        rank without places takes part in the sum all the same. All processes must call this.

        Args:
            names: All names `score` may give.
            places: The same on all processes.
            score: Scores of one place; it may leave names out or give NaN, which is not counted.
            kind: What the progress lines say.

        Returns:
            Name to mean over the places that have it, equal on all processes; names that no place
            has are left out.
        """
        metric = MeanScores(names).to(self.pl_module.device)
        metric.update({})  # else torchmetrics warns on a rank without places
        mine = places[self.trainer.global_rank :: self.trainer.world_size]
        for place in with_progress(self.trainer, mine, self.title(kind)):
            metric.update(score(place))
        return {name: value.item() for name, value in metric.compute().items()}

    def title(self, kind: str) -> str:
        """What a progress line begins with, e.g. "clicks, Lab"."""
        return f"{kind}, {self.column}" if self.column else kind


def partition_scores(
    evaluation: Evaluation, num_images: int, num_segments: Sequence[int]
) -> dict[str, float]:
    """Means of `score_partition` and `score_pairs` over images, equal on all ranks."""

    def score(index: int) -> dict[str, float]:
        image: HeldOutImage = evaluation.items[index]
        features = evaluation.model.features(image.image)
        partitions = score_partition(features, image, num_segments) if image.partitions else {}
        return partitions | score_pairs(features, image)

    names = [*partition_score_names(num_segments), "auc", "auc_votes"]
    return evaluation.means(names, evaluation.chosen(num_images), score, "partitions")


def click_scores(evaluation: Evaluation, num_targets: int, max_clicks: int) -> dict[str, float]:
    """Means of `summarize_clicks` over targets, equal on all ranks.

    The model answers in an `InteractiveSegmenter`, to clicks that carry their click radius.
    """
    segmenter = ClicksWithRadius(InteractiveSegmenter(evaluation.model))

    def score(place: tuple[int, int]) -> dict[str, float]:
        index, turn = place
        item: HeldOutImage | ClickTarget = evaluation.items[index]
        if isinstance(item, HeldOutImage):
            target = pick_target(item, turn)
        else:
            target = item if turn == 0 else None
        if target is None or not (target.target == 1).any():
            return {}
        return summarize_clicks(session_ious(segmenter, target, max_clicks))

    num_targets = few_if_tried(evaluation.trainer, num_targets)
    chosen = evaluation.chosen(num_targets)
    places = (
        [(chosen[n % len(chosen)], n // len(chosen)) for n in range(num_targets)] if chosen else []
    )
    places.sort()  # objects of one image in turn: it is prepared once
    return evaluation.means(click_score_names(max_clicks), places, score, "clicks")


def few_if_tried(trainer: Trainer, wanted: int) -> int:
    """How many items to evaluate: one in a `fast_dev_run`, which only tries whether all works."""
    return 1 if getattr(trainer, "fast_dev_run", False) else wanted


def with_progress(trainer: Trainer, items: Sequence[Item], title: str) -> Iterator[Item]:
    """Go through items; every five seconds rank zero prints the progress.

    Plain lines, not a second bar: two live bars on one terminal overwrite each other.
    Silent without a progress bar.
    """
    bar = trainer.progress_bar_callback
    started = last = time.monotonic()
    callbacks = getattr(trainer, "callbacks", [])
    watching = [call for one in callbacks if (call := getattr(one, "on_item_start", None))]
    for done, item in enumerate(items):
        for note in watching:  # e.g. RankWatch: this rank does not stand still
            note(trainer)
        now = time.monotonic()
        if trainer.is_global_zero and bar is not None and now - last > SECONDS_BETWEEN_LINES:
            last, left = now, (now - started) / done * (len(items) - done)
            bar.print(f"{title}: {done} of {len(items)}, about {left:.0f} s left")
        yield item


def held_out_items(trainer: Trainer, stage: str, source: Source) -> Sequence[Any]:
    """The items of "val" or "test": of the source where there is one, else of the datamodule.

    Raises:
        ValueError: If there is no source and no datamodule with `held_out`.
    """
    if source is not None:
        return _checked_source(source)
    items: Sequence[HeldOutImage] = _datamodule(trainer).held_out(stage)
    return items


def check_contract(trainer: Trainer, pl_module: LightningModule, source: Source) -> None:
    """Check before training that evaluation has what it needs.

    Raises:
        ValueError: If the module has no `features`, or there is nothing to evaluate on.
    """
    if not callable(getattr(pl_module, "features", None)):
        raise ValueError(
            "evaluation needs a module with features(rgb) -> Features, "
            f"got {type(pl_module).__name__}"
        )
    if source is None:
        _datamodule(trainer)
    else:
        _checked_source(source)


def evenly_spaced(num_available: int, num_wanted: int) -> list[int]:
    """Positions of at most `num_wanted` items, evenly spaced over all, ascending.

    Neighbors in a data set are often alike (frames of one drive), so the first ones mislead.
    """
    count = min(num_available, num_wanted)
    return [int(position) for position in np.linspace(0, num_available - 1, count).round()]


def positive(**counts: int) -> None:
    """Check settings that count something.

    Raises:
        ValueError: If one is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def _datamodule(trainer: Trainer) -> Any:  # noqa: ANN401 - any datamodule with held_out(stage)
    datamodule = getattr(trainer, "datamodule", None)
    if not hasattr(datamodule, "held_out"):
        raise ValueError(
            "evaluation needs held-out images: train with a datamodule that has held_out(stage), "
            f"or pass source to the callback; got datamodule {type(datamodule).__name__}"
        )
    return datamodule


def _checked_source(source: object) -> Sequence[Any]:
    if not isinstance(source, Sequence) or isinstance(source, str):
        raise ValueError(
            "source must be a sequence of HeldOutImage or ClickTarget, "
            f"got {type(source).__name__}; in a config name a class, "
            "e.g. class_path: maskfeat.data.heldout.ShardImages"
        )
    return source
