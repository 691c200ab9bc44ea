"""How probable it is that two neighboring regions are one segment: learned from true segments.

That depends on more than how far their features are apart: on sizes, shapes, contrasts, how
uniform both sides are. The merge classifier looks at all of that. It says in which order regions
are merged (`reagglomeration.reagglomerated`), and what each merge of a tree means (`calibrated`),
so that a cut at one probability means the same everywhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import higra as hg
import numpy as np
import numpy.typing as npt

from maskfeat.files import whole_file
from maskfeat.segment.regions import MEASURES, PairSums, Regions, RegionSums, pair_measures
from maskfeat.segment.superpixels import RegionGraph
from maskfeat.segment.tree import Float64Array, PartitionTree, sorted_by_altitude


@dataclass(frozen=True)
class MergeClassifier:
    """A small network of two hidden layers with tanh, on standardized measures.

    Attributes:
        mean: Of each measure where it was fitted, shape (14,).
        spread: Standard deviation of each measure, shape (14,). Values are clipped at four.
        weights: Matrices of the three layers, shapes (14, D), (D, D), (D, 1).
        biases: Of the three layers.
        origin: Where it was fitted, one sentence.
    """

    mean: Float64Array
    spread: Float64Array
    weights: tuple[Float64Array, ...]
    biases: tuple[Float64Array, ...]
    origin: str = ""

    def __call__(self, measures: npt.NDArray[np.floating]) -> Float64Array:
        """Probabilities of "one segment", in (0, 1), shape (M,), of measures (M, 14)."""
        hidden = np.clip((measures - self.mean) / self.spread, -4, 4)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = np.tanh(hidden @ weight + bias)
        logits = (hidden @ self.weights[-1] + self.biases[-1])[:, 0]
        probability: Float64Array = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
        return probability

    def save(self, path: str | Path) -> None:
        """Write it as json, whole or not at all."""
        content = {
            "origin": self.origin,
            "measures": list(MEASURES),
            "mean": _rounded(self.mean),
            "spread": _rounded(self.spread),
            "weights": [_rounded(weight) for weight in self.weights],
            "biases": [_rounded(bias) for bias in self.biases],
        }
        with whole_file(path) as file:
            file.write((json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> MergeClassifier:
        """Read what `save` wrote.

        Raises:
            ValueError: If it was fitted to other measures than this version takes.
        """
        content = json.loads(Path(path).read_bytes())
        if tuple(content["measures"]) != MEASURES:
            raise ValueError(f"'{path}' judges by other measures than this version has; refit it")
        mean, spread = (np.array(content[name]) for name in ("mean", "spread"))
        weights, biases = (
            tuple(np.array(values) for values in content[name]) for name in ("weights", "biases")
        )
        return cls(mean, spread, weights, biases, content["origin"])


@lru_cache(maxsize=1)
def default_merge_classifier() -> MergeClassifier:
    """The one that comes with the package (experiments/hierarchy/fit_merge_classifier.py)."""
    return MergeClassifier.load(Path(__file__).with_name("merge_classifier.json"))


def calibrated(
    tree: PartitionTree, graph: RegionGraph, merge_classifier: MergeClassifier
) -> PartitionTree:
    """The same merges, with altitudes by how improbable it is that they join one segment.

    A parent's altitude must not be below its child's, which single judgments do not know. Upwards
    (the altitude of a node is the largest of all under it) one wrong part splits all that holds it;
    downwards (the smallest of all that hold it) one wrong whole swallows its parts. The geometric
    mean of the two is better than either (experiments/hierarchy).

    Args:
        tree: The merges of the superpixels.
        graph: The superpixels.
        merge_classifier: Gives the probabilities.

    Returns:
        The tree with altitudes in [0, 1), 0 for superpixels, its merges in the order of the new
        altitudes.
    """
    count = tree.num_leaves
    if count == 1:
        return tree
    doubts = np.zeros(len(tree.parents))
    doubts[count:] = 1 - merge_classifier(merge_measures(tree, graph))
    upward = hg.accumulate_and_max_sequential(
        tree.tree, doubts, np.zeros(count), hg.Accumulators.max
    )
    downward = hg.propagate_sequential_and_accumulate(tree.tree, doubts, hg.Accumulators.min)
    altitudes = np.sqrt(upward * downward)
    altitudes[:count] = 0
    return sorted_by_altitude(tree, altitudes)[0]


def merge_measures(tree: PartitionTree, graph: RegionGraph) -> Float64Array:
    """What is known of each merge of a tree, see `MEASURES`.

    Args:
        tree: The merges of the superpixels.
        graph: The superpixels.

    Returns:
        float64, shape (K - 1, 14), in the order of the merges.
    """
    count, superpixels = tree.num_leaves, Regions.of_superpixels(graph)
    met = tree.tree.lowest_common_ancestor(*graph.edges.T.astype(np.int64)) - count
    lengths, contrasts = (np.bincount(met, values, count - 1) for values in superpixels.borders)
    common = PairSums(lengths.astype(np.float64), contrasts.astype(np.float64))
    sums = superpixels.sums
    nodes = RegionSums(
        tree.sizes,
        tree.sums(sums.means * sums.sizes[:, None]) / tree.sizes[:, None],
        tree.sums(sums.squares),
        tree.sums(sums.outlines) - _inside(tree, common.lengths),
        tree.sums(sums.contrasts) - _inside(tree, common.contrasts),
        tree.sums(sums.rims),
    )
    return pair_measures(nodes, tree.children, common, graph.labels.size, graph.scale)


def _inside(tree: PartitionTree, common: Float64Array) -> Float64Array:
    """Sum over all borders inside each node, of both their sides, (K - 1,) -> (2 K - 1,)."""
    met_here = np.concatenate([np.zeros(tree.num_leaves), 2 * common])
    inside: Float64Array = hg.accumulate_and_add_sequential(
        tree.tree, met_here, np.zeros(tree.num_leaves), hg.Accumulators.sum
    )
    return inside


def _rounded(values: Float64Array) -> list[float]:
    rounded: list[float] = np.round(values, 5).tolist()
    return rounded
