"""A widget for napari: the segments of an image layer, with a slider for their granularity.

    pip install "napari[all]" maskfeat

and in napari: Plugins, maskfeat, Segments. The tree is computed once for a layer; the slider cuts
it in milliseconds. Segments go to a labels layer, where napari's tools can edit them.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
from magicgui.widgets import Container, FloatSlider, create_widget
from napari.layers import Image
from napari.viewer import Viewer

from maskfeat.data.annotations.read_as import ReadAs, rgb_of_values
from maskfeat.features.reading import FeatureModel
from maskfeat.features.weights import load_fused
from maskfeat.recent import Recent
from maskfeat.segment.hierarchy import Hierarchy, hierarchy

_KEPT_TREES = 4


class SegmentsWidget(Container):  # type: ignore[misc]
    """Chooses an image layer and a granularity; the segments follow.

    What was edited by hand is left as it is, and the next granularity goes to a new layer.

    Args:
        viewer: Gets a labels layer for each image layer.
        model: Gives features; None is maskfeat-b0.
    """

    def __init__(self, viewer: Viewer, model: FeatureModel | None = None) -> None:
        self._viewer, self._model = viewer, model
        self._trees: Recent[tuple[Any, Hierarchy]] = Recent(_KEPT_TREES)
        # Layer of segments -> what was written to it last.
        self._written = WeakKeyDictionary[Any, npt.NDArray[Any]]()
        self.layer = create_widget(annotation=Image, label="image")
        self.granularity = FloatSlider(label="granularity", value=0.4, min=0.01, max=0.99)
        super().__init__(widgets=[self.layer, self.granularity])
        self.granularity.changed.connect(self.show_segments)
        self.layer.changed.connect(self.show_segments)

    def show_segments(self) -> None:
        """Write the segments of the chosen layer to the labels layer of its name.

        Raises:
            ValueError: If the layer is no single image. napari shows the sentence.
        """
        layer: Image | None = self.layer.value
        if layer is None:
            return
        # The array is kept with its tree, so that its number is not given to another one.
        pixels = layer.data
        _, tree = self._trees.get(id(pixels), lambda: (pixels, self._tree(pixels)))
        labels = tree.cut(granularity=self.granularity.value) + 1  # 0 is napari's background
        name = f"{layer.name} segments"
        for shown, last in list(self._written.items()):
            if shown in self._viewer.layers and shown.name == name:
                if np.array_equal(shown.data, last):
                    shown.data, self._written[shown] = labels, labels.copy()
                    return
                del self._written[shown]  # it was edited
        place = {"scale": layer.scale[-2:], "translate": layer.translate[-2:]}
        shown = self._viewer.add_labels(labels, name=name, opacity=0.5, **place)
        self._written[shown] = labels.copy()

    def _tree(self, pixels: npt.NDArray[Any]) -> Hierarchy:
        if self._model is None:
            self._model = load_fused()
        return hierarchy(self._model.features(rgb_of_layer(np.asarray(pixels))))


def rgb_of_layer(pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The pixels of an image layer as maskfeat takes them, uint8, shape (H, W, 3).

    They have shape (H, W) or (H, W, 3 or 4); floats of colors lie in 0 to 1, other values are
    scaled by their percentiles, as `read_image` does it.

    Raises:
        ValueError: If it has another shape.
    """
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(
            f"the layer must be one image, (H, W) or (H, W, 3), got {pixels.shape}; of a stack "
            "show one page in a layer of its own"
        )
    is_color = pixels.ndim == 3
    values = pixels[..., :3] if is_color else pixels[..., None]
    is_shown_as_it_is = is_color and np.issubdtype(pixels.dtype, np.floating)
    read_as = ReadAs(value_range=(0, 1) if is_shown_as_it_is else None)
    return rgb_of_values(values, is_color, read_as)[0]
