"""Marks become masks and label maps: what the page asks of the segmenter."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from maskfeat.app.annotation import OBJECT, Mark
from maskfeat.interactive.click_radius import reach_to_change
from maskfeat.interactive.history import KeptStroke, shown_mask
from maskfeat.interactive.prompts import in_order
from maskfeat.interactive.segmenter import InteractiveSegmenter

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Size = tuple[int, int]


def object_mask(segmenter: InteractiveSegmenter, marks: Sequence[Mark], size: Size) -> BoolArray:
    """Cut out the object that some marks stand for.

    Clicks and scribbles are cut first, those of little reach changing little, and nothing growing
    for marks on the background that come after the last on the object. Then each segment
    is added or taken away whole, in the order of the marks, so that one sees beforehand what one
    gets; but for the superpixels in which a click or scribble says the opposite.

    Args:
        segmenter: Holds the image, or a smaller one made from it, h x w pixels.
        marks: With labels 1 (object) and 0 (background).
        size: Height and width of the image, pixels.

    Returns:
        bool, shape (h, w); empty as long as nothing is marked as object.

    Raises:
        ValueError: If the marks contradict one another.
    """
    strokes = _Strokes(marks, size, segmenter.graph.labels.shape)
    cut = shown_mask(segmenter.predict, strokes.kept)
    mask = np.zeros(strokes.small, bool) if cut is None else cut
    for segment in strokes.segments:
        mask[_decided_by(segmenter, segment, strokes)] = segment.label == OBJECT
    return mask


def reach_on(mask: BoolArray, mark: Mark, size: Size) -> float | None:
    """How far from the outline of a mask a click or scribble is made, see `Mark`.

    Args:
        mask: What is shown when the mark is made, see `object_mask`, shape (h, w).
        mark: Of a scribble, what lies inside the image counts.
        size: Height and width of the image, pixels.

    Returns:
        Pixels of the image, 0 where the mask obeys the mark already; None for a segment, for a
        scribble that never touches the image, and for a mask without outline.
    """
    strokes = _Strokes([mark], size, mask.shape)
    if not len(strokes.pixels_yx):
        return None
    reach = reach_to_change(mask, strokes.pixels_yx, mark.label == OBJECT)
    return None if np.isinf(reach) else reach / strokes.shrinkage


def label_map(segmenter: InteractiveSegmenter, marks: Sequence[Mark], size: Size) -> IntArray:
    """Give every pixel one of the labels that were marked; see `object_mask`.

    Returns:
        int64, shape (h, w): labels of 1 to 9; 0 where segments alone were marked, and not here.

    Raises:
        ValueError: If the marks contradict one another.
    """
    strokes = _Strokes(marks, size, segmenter.graph.labels.shape)
    labels = np.zeros(strokes.small, np.int64)
    if len(strokes.clicks_yx) or strokes.lines:
        labels = segmenter.predict_labels(
            strokes.clicks_yx, strokes.click_labels, scribbles=strokes.lines
        )
    for segment in strokes.segments:
        labels[_decided_by(segmenter, segment, strokes)] = segment.label
    return labels


class _Strokes:
    """Marks in the pixels that the segmenter knows.

    Args:
        marks: In pixels of the image.
        size: Of the image.
        small: Of what the segmenter holds.
    """

    def __init__(self, marks: Sequence[Mark], size: Size, small: tuple[int, ...]) -> None:
        self.small = small
        self._scale = np.array(small) / np.array(size)
        self.shrinkage = float(np.sqrt(np.prod(self._scale)))
        self.segments = [mark for mark in marks if mark.kind == "segment"]
        # A scribble that never touches the image says nothing.
        pixels = [(mark, self._pixels(mark)) for mark in marks if mark.kind != "segment"]
        self._marked = [(mark, points) for mark, points in pixels if len(points)]
        clicks = [(mark, points) for mark, points in self._marked if mark.kind == "click"]
        self.clicks_yx = np.concatenate([np.empty((0, 2), np.int64), *(p for _, p in clicks)])
        self.click_labels = np.array([mark.label for mark, _ in clicks], np.int64)
        self.lines = [(p, mark.label) for mark, p in self._marked if mark.kind == "scribble"]
        if np.any(self._scale < 1):
            self._check_apart()

    @property
    def kept(self) -> list[KeptStroke]:
        """Clicks and lines in the order of the marks, the reach inf where there is none."""
        return [
            KeptStroke(
                points,
                mark.label == OBJECT,
                np.inf if mark.reach is None else mark.reach * self.shrinkage,
            )
            for mark, points in self._marked
        ]

    @property
    def pixels_yx(self) -> IntArray:
        """All that clicks and scribbles mark, shape (M, 2)."""
        return np.concatenate([self.clicks_yx, *(points for points, _ in self.lines)])

    def _check_apart(self) -> None:
        """Refuse marks that contradict one another, in pixels that the user knows."""
        own = [np.full(len(points), label) for points, label in self.lines]
        labels = np.concatenate([self.click_labels, *own])
        pixels, _, _, twice = in_order(self.pixels_yx, labels)
        if twice is not None:
            place = (pixels[twice] + 0.5) / self._scale
            raise ValueError(
                f"two marks of different labels meet near (row, column) = "
                f"{tuple(place.astype(int).tolist())}: the image is worked on reduced, and both "
                "lie on one pixel of that; take one of the two back"
            )

    def pixel(self, mark: Mark) -> IntArray:
        """Where a click or a segment was marked, shape (2,)."""
        first: IntArray = self._scaled(mark)[0]
        return first

    def pixels_with_other_label(self, label: int) -> IntArray:
        """What clicks and scribbles say of another label, shape (N, 2)."""
        others = [points for points, own in self.lines if own != label]
        return np.concatenate([self.clicks_yx[self.click_labels != label], *others])

    def _pixels(self, mark: Mark) -> IntArray:
        """The pixels of a click or scribble inside the image, each once, shape (M, 2)."""
        corners = self._scaled(mark)
        if mark.kind == "click":
            return corners[:1]
        # On a canvas: a scribble may cross the image thousands of times.
        is_drawn = np.zeros(self.small, bool)
        for start, end in itertools.pairwise([corners[0], *corners]):
            pixels = _line_inside(start, end, self.small)
            is_drawn[pixels[:, 0], pixels[:, 1]] = True
        inside: IntArray = np.argwhere(is_drawn)
        return inside

    def _scaled(self, mark: Mark) -> IntArray:
        centers = np.array(mark.points_yx) + 0.5
        pixels: IntArray = np.floor(centers * self._scale).astype(np.int64)
        return pixels


def _line_inside(start: IntArray, end: IntArray, size: tuple[int, ...]) -> IntArray:
    """The pixels inside an image from one to another without gap, shape (M, 2).

    Only these are computed: the ends may lie a million pixels outside.
    """
    num_steps = max(1, int(np.abs(end - start).max()))
    slope = (end - start) / num_steps  # pixels a step, at most 1
    first, last = 0, num_steps
    for begin, rise, length in zip(start.tolist(), slope.tolist(), size, strict=True):
        if rise:  # the steps that are inside on this axis, and a pixel more on both sides
            enter, leave = sorted(((-1 - begin) / rise, (length - begin) / rise))
            first, last = max(first, int(np.floor(enter))), min(last, int(np.ceil(leave)))
    steps = np.arange(first, last + 1)[:, None]
    pixels = np.rint(steps * slope + start).astype(np.int64)
    inside: IntArray = pixels[((pixels >= 0) & (pixels < size)).all(axis=1)]
    return inside


def _decided_by(segmenter: InteractiveSegmenter, segment: Mark, strokes: _Strokes) -> BoolArray:
    """The pixels that a segment decides, shape (h, w)."""
    assert segment.granularity is not None
    hierarchy = segmenter.hierarchy
    superpixels, tree = hierarchy.superpixel_labels, hierarchy.tree
    y, x = strokes.pixel(segment)
    # As `Hierarchy.cut`, for one segment: the largest node around the point that is still joined.
    path = tree.ancestors(int(superpixels[y, x]))
    node = path[tree.altitudes[path] <= 1 - segment.granularity][-1:]
    is_taken = tree.leaves_under(node)
    against = strokes.pixels_with_other_label(segment.label)
    is_taken[superpixels[against[:, 0], against[:, 1]]] = False
    decided: BoolArray = is_taken[superpixels]
    return decided
