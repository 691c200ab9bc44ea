"""An interaction function for CVAT's agent: click, and the mask appears in CVAT.

    pip install cvat-cli
    cvat-cli function create-native maskfeat --function-module maskfeat.integrations.cvat
    cvat-cli function run-agent ID --function-module maskfeat.integrations.cvat

CVAT offers it among its AI tools as an interactor. It takes an image once, then clicks and a box.
"""

from __future__ import annotations

import cvat_sdk.auto_annotation as cvat
from cvat_sdk.masks import encode_mask
from PIL import Image

from maskfeat.data.folder import rgb_of_image
from maskfeat.features.reading import FeatureModel
from maskfeat.integrations.prompted_image import Click, PromptedImage
from maskfeat.segment.inputs import model_of


def create(model: str = "maskfeat-b0", max_megapixels: float = 1.0) -> MaskfeatInteraction:
    """What CVAT's agent calls for the function; parameters by `-p model=str:FILE`.

    Args:
        model: A name or a path for `maskfeat.load`.
        max_megapixels: Larger images are reduced to this size, millions of pixels.
    """
    return MaskfeatInteraction(model_of(model), max_megapixels)


class MaskfeatInteraction:
    """`cvat_sdk.auto_annotation.InteractionFunction` over `InteractiveSegmenter`.

    Args:
        model: Gives features.
        max_megapixels: See `InteractiveSegmenter`.
    """

    spec = cvat.InteractionFunctionSpec(min_pos_points=0, min_neg_points=0, min_bounding_boxes=0)

    def __init__(self, model: FeatureModel, max_megapixels: float) -> None:
        self._model, self._max_megapixels = model, max_megapixels

    def preprocess_image(
        self, context: cvat.InteractionFunctionContext, image: Image.Image
    ) -> PromptedImage:
        """What is computed once for an image."""
        return PromptedImage(self._model, rgb_of_image(image), self._max_megapixels)

    def detect(
        self,
        context: cvat.InteractionFunctionContext,
        pp_image: PromptedImage,
        prompts: cvat.InteractionPrompts,
    ) -> list[cvat.InteractionResultShape]:
        """The mask of the prompts; no shape if none of them shows an object."""
        clicks = [Click(x, y, True) for x, y in prompts.pos_points]
        clicks += [Click(x, y, False) for x, y in prompts.neg_points]
        corners = prompts.bounding_box
        mask = pp_image.mask(clicks, None if corners is None else (*corners[0], *corners[1]))
        if mask is None:
            return []
        return [cvat.InteractionResultShape(type="mask", points=encode_mask(mask))]
