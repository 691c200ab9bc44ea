"""Superpixels of an image whose features do not fit into memory: overlapping tiles, one graph.

`superpixels` cuts a large image tile by tile as it is, and no superpixel crosses a tile. So the
features of a few tiles and of a margin around them are enough for the superpixels in them, their
means and their borders, and only the sides along the seams are left until both neighbors are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from maskfeat.arrays import FloatArray, Int32Array, IntArray, RgbImage
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import FeatureSource, as_features
from maskfeat.segment.superpixels import (
    RegionGraph,
    Tile,
    border_graph,
    grouped_borders,
    num_superpixels_of,
    slopes_of,
    tiles_of,
    watershed_of_tile,
)

# Beyond it the tree takes more memory and time than the features of a tile.
MOST_SUPERPIXELS = 400_000
# What lies further away changes predicted boundaries by 0.0005 on average, by 0.04 at most
# (`maskfeat-b0`, two images of BSDS500 val, enlarged to 640 x 960).
MARGIN_PX = 192
_TILES_AT_ONCE = 2  # in each direction: of three, features take twice the memory
_MULTIPLE = 64  # pixels that the sides of crops lie at, so that maps lie as those of the image

# Pixels along one side of a seam, as an index.
_Line = tuple[slice | int, slice | int]


@dataclass
class _Found:
    """What is known of the superpixels of an image so far, see `RegionGraph`."""

    labels: Int32Array
    sizes: FloatArray
    centroids_yx: FloatArray
    means: FloatArray | None = None
    scale: float = 1.0
    edges: list[Int32Array] = field(default_factory=list)
    lengths: list[FloatArray] = field(default_factory=list)
    values: list[list[FloatArray]] = field(default_factory=list)
    seams: list[tuple[_Line, _Line, list[FloatArray]]] = field(default_factory=list)


def superpixels_by_tiles(
    rgb: RgbImage,
    encode: Callable[[RgbImage], FeatureSource],
    per_megapixel: float = 26_000,
    margin_px: int = MARGIN_PX,
) -> RegionGraph:
    """As `superpixels(encode(rgb))`, with the features of a few tiles at a time.

    They are the same where features do not depend on what is further away than the margin. There
    are at most `MOST_SUPERPIXELS`.

    Args:
        rgb: uint8, shape (H, W, 3).
        encode: Gives features of a crop, see `as_features`.
        per_megapixel: See `superpixels`.
        margin_px: How far crops reach beyond their tiles, at least.
    """
    size = (rgb.shape[0], rgb.shape[1])
    count = min(num_superpixels_of(size, per_megapixel), MOST_SUPERPIXELS)
    tiles = tiles_of(size, count)
    count = tiles[-1][-1].first + tiles[-1][-1].num
    found = _Found(
        np.empty(size, np.int32), np.empty(count, np.float32), np.empty((count, 2), np.float32)
    )
    for block in _blocks(tiles):
        rows = slice(block[0].rows.start, block[-1].rows.stop)
        columns = slice(block[0].columns.start, block[-1].columns.stop)
        crop = _with_margin(rows, size[0], margin_px), _with_margin(columns, size[1], margin_px)
        features = as_features(encode(np.ascontiguousarray(rgb[crop])))
        _add_block(found, features, block, (rows, columns), crop)
    return _graph(found)


def _blocks(tiles: Sequence[Sequence[Tile]]) -> Iterator[list[Tile]]:
    """Tiles that are done at once, each time a rectangle of them, by rows."""
    for row in range(0, len(tiles), _TILES_AT_ONCE):
        for column in range(0, len(tiles[0]), _TILES_AT_ONCE):
            some = [line[column : column + _TILES_AT_ONCE] for line in tiles[row:][:_TILES_AT_ONCE]]
            yield [tile for line in some for tile in line]


def _with_margin(side: slice, length: int, margin_px: int) -> slice:
    start = max(0, side.start - margin_px) // _MULTIPLE * _MULTIPLE
    stop = -(-(side.stop + margin_px) // _MULTIPLE) * _MULTIPLE
    return slice(start, min(stop, length))


def _add_block(
    found: _Found,
    features: Features,
    block: Sequence[Tile],
    place: tuple[slice, slice],
    crop: tuple[slice, slice],
) -> None:
    """Add the superpixels of some tiles, from the features of a crop around them."""
    inner = tuple(
        slice(part.start - around.start, part.stop - around.start)
        for part, around in zip(place, crop, strict=True)
    )
    distances, predicted = features.neighbor_distances(), features.boundary_probabilities()
    slopes = slopes_of(*features.followed_distances(distances))
    count = sum(tile.num for tile in block)
    # Numbers within the block; those of the margin are one more.
    numbers, names, done = np.full(features.size, count, np.int32), np.empty(count, np.int64), 0
    for tile in block:
        rows, columns = (
            slice(part.start - around.start, part.stop - around.start)
            for part, around in zip((tile.rows, tile.columns), crop, strict=True)
        )
        numbers[rows, columns] = watershed_of_tile(*slopes, rows, columns, tile.num) + done
        names[done : done + tile.num] = np.arange(tile.first, tile.first + tile.num)
        done += tile.num
    own = numbers[inner]
    _add_regions(found, features.region_means(numbers, count + 1)[:count], own, names, place)
    found.scale = features.scale
    sides = [distances] if predicted is None else [distances, predicted]
    rows, columns = inner
    edges, lengths, values = border_graph(
        own,
        *(
            (
                right[rows, columns.start : columns.stop - 1],
                below[rows.start : rows.stop - 1, columns],
            )
            for right, below in sides
        ),
    )
    found.edges.append(names[edges].astype(np.int32))
    found.lengths.append(lengths)
    found.values.append(values)
    height, width = found.labels.shape
    if place[1].stop < width:
        last = place[1].stop - 1
        across = [right[rows, columns.stop - 1].copy() for right, _ in sides]
        found.seams.append(((place[0], last), (place[0], last + 1), across))
    if place[0].stop < height:
        last = place[0].stop - 1
        down = [below[rows.stop - 1, columns].copy() for _, below in sides]
        found.seams.append(((last, place[1]), (last + 1, place[1]), down))


def _add_regions(
    found: _Found, means: FloatArray, own: Int32Array, names: IntArray, place: tuple[slice, slice]
) -> None:
    """Add labels, means, sizes and middles of the superpixels of a block."""
    found.labels[place] = names[own]
    if found.means is None:
        found.means = np.empty((len(found.sizes), means.shape[1]), np.float32)
    found.means[names] = means
    counts = np.bincount(own.ravel(), minlength=len(names))
    found.sizes[names] = counts
    rows, columns = (np.arange(part.start, part.stop) for part in place)
    places = (np.repeat(rows, len(columns)), np.tile(columns, len(rows)))
    sums = [np.bincount(own.ravel(), at, len(names)) for at in places]
    found.centroids_yx[names] = np.stack(sums, axis=1) / counts[:, None]


def _graph(found: _Found) -> RegionGraph:
    """The graph, once borders along the seams are added."""
    for one, other, values in found.seams:
        first, second = (found.labels[side].astype(np.int64) for side in (one, other))
        edges, lengths, means = grouped_borders(first, second, len(found.sizes), values)
        found.edges.append(edges)
        found.lengths.append(lengths)
        found.values.append(means)
    edges = np.concatenate(found.edges)
    order = np.lexsort((edges[:, 1], edges[:, 0]))
    strengths, *predicted = (
        np.concatenate(parts)[order] for parts in zip(*found.values, strict=True)
    )
    assert found.means is not None
    return RegionGraph(
        labels=found.labels,
        features=found.means,
        sizes=found.sizes,
        centroids_yx=found.centroids_yx,
        edges=edges[order],
        border_lengths=np.concatenate(found.lengths)[order],
        boundary_strengths=strengths,
        scale=found.scale,
        boundary_probabilities=predicted[0] if predicted else None,
    )
