"""A merge classifier: the probability that two adjacent regions belong to one segment.

It is learned from true segments, and sees sizes, shapes, strengths and variances beside the
distance of the mean features (`regions.PAIR_FEATURES`). It serves twice: `reagglomerated` merges
the last regions in the order of its probabilities, and `calibrated` makes altitudes of them, so
that a cut at one probability means the same in all images.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import higra as hg
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as serialize

from maskfeat.arrays import Float64Array, IntArray
from maskfeat.files import whole_file
from maskfeat.segment.regions import (
    PAIR_FEATURES,
    PairSums,
    Regions,
    RegionSums,
    pair_features,
)
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import PartitionTree, TreeBuilder, joined_numbers, mutually_nearest
from maskfeat.tensor_file import check_tensors, with_checksum

# The last merges from this many regions on are redone by the merge classifier. Below, it is no
# more accurate than the fixed cost of `merge_nearest`, which is faster.
NUM_REGIONS = 600
Array = npt.NDArray[Any]

CLIP = 4.0  # standardized inputs are clipped here, in standard deviations


@dataclass(frozen=True)
class MergeClassifier:
    """Merge probabilities by a small network.

    Attributes:
        network: Gives the logit of "one segment" from `regions.PAIR_FEATURES`.
    """

    network: Mlp

    def __call__(self, features: npt.NDArray[np.floating]) -> Float64Array:
        """Probabilities of "one segment", in (0, 1), shape (M,), of pair features (17, M)."""
        logits = np.clip(self.network(features[: len(self.network.inputs)]), -30, 30)
        probabilities: Float64Array = 1 / (1 + np.exp(-logits))
        return probabilities

    def save(self, path: str | Path) -> None:
        """Write it as .safetensors, whole or not at all."""
        self.network.save(path)

    @classmethod
    def load(cls, path: str | Path) -> MergeClassifier:
        """Read what `save` wrote.

        Raises:
            ValueError: If it was fitted to other features than this version has.
        """
        return cls(Mlp.load(path, PAIR_FEATURES))


@lru_cache(maxsize=2)
def default_merge_classifier(has_boundaries: bool = False) -> MergeClassifier:
    """The one that comes with the package (experiments/hierarchy/fit_merge_classifier.py).

    Args:
        has_boundaries: Whether the network predicts boundaries. Then it is the one that reads them.
    """
    name = merge_classifier_name(has_boundaries)
    return MergeClassifier.load(Path(__file__).with_name(f"{name}.safetensors"))


def merge_classifier_name(has_boundaries: bool) -> str:
    """The name of the one that `default_merge_classifier` gives."""
    return "merge_classifier_boundaries" if has_boundaries else "merge_classifier"


def reagglomerated(
    tree: PartitionTree,
    graph: RegionGraph,
    merge_classifier: MergeClassifier,
    num_regions: int = NUM_REGIONS,
) -> PartitionTree:
    """Undo the last merges of a tree of superpixels and redo them, most probable first.

    From `num_regions` regions on, all pairs that are each other's most probable partner are merged
    at once, again and again, as in `merge_nearest`. Only pairs that a merge has changed are
    classified again. Unlike in the paper, the regions to start from come from a fixed cost.

    The order of the altitudes is that of the merges, their values mean nothing; see `calibrated`.

    References:
        Nunez-Iglesias, Kennedy, Parag, Shi, Chklovskii: Machine learning of hierarchical
        clustering to segment 2D and 3D images, PLOS ONE, 2013 (GALA).
    """
    count = min(num_regions, tree.num_leaves)
    if count == 1:
        return tree
    groups = tree.groups(count)
    parents = merge_by_classifier(Regions.of_superpixels(graph).grouped(groups), merge_classifier)
    return _grafted(tree, groups, parents)


def merge_by_classifier(regions: Regions, merge_classifier: MergeClassifier) -> IntArray:
    """Merge R connected regions into one; parents of the nodes, int64, shape (2 R - 1,)."""
    builder = TreeBuilder(len(regions.sums.sizes))
    nodes = np.arange(len(regions.sums.sizes))  # tree node of each region that is left
    costs = 1 - merge_classifier(regions.pair_features(np.arange(len(regions.pairs))))
    while len(regions.pairs):
        count = len(regions.sums.sizes)
        chosen = mutually_nearest(regions.pairs, costs, count)
        first, second = regions.pairs[chosen].T
        nodes[first] = builder.join(nodes[first], nodes[second], costs[chosen])

        stays, number = joined_numbers(first, second, count)
        is_new = np.zeros(int(stays.sum()), bool)
        is_new[number[first]] = True
        nodes, before, regions = nodes[stays], number[regions.pairs], regions.grouped(number)
        # Pairs that were there before keep their costs.
        is_apart = before[:, 0] != before[:, 1]
        base = (int(before.max()) + 1, 1)
        keys = np.sort(before[is_apart], axis=1) @ base
        kept = np.empty(len(regions.pairs))
        kept[np.searchsorted(regions.pairs @ base, keys)] = costs[is_apart]
        changed = np.flatnonzero(is_new[regions.pairs].any(axis=1))
        kept[changed] = 1 - merge_classifier(regions.pair_features(changed))
        costs = kept
    return builder.parents


def _grafted(tree: PartitionTree, groups: IntArray, parents: IntArray) -> PartitionTree:
    """The lower part of a tree under another upper part.

    Its leaves are in R groups, as `tree.groups` gives them, R at least 2; parents are those of a
    tree of these groups, (2 R - 1,).
    """
    num_groups = int(groups.max()) + 1
    num_kept = len(tree.parents) - (num_groups - 1)
    tops = np.flatnonzero(tree.parents[:num_kept] >= num_kept)
    group_of_node = hg.accumulate_sequential(
        tree.higra_tree, groups.astype(np.float64), hg.Accumulators.min
    )
    shift = num_kept - num_groups
    grafted = np.concatenate([tree.parents[:num_kept], parents[num_groups:] + shift])
    grafted[tops] = parents[group_of_node[tops].astype(np.int64)] + shift
    lowest = tree.altitudes[num_kept - 1]
    altitudes = np.concatenate([tree.altitudes[:num_kept], lowest + np.arange(1, num_groups)])
    return PartitionTree.of_merges(grafted, altitudes, tree.sizes[: tree.num_leaves])


def calibrated(
    tree: PartitionTree, graph: RegionGraph, merge_classifier: MergeClassifier
) -> PartitionTree:
    """The same merges of superpixels, sorted by altitudes of 1 - merge probability.

    Merge probabilities are not monotone along the tree, and altitudes must be. The upper envelope
    (the largest value below a node) lets one wrong part split everything above it; the lower one
    (the smallest value above a node) lets one wrong whole swallow its parts. Their geometric mean
    is better than either (experiments/hierarchy). Altitudes are in [0, 1), 0 for superpixels.
    """
    if tree.num_leaves == 1:
        return tree
    improbable = np.zeros(len(tree.parents))
    improbable[tree.num_leaves :] = 1 - merge_classifier(merge_features(tree, graph))
    upper = hg.tree_monotonic_regression(tree.higra_tree, improbable, "max")
    lower = hg.tree_monotonic_regression(tree.higra_tree, improbable, "min")
    return tree.with_altitudes(np.sqrt(upper * lower))


def merge_features(tree: PartitionTree, graph: RegionGraph) -> Float64Array:
    """The `regions.PAIR_FEATURES` of each merge of a tree, float64, shape (17, K - 1)."""
    count, superpixels = tree.num_leaves, Regions.of_superpixels(graph)
    sums = superpixels.sums
    # The merge of each border. `higra.attribute_frontier_length` would find it for each sum anew.
    merge = tree.higra_tree.lowest_common_ancestor(*graph.edges.T.astype(np.int64)) - count
    lengths, strengths, boundaries = (
        np.bincount(merge, values, count - 1).astype(np.float64) for values in superpixels.borders
    )

    def inside(border_sums: Float64Array) -> Float64Array:
        """Sum over all borders inside each node, both sides counted."""
        own = np.concatenate([np.zeros(count), 2 * border_sums])
        total: Float64Array = hg.accumulate_and_add_sequential(
            tree.higra_tree, own, np.zeros(count), hg.Accumulators.sum
        )
        return total

    nodes = RegionSums(
        tree.sizes,
        tree.sums(sums.means * sums.sizes[:, None]) / tree.sizes[:, None],
        tree.sums(sums.squares),
        tree.sums(sums.outlines) - inside(lengths),
        tree.sums(sums.strengths) - inside(strengths),
        tree.sums(sums.rims),
        tree.sums(sums.boundaries) - inside(boundaries),
    )
    borders = PairSums(lengths, strengths, boundaries)
    return pair_features(nodes, tree.children, borders, graph.labels.size, graph.scale)


@dataclass(frozen=True)
class Mlp:
    """An MLP with tanh in its hidden layers and one logit.

    Attributes:
        inputs: Names of the F inputs, in order.
        mean: Mean of each input where the network was fitted, float32 or float64, shape (F,). The
            network computes in this dtype.
        std: Standard deviation of each input, shape (F,).
        weights: Of each layer, as `torch.nn.Linear` has them: (D, F), (D, D), ..., (1, D).
        biases: Of each layer, (D,), (D,), ..., (1,).
        origin: What it was fitted on, one sentence.
    """

    inputs: tuple[str, ...]
    mean: Array
    std: Array
    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    origin: str = ""

    def __call__(self, values: npt.NDArray[np.floating]) -> Array:
        """Logits, shape (N,), of inputs (F, N)."""
        hidden = (values.astype(self.mean.dtype) - self.mean[:, None]) / self.std[:, None]
        np.clip(hidden, -CLIP, CLIP, out=hidden)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = weight @ hidden
            hidden += bias[:, None]
            np.tanh(hidden, out=hidden)
        logits: Array = (self.weights[-1] @ hidden)[0] + self.biases[-1]
        return logits

    def save(self, path: str | Path) -> None:
        """Write it as .safetensors, whole or not at all."""
        tensors = {"mean": self.mean, "std": self.std}
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            tensors |= {f"{number}.weight": weight, f"{number}.bias": bias}
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        described = json.dumps({"inputs": self.inputs, "origin": self.origin})
        with whole_file(path) as file:
            file.write(with_checksum(serialize, arrays, {"network": described}))

    @classmethod
    def load(cls, path: str | Path, inputs: Sequence[str]) -> Mlp:
        """Read what `save` wrote.

        Args:
            path: The file.
            inputs: What this version has; the network reads all of them, or the first.

        Raises:
            ValueError: If it is no such file, or was fitted to other inputs.
        """
        try:
            with safe_open(path, framework="np") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                metadata = file.metadata() or {}
            check_tensors(path, metadata)
            content = json.loads(metadata["network"])
            known = tuple(content["inputs"])
            if known != tuple(inputs)[: len(known)]:
                raise ValueError("it was fitted to other features than this version has; refit it")
            layers = range(sum(name.endswith(".weight") for name in tensors))
            return cls(
                known,
                tensors["mean"],
                tensors["std"],
                tuple(tensors[f"{number}.weight"] for number in layers),
                tuple(tensors[f"{number}.bias"] for number in layers),
                content["origin"],
            )
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"'{path}' cannot be used: {error}") from error
