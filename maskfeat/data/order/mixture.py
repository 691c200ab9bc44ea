"""Several sets as one: the set of each index of the endless order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.background import UNMARKED

# Indices after which the shares are exact, and the precision that they are rounded to.
_CYCLE = 10_000

# One set by its patterns, or several with their weights, as `data.train` takes them.
Train = str | Sequence[str] | Mapping[str, Any]


class WeightedSet(NamedTuple):
    """Shards of one set, its share of the samples, and the meaning of its unmarked pixels.

    Attributes:
        unmarked: "unknown": nothing is learned from pixels that no mask holds, for sets that mark
            some objects. "background": each connected region of them counts as a mask.
            "everything": no mask of the set is used; its images serve distillation alone.
    """

    shards: str | list[str]
    weight: float
    unmarked: str = "unknown"


def sets_of(train: Train) -> list[WeightedSet]:
    """Read `data.train`.

    Args:
        train: Shards, for one set; else {shards: weight} or {name: {"shards": a pattern or a list,
            "weight": a number, "unmarked": a word of `UNMARKED`, "unknown" where left out}}. Of
            weights only their proportions count.

    Returns:
        The sets, in the order given.

    Raises:
        ValueError: If a weight is no number above 0, or an entry has other keys or words.
    """
    if not isinstance(train, Mapping):
        return [WeightedSet(train if isinstance(train, str) else list(train), 1.0)]
    if not train:
        raise ValueError("data.train is an empty mapping; give at least one set with its weight")
    found = []
    for name, value in train.items():
        shards, weight, unmarked = name, value, "unknown"
        if isinstance(value, Mapping):
            if {*value, "unmarked"} != {"shards", "weight", "unmarked"}:
                raise ValueError(
                    f"a set of data.train needs 'shards' and 'weight', got {sorted(value)} "
                    f"for '{name}'; it may have 'unmarked', too"
                )
            shards, weight = value["shards"], value["weight"]
            unmarked = value.get("unmarked", unmarked)
        if unmarked not in UNMARKED:
            raise ValueError(
                f"unmarked of a set in data.train must be {' or '.join(UNMARKED)}, got "
                f"{unmarked!r} for '{name}'"
            )
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
            raise ValueError(
                f"the weight of a set in data.train must be a number above 0, got {weight!r} "
                f"for '{name}'"
            )
        found.append(WeightedSet(shards, float(weight), unmarked))
    return found


class Mixture:
    """The set that each sample index draws from, as a pure function of the index.

    In each cycle of 10,000 indices each set has its share exactly, rounded to whole samples (at
    least one). Within the cycle, its j-th of n draws falls at a random moment of the j-th of n
    equal spans of time; the draws of all sets are sorted by moment (stratified sampling in time).
    So among the first N indices the number of draws of a set with share w differs from w N by less
    than 1 + (K - 2) w, for K sets, and no regular pattern coincides with the ranks.

    Args:
        weights: Of each of K sets, above 0; only their proportions count.
        seed: Of the moments.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self.quotas = _quotas(tuple(weights))
        self.seed = seed

    def at(self, index: int) -> tuple[int, int]:
        """The set that an index draws from, and the number of the draw within the set: 0, 1, ..."""
        if len(self.quotas) == 1:
            return 0, index
        cycle, position = divmod(index, _CYCLE)
        owner, rank = _draws(self.quotas, self.seed, cycle)
        number = int(owner[position])
        return number, cycle * self.quotas[number] + int(rank[position])

    def draws_before(self, index: int) -> list[int]:
        """The number of draws of each set before an index, which is the number of its next one."""
        if len(self.quotas) == 1:
            return [index]
        cycle, position = divmod(index, _CYCLE)
        owner, _ = _draws(self.quotas, self.seed, cycle)
        begun = np.bincount(owner[:position], minlength=len(self.quotas))
        return [cycle * quota + int(n) for quota, n in zip(self.quotas, begun, strict=True)]


def seed_of_set(seed: int, number: int, num_sets: int) -> int:
    """The seed of one set's own order; a single set has the seed itself."""
    if num_sets == 1:
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])


@lru_cache
def _quotas(weights: tuple[float, ...]) -> tuple[int, ...]:
    """Whole numbers in these proportions that sum to the cycle, each at least 1."""
    shares = np.array(weights) / sum(weights) * _CYCLE
    quotas = np.maximum(1, np.floor(shares + 1e-6)).astype(np.int64)
    order = np.argsort(quotas - shares, kind="stable")  # the furthest below comes first
    while (rest := _CYCLE - int(quotas.sum())) > 0:
        quotas[order[:rest]] += 1
    while (excess := int(quotas.sum()) - _CYCLE) > 0:  # as small sets were raised to one
        quotas[np.argmax(quotas)] -= excess
    return tuple(quotas.tolist())


@lru_cache(maxsize=32)
def _draws(quotas: tuple[int, ...], seed: int, cycle: int) -> tuple[IntArray, IntArray]:
    """For each index of a cycle its set, and the draws of the set before it in the cycle."""
    rng = np.random.default_rng([seed, cycle, len(quotas)])
    due = np.concatenate([(np.arange(n) + rng.random(n)) / n for n in quotas])
    order = np.argsort(due, kind="stable")
    owner = np.repeat(np.arange(len(quotas)), quotas)
    rank = np.concatenate([np.arange(n) for n in quotas])
    return owner[order], rank[order]
