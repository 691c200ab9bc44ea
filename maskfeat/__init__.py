"""maskfeat: a feature space that knows object, part and subpart, learned from masks."""

from __future__ import annotations

import importlib

from maskfeat import former_modules

__version__ = "0.3.0"

former_modules.install()

# The public names and the files that hold them. Imported on first use, so that
# `lightning --help` and a worker process do not pay for what they do not touch.
_HOMES = {
    "load": "maskfeat.features.weights",
    "read_card": "maskfeat.features.weights",
    "Features": "maskfeat.features.reading",
    "FeaturePyramid": "maskfeat.features.pyramid",
    "read_image": "maskfeat.data.folder",
    "ReadAs": "maskfeat.data.annotations.read_as",
    "partition": "maskfeat.segment.partition",
    "Partition": "maskfeat.segment.partition",
    "hierarchy": "maskfeat.segment.hierarchy",
    "Hierarchy": "maskfeat.segment.hierarchy",
    "InteractiveSegmenter": "maskfeat.interactive.segmenter",
    "save_pretrained": "maskfeat.interactive.decoder_file",
    "from_pretrained": "maskfeat.interactive.decoder_file",
    "score_cut": "maskfeat.segment.score_cut",
    "Labeler": "maskfeat.labeling.labeler",
}

TYPE_CHECKING = False  # importing typing costs every command milliseconds
if TYPE_CHECKING:
    from typing import Any

    from maskfeat.data.annotations.read_as import ReadAs
    from maskfeat.data.folder import read_image
    from maskfeat.features.pyramid import FeaturePyramid
    from maskfeat.features.reading import Features
    from maskfeat.features.weights import load, read_card
    from maskfeat.interactive.decoder_file import from_pretrained, save_pretrained
    from maskfeat.interactive.segmenter import InteractiveSegmenter
    from maskfeat.labeling.labeler import Labeler
    from maskfeat.segment.hierarchy import Hierarchy, hierarchy
    from maskfeat.segment.partition import Partition, partition
    from maskfeat.segment.score_cut import score_cut

__all__ = [
    "FeaturePyramid",
    "Features",
    "Hierarchy",
    "InteractiveSegmenter",
    "Labeler",
    "Partition",
    "ReadAs",
    "__version__",
    "from_pretrained",
    "hierarchy",
    "load",
    "partition",
    "read_card",
    "read_image",
    "save_pretrained",
    "score_cut",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module holds anything
    if name not in _HOMES:
        raise AttributeError(f"module 'maskfeat' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
