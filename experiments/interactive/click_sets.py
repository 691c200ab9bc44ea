"""The field's own sets for interactive segmentation, in their usual layouts.

The layouts are those that the code of RITM reads (Sofiiuk et al., arXiv:2102.06583), and f-BRS
before it and nearly all work since. They are read here as there, so that numbers compare:

    GrabCut     data_GT/*.*         boundary_GT/*.*     50 objects
    Berkeley    images/*.*          masks/*.*           100 objects in 96 images
    DAVIS       img/*.*             gt/*.*              345 frames
    COCO_MVal   img/*.*             gt/*.*              800 objects
    SBD         img/NAME.jpg        inst/NAME.mat       6,671 objects in 2,857 images (val.txt)

A mask goes with the image of the same name. RITM keeps its list of SBD's objects in a pickle; it
is neither read nor written here.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from maskfeat.arrays import RgbImage
from maskfeat.batch import ClickTarget
from maskfeat.data.folder import read_image, without_alpha
from maskfeat.data.order.schedule import evenly_spaced

Target = npt.NDArray[np.int8]

_IGNORED = 128  # in the masks of GrabCut and Berkeley
# What a file leads to that is of another kind, is broken, or lacks the field.
_MATLAB_ERRORS = (
    MatReadError,
    NotImplementedError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    OSError,
    zlib.error,
)


class MaskFolders(Sequence[ClickTarget]):
    """A folder of images beside a folder of masks, one object each; base of those below.

    Args:
        folder: Holds both folders.
        num_targets: Most targets, evenly spaced over the images in order of name; None takes
            all.

    Raises:
        FileNotFoundError: If one of the two folders is missing, or an image has no mask.
        ValueError: If there is no image.
    """

    images: ClassVar[str]
    masks: ClassVar[str]

    def __init__(self, folder: str | Path, num_targets: int | None = None) -> None:
        self.folder = Path(folder)
        images = _files(self.folder, self.images)
        masks = {_name(path): path for path in _files(self.folder, self.masks)}
        for image in images:
            if _name(image) not in masks:
                raise FileNotFoundError(
                    f"'{image}' has no mask; '{self.folder / self.masks}' should hold one of that "
                    "name"
                )
        chosen = [images[i] for i in evenly_spaced(len(images), num_targets)]
        self._paths = [(image, masks[_name(image)]) for image in chosen]

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, i: int) -> ClickTarget:  # type: ignore[override]
        """The object of image i.

        Raises:
            ValueError: If a file cannot be read, or image and mask differ in size.
        """
        image, mask = self._paths[i]
        return _click_target(_name(image), image, self._target(_read_mask(mask)), mask)

    @abstractmethod
    def _target(self, mask: RgbImage) -> Target:
        """From the mask as RGB, (H, W, 3), to 1 object, 0 background, -1 not counted."""


class GrabCut(MaskFolders):
    """GrabCut (Rother et al., SIGGRAPH 2004): `data_GT` and `boundary_GT`.

    In a mask 128 is the band around the object that no score counts; what is above is object.
    """

    images = "data_GT"
    masks = "boundary_GT"

    def _target(self, mask: RgbImage) -> Target:
        values = mask[..., 2]  # the first channel as OpenCV reads it; all are alike
        return np.where(values == _IGNORED, -1, values > _IGNORED).astype(np.int8)


class Berkeley(GrabCut):
    """Berkeley (McGuinness and O'Connor, Pattern Recognition 2010): `images` and `masks`.

    Masks are as those of `GrabCut`.
    """

    images = "images"
    masks = "masks"


class Davis(MaskFolders):
    """The 345 frames of DAVIS 2016 (Perazzi et al., CVPR 2016) taken by the field: `img`, `gt`.

    Pixels that are not black in a mask are object; all pixels count.
    """

    images = "img"
    masks = "gt"

    def _target(self, mask: RgbImage) -> Target:
        return np.where(mask.any(axis=2), 1, 0).astype(np.int8)


class CocoMVal(Davis):
    """COCO_MVal (f-BRS, Sofiiuk et al., CVPR 2020), laid out as DAVIS: ten objects of a class."""


class Sbd(Sequence[ClickTarget]):
    """SBD (Hariharan et al., ICCV 2011), each instance an object of its own.

    The folder is the `dataset` of the authors' archive: `img/NAME.jpg`, `inst/NAME.mat` and lists
    of names `train.txt` and `val.txt`. Every number but 0 in a file's map of instances is an
    object; all other pixels are background, and all count. All files are opened once to know how
    many there are, some seconds for `val`.

    Args:
        folder: The folder.
        num_targets: Most targets, evenly spaced over all objects; None takes all.
        split: "val" or "train".

    Raises:
        FileNotFoundError: If the list, or a file it names, is missing.
        ValueError: If the list is empty or a file holds no instances.
    """

    def __init__(
        self, folder: str | Path, num_targets: int | None = None, split: str = "val"
    ) -> None:
        self.folder = Path(folder)
        listed = self.folder / f"{split}.txt"
        if not listed.is_file():
            raise FileNotFoundError(
                f"no list '{listed}'; give the folder of SBD that holds img, inst and val.txt"
            )
        names = listed.read_text().split()
        if not names:
            raise ValueError(f"the list '{listed}' names no image")
        objects = [
            (name, int(number))
            for name in names
            for number in np.unique(self._instances(name))
            if number != 0
        ]
        if not objects:
            raise ValueError(f"the files that '{listed}' names hold no instance")
        self._objects = [objects[i] for i in evenly_spaced(len(objects), num_targets)]

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, i: int) -> ClickTarget:  # type: ignore[override]
        """Object i.

        Raises:
            ValueError: If a file cannot be read, or image and map differ in size.
        """
        name, number = self._objects[i]
        target = (self._instances(name) == number).astype(np.int8)
        image = self.folder / "img" / f"{name}.jpg"
        return _click_target(f"{name}/{number}", image, target, self.folder / f"inst/{name}.mat")

    def _instances(self, name: str) -> npt.NDArray[np.integer[Any]]:
        """The map of instances of one image, (H, W)."""
        path = self.folder / f"inst/{name}.mat"
        if not path.is_file():
            raise FileNotFoundError(f"a list of '{self.folder}' names '{path}', which is not there")
        try:
            instances = np.asarray(loadmat(path)["GTinst"]["Segmentation"][0, 0])
        except _MATLAB_ERRORS as error:
            raise ValueError(
                f"'{path}' holds no GTinst.Segmentation, as the files of SBD do: {error}"
            ) from error
        if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer):
            raise ValueError(
                f"the instances of '{path}' must be integers of shape (H, W), "
                f"got {instances.dtype} {instances.shape}"
            )
        return instances


def _click_target(key: str, image: Path, target: Target, mask: Path) -> ClickTarget:
    rgb = _read_rgb(image)
    if rgb.shape[:2] != target.shape:
        raise ValueError(
            f"'{image}' and '{mask}' must have one size, "
            f"got {rgb.shape[0]} x {rgb.shape[1]} and {target.shape[0]} x {target.shape[1]}"
        )
    return ClickTarget(key, rgb, target)


def _read_rgb(path: Path) -> RgbImage:
    """An image as RGB, turned as its EXIF tag says."""
    if not path.is_file():
        raise FileNotFoundError(f"'{path}' is not there")
    return read_image(path)


def _read_mask(path: Path) -> RgbImage:
    """A mask as RGB; where its alpha alone varies, alpha in all three."""
    rgb = _read_rgb(path)
    with Image.open(path) as image:
        if image.mode not in ("LA", "PA", "RGBA"):
            return rgb
        try:
            values = without_alpha(np.asarray(image.convert("RGBA")))
        except ValueError as error:
            raise ValueError(f"'{path}' cannot be read as a mask: {error}") from error
    return values if values.ndim == 3 else np.repeat(values[..., None], 3, axis=2)


def _files(folder: Path, name: str) -> list[Path]:
    """The files of a folder in order of name, those with an ending, none of them hidden."""
    if not (folder / name).is_dir():
        raise FileNotFoundError(f"no folder '{folder / name}'; give the folder that holds '{name}'")
    paths = sorted(path for path in (folder / name).glob("[!.]*.*") if path.is_file())
    if not paths:
        raise ValueError(f"the folder '{folder / name}' holds no images")
    return paths


def _name(path: Path) -> str:
    """What an image and its mask share: the name up to its first point."""
    return path.name.split(".")[0]
