"""Composition: an object of one image, with its parts, is pasted onto another."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from maskfeat.arrays import BoolArray, IntArray, RgbImage
from maskfeat.data.annotations.painting import join_runs, mask_runs
from maskfeat.data.annotations.rle import Runs, part_runs

# Luminance of sRGB (ITU-R BT.601).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Objects that are pasted take up this share of the crop.
MIN_SHARE, MAX_SHARE = 0.01, 0.4
# A mask is a part of an object that holds this share of it.
_PART_SHARE = 0.95


def pasteable(masks: BoolArray, is_cut: BoolArray) -> IntArray:
    """Numbers of the masks, bool, (M, S, S), that can be pasted, int64, shape (N,).

    They have a fitting size and are not cut by the edge of their image: hold no pixel of `is_cut`,
    bool, (S, S).
    """
    shares = masks.mean(axis=(1, 2))
    fits = (shares >= MIN_SHARE) & (shares <= MAX_SHARE) & ~(masks & is_cut).any(axis=(1, 2))
    return np.flatnonzero(fits)


def paste(
    image: RgbImage, masks: BoolArray, other: RgbImage, other_masks: BoolArray, number: int
) -> tuple[RgbImage, BoolArray]:
    """Paste an object, where it lies, onto another image of the same size.

    Its brightness is shifted by the difference of the mean luminance of both images, so that it
    stays darker or brighter than what it lay in. Edges are blended over about two pixels. Masks
    are exact: what lies behind the object loses these pixels. After Ghiasi et al., Simple
    copy-paste is a strong data augmentation method for instance segmentation (CVPR 2021,
    arXiv:2012.07177); unlike there, one object is pasted at a time, and its parts come with it.

    Args:
        image: RGB, uint8, shape (S, S, 3).
        masks: Its masks, bool, shape (M, S, S).
        other: The image that gives the object.
        other_masks: Its masks, bool, shape (N, S, S).
        number: Which of these is the object.

    Returns:
        The new image and its masks: the M old ones without the object's pixels, then the object
        and the masks of the other image that lie in it, at least 95 % of their pixels.
    """
    alpha = other_masks[number]
    shift = float((image @ LUMA).mean() - (other @ LUMA).mean())
    soft = ndimage.gaussian_filter(alpha.astype(np.float32), 0.7, mode="nearest")[..., None]
    blended = image + soft * (other + np.float32(shift) - image)
    inside = other_masks & alpha
    is_part = inside.sum(axis=(1, 2)) >= _PART_SHARE * np.maximum(other_masks.sum(axis=(1, 2)), 1)
    new_image = blended.round().clip(0, 255).astype(np.uint8)
    return new_image, np.concatenate([masks & ~alpha, inside[is_part]])


def runs_of(masks: BoolArray, min_area_px: int = 2) -> Runs:
    """Runs of decoded masks, each connected component a mask, bool (M, H, W).

    Masks that were cut in pieces become several.
    """
    runs = join_runs([mask_runs(mask) for mask in masks])
    return part_runs(*runs, masks.shape[1:], min_area_px, max_runs=masks.size)
