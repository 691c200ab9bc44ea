"""How probable it is that the two sides of a merge are one segment: learned from true segments.

A tree is built in the order of one simple cost, the same everywhere. How sure a merge is depends
on more: sizes, shapes, contrasts, how uniform both sides are. The judge looks at all of that, for
each merge of the tree, and a cut at one of its probabilities cuts the tree at different heights
in different places.
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
from maskfeat.segment.atoms import AtomGraph
from maskfeat.segment.tree import Float64Array, IntArray, MergeTree, sorted_by_level

# What `merge_measures` measures, in its order. "Small" and "large" are the two sides by size.
MEASURES = (
    "log distance of the means",
    "log mean squared contrast along the common border",
    "log share of the image, small",
    "log share of the image, large",
    "log level, small",
    "log level, large",
    "log variance within, small",
    "log variance within, large",
    "log mean squared contrast along the outline, small",
    "log mean squared contrast along the outline, large",
    "log squared length of the common border over area, small",
    "log squared perimeter over area, small",
    "share of the image's rim, small",
    "share of the image's rim, large",
    "log level of the merge",
)
_LEAST = 1e-6  # before a logarithm


@dataclass(frozen=True)
class MergeJudge:
    """A small network of two hidden layers with tanh, on standardized measures.

    Attributes:
        mean: Of each measure where it was fitted, shape (15,).
        spread: Standard deviation of each measure, shape (15,). Values are clipped at four.
        weights: Matrices of the three layers, shapes (15, D), (D, D), (D, 1).
        biases: Of the three layers.
        origin: Where it was fitted, one sentence.
    """

    mean: Float64Array
    spread: Float64Array
    weights: tuple[Float64Array, ...]
    biases: tuple[Float64Array, ...]
    origin: str = ""

    def __call__(self, measures: npt.NDArray[np.floating]) -> Float64Array:
        """Probabilities of "one segment", in (0, 1), shape (M,), of measures (M, 15)."""
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
    def load(cls, path: str | Path) -> MergeJudge:
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
def default_judge() -> MergeJudge:
    """The judge that comes with the package, fitted by experiments/hierarchy/fit_judge.py."""
    return MergeJudge.load(Path(__file__).with_name("judge.json"))


def judged(tree: MergeTree, graph: AtomGraph, judge: MergeJudge) -> MergeTree:
    """The same merges, leveled by how improbable it is that they join one segment.

    A parent's level must not be below its child's, which single judgments do not know. Upwards
    (the level of a node is the largest of all under it) one wrong part splits all that holds it;
    downwards (the smallest of all that hold it) one wrong whole swallows its parts. The geometric
    mean of the two is better than either (experiments/hierarchy).

    Args:
        tree: The merges of the atoms.
        graph: The atoms.
        judge: Gives the probabilities.

    Returns:
        The tree with levels in [0, 1), 0 for atoms, its merges in the order of the new levels.
    """
    count = tree.num_leaves
    if count == 1:
        return tree
    doubts = np.zeros(len(tree.parents))
    doubts[count:] = 1 - judge(merge_measures(tree, graph))
    upward = hg.accumulate_and_max_sequential(
        tree.tree, doubts, np.zeros(count), hg.Accumulators.max
    )
    downward = hg.propagate_sequential_and_accumulate(tree.tree, doubts, hg.Accumulators.min)
    levels = np.sqrt(upward * downward)
    levels[:count] = 0
    return sorted_by_level(tree, levels)[0]


def merge_measures(tree: MergeTree, graph: AtomGraph) -> Float64Array:
    """What is known of each merge, see `MEASURES`.

    Distances count in units in which the probability of "same mask" is 2 / (1 + exp(d^2)), so
    they mean the same for all features that have such a scale.

    Args:
        tree: The merges of the atoms; levels in feature distances.
        graph: The atoms.

    Returns:
        float64, shape (K - 1, 15), in the order of the merges.
    """
    count, scale = tree.num_leaves, graph.scale
    small, large = _sides(tree)
    means, variances = _moments(tree, graph)
    steps = means[small] - means[large]
    met = tree.tree.lowest_common_ancestor(*graph.edges.T.astype(np.int64))
    lengths, contrasts = graph.border_lengths, graph.border_lengths * graph.border_contrasts
    common = np.bincount(met - count, lengths, count - 1)
    common_contrast = np.bincount(met - count, contrasts, count - 1) / common.clip(min=1)
    perimeters = _outlines(tree, graph, met, lengths)
    outline_contrast = _outlines(tree, graph, met, contrasts) / perimeters.clip(min=1)
    rim = _rim_shares(tree, graph)
    levels = np.log(np.maximum(tree.levels * np.sqrt(scale), 1e-3))
    shares = tree.sizes / tree.sizes[-1]

    def log(values: Float64Array) -> Float64Array:
        return np.log(np.maximum(values, _LEAST))

    return np.stack(
        [
            log(np.sqrt(np.einsum("mc,mc->m", steps, steps) * scale)),
            log(common_contrast * scale),
            log(shares[small]),
            log(shares[large]),
            levels[small],
            levels[large],
            log(variances[small] * scale),
            log(variances[large] * scale),
            log(outline_contrast[small] * scale),
            log(outline_contrast[large] * scale),
            log(common**2 / tree.sizes[small]),
            log(perimeters[small].clip(min=1) ** 2 / tree.sizes[small]),
            rim[small],
            rim[large],
            levels[count:],
        ],
        axis=1,
    )


def _sides(tree: MergeTree) -> tuple[IntArray, IntArray]:
    """The smaller and the larger child of each merge; of equal ones the first is the smaller."""
    first, second = tree.children.T
    swap = tree.sizes[first] > tree.sizes[second]
    return np.where(swap, second, first), np.where(swap, first, second)


def _moments(tree: MergeTree, graph: AtomGraph) -> tuple[Float64Array, Float64Array]:
    """Mean feature (N, C) of each node, and the mean squared distance of its atoms to it (N,)."""
    weighted = graph.features * graph.sizes[:, None]
    means = tree.sums(weighted) / tree.sizes[:, None]
    squares = np.einsum("kc,kc->k", weighted, graph.features, dtype=np.float64)
    variances = tree.sums(squares) / tree.sizes - np.einsum("nc,nc->n", means, means)
    return means, np.maximum(variances, 0)


def _outlines(
    tree: MergeTree, graph: AtomGraph, met: IntArray, values: npt.NDArray[np.floating]
) -> Float64Array:
    """Sum of the edges' values along the outline of each node, the image's rim left out, (N,)."""
    count = tree.num_leaves
    of_atoms = np.bincount(graph.edges[:, 0], values, count)
    of_atoms += np.bincount(graph.edges[:, 1], values, count)
    met_here = np.bincount(met, 2 * values, len(tree.parents)).astype(np.float64)
    inside = hg.accumulate_and_add_sequential(
        tree.tree, met_here, np.zeros(count), hg.Accumulators.sum
    )
    outline: Float64Array = tree.sums(of_atoms) - inside
    return outline


def _rim_shares(tree: MergeTree, graph: AtomGraph) -> Float64Array:
    """Share of the pixels along the image's rim that each node holds, (N,)."""
    labels = graph.labels
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    shares = np.bincount(rim, minlength=tree.num_leaves) / len(rim)
    return tree.sums(shares)


def _rounded(values: Float64Array) -> list[float]:
    rounded: list[float] = np.round(values, 5).tolist()
    return rounded
