"""What the hierarchy says of an object: it is made of the segments that hold its prompts."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from maskfeat.segment.tree import BoolArray, IntArray, PartitionTree

FloatArray = npt.NDArray[np.float32]

# All chosen on objects of train splits (experiments/interactive/README.md).
GRANULARITY = 0.5
# logit of "object" in the segments, and against it elsewhere: for the prompts that come first,
# as long as none is on the background; and for others, up to so many labeled superpixels (then
# less).
_FIRST, _LATER, _FULL_PROMPTS = 8.0, 1.5, 4


class TreePrior:
    """What the segments of a hierarchy say of superpixels, beside what the prompts do.

    A prompt on the object stands for the largest node around it that is one segment with a
    probability of at least `GRANULARITY`. The first prompts, without any of the background, make
    these segments the object; after that they are one voice among others. Of a segment that holds
    prompts of both kinds it says only that the largest nodes around those of the object that hold
    none of the background are object.

    Args:
        tree: Merges of the superpixels, with altitudes of 1 - p ("one segment"), see
            `merge_classifier.calibrated`.
    """

    def __init__(self, tree: PartitionTree) -> None:
        self.tree = tree

    def logits(
        self,
        object_superpixels: IntArray,
        background_superpixels: IntArray,
        is_change: bool = False,
    ) -> FloatArray:
        """Logit of "object" to be added to those of each superpixel; a function of the two sets.

        Args:
            object_superpixels: Superpixels labeled object, (N,), at least one.
            background_superpixels: Superpixels labeled background, (M,).
            is_change: For prompts that change a mask, which they speak against.

        Returns:
            float32, shape (K,).
        """
        inside, outside = np.unique(object_superpixels), np.unique(background_superpixels)
        segments = self._segment_of_superpixels
        is_chosen, is_parted = (np.zeros(len(segments), bool) for _ in range(2))
        is_chosen[segments[inside]] = True
        is_parted[segments[outside]] = True
        signs = np.where(is_chosen, 1, -1)
        signs[is_chosen & is_parted] = 0
        says = signs[segments]
        parted = inside[is_parted[segments[inside]]]
        if len(parted):
            within = outside[is_chosen[segments[outside]]]
            says[self._parts(parted, within)] = 1
        weight = _FIRST
        if is_change or len(outside):
            weight = _LATER * min(1.0, _FULL_PROMPTS / (len(inside) + len(outside)))
        return (weight * says).astype(np.float32)

    def _parts(self, inside: IntArray, outside: IntArray) -> BoolArray:
        """The superpixels under the largest nodes around some that hold none of others, (K,)."""
        is_excluded = np.zeros(len(self.tree.parents), bool)
        for superpixel in outside:
            is_excluded[self.tree.ancestors(int(superpixel))] = True
        paths = [self.tree.ancestors(int(superpixel)) for superpixel in inside]
        nodes = [path[max(1, int(np.count_nonzero(~is_excluded[path]))) - 1] for path in paths]
        return self.tree.leaves_under(np.array(nodes, np.int64))

    @cached_property
    def _segment_of_superpixels(self) -> IntArray:
        return self.tree.groups_at(1 - GRANULARITY)
