"""What judges clicks: the networks that come with the package, and files of them."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from maskfeat.files import whole_file
from maskfeat.interactive.click_net import ClickNet
from maskfeat.interactive.mask_change import CHANGE_MEASURES
from maskfeat.interactive.monotone import MonotoneNet
from maskfeat.interactive.narrow_band import SLIVER_MEASURES
from maskfeat.interactive.refine import PIXEL_MEASURES
from maskfeat.interactive.small_net import SmallNet


class ClickNetworks(NamedTuple):
    """What judges superpixels, pixels, slivers and changes.

    Attributes:
        superpixels: Log odds of "object" of a superpixel.
        pixels: Log odds of "object" of a pixel, see `refine.PIXEL_MEASURES`.
        slivers: Whether a pixel is meant by a prompt near the outline, see `slivers`.
        changes: Log odds of a superpixel's changing its label for a prompt, see `changes`.
    """

    superpixels: ClickNet
    pixels: MonotoneNet
    slivers: SmallNet
    changes: SmallNet


@lru_cache(maxsize=1)
def default_networks() -> ClickNetworks:
    """Those that come with the package, fitted by the scripts of experiments/interactive."""
    return load_networks(Path(__file__).with_name("clicks.json"))


def load_networks(path: str | Path) -> ClickNetworks:
    """Read what `save_networks` wrote.

    Raises:
        ValueError: If some are missing, or were fitted to other measures than this version has.
    """
    content = json.loads(Path(path).read_bytes())
    missing = [name for name in ClickNetworks._fields if name not in content]
    if missing:
        raise ValueError(f"'{path}' cannot be used: it has no networks of {missing}; refit them")
    try:
        pixels = MonotoneNet.of_json(content["pixels"], PIXEL_MEASURES)
        slivers = SmallNet.of_json(content["slivers"], SLIVER_MEASURES)
        changes = SmallNet.of_json(content["changes"], CHANGE_MEASURES)
        return ClickNetworks(ClickNet.of_json(content["superpixels"]), pixels, slivers, changes)
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be used: {error}") from error


def save_networks(path: str | Path, networks: ClickNetworks) -> None:
    """Write them as one json, whole or not at all."""
    content = {name: network.as_json() for name, network in networks._asdict().items()}
    with whole_file(path) as file:
        file.write((json.dumps(content) + "\n").encode())
