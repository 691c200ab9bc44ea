"""Features of images on disk, so that an image is encoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from maskfeat.array_file import read_arrays
from maskfeat.features.reading import Features, features_of
from maskfeat.files import whole_file

_OPTIONAL = ("boundary_logits", "color_distances")
_INNER = "inner_"  # and the stride
_LARGEST_HALF = torch.finfo(torch.float16).max


class FeatureCache:
    """Keeps the features of images, in half precision, one file for each image.

    A file is named by the image's pixels, the model's class and settings, and its weights as they
    are when the image is read, so neither another image nor another training is taken for it.
    Features are rounded to half precision when they are first made, too: they are the same whether
    they were kept or not. A damaged file is made anew.

    Args:
        folder: Made when it is needed.
        model: Gives features; an nn.Module.
        inner_strides: See `FeaturePyramid.features`; these maps are kept, too.

    Raises:
        ValueError: If the model is not an nn.Module, so that its weights cannot be compared, or
            `folder` is a file or lies below one.
    """

    def __init__(
        self, folder: str | Path, model: object, inner_strides: Sequence[int] = ()
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"cache_dir needs a model that is an nn.Module, got {type(model).__name__}; "
                "leave cache_dir out"
            )
        self.folder = Path(folder)
        for place in (self.folder, *self.folder.parents):
            if place.exists() and not place.is_dir():
                raise ValueError(
                    f"cache_dir must be a folder, but '{place}' is a file; name another folder"
                )
        self._model = model
        self._inner_strides = tuple(inner_strides)

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """The features of an image, uint8, shape (H, W, 3); from disk, if they are there."""
        wanted = f" inner {self._inner_strides}" if self._inner_strides else ""
        digest = hashlib.sha256(model_digest(self._model) + wanted.encode())
        digest.update(str(rgb.shape).encode())
        digest.update(np.ascontiguousarray(rgb).tobytes())
        path = self.folder / f"{digest.hexdigest()[:32]}.npz"
        size = (rgb.shape[0], rgb.shape[1])
        kept = read_arrays(path, ["scale", "strides", "level_0"])
        if kept is not None:
            return features_of_arrays(kept, size)
        made = arrays_of(features_of(self._model, rgb, self._inner_strides))  # type: ignore[arg-type]
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, **made)
        return features_of_arrays(made, size)


def arrays_of(features: Features) -> dict[str, npt.NDArray[Any]]:
    """Features as arrays to keep, in half precision."""
    levels = [level.clamp(-_LARGEST_HALF, _LARGEST_HALF).half() for level in features.pyramid]
    arrays = {f"level_{i}": level.cpu().numpy() for i, level in enumerate(levels)}
    for name in _OPTIONAL:
        values = getattr(features, name)
        if values is not None:
            arrays[name] = values.half().cpu().numpy()
    for stride, level in features.inner.items():
        inner = level.clamp(-_LARGEST_HALF, _LARGEST_HALF).half()
        arrays[f"{_INNER}{stride}"] = inner.cpu().numpy()
    return {**arrays, "scale": np.array(features.scale), "strides": np.array(features.strides)}


def features_of_arrays(arrays: dict[str, npt.NDArray[Any]], size: tuple[int, int]) -> Features:
    """Features of an image of this size from the arrays of `arrays_of`."""
    strides = arrays["strides"].tolist()
    levels = [torch.from_numpy(arrays[f"level_{i}"]).float() for i in range(len(strides))]
    optional = {n: torch.from_numpy(arrays[n]).float() for n in _OPTIONAL if n in arrays}
    inner = {
        int(name.removeprefix(_INNER)): torch.from_numpy(arrays[name]).float()
        for name in arrays
        if name.startswith(_INNER)
    }
    return Features(levels, strides, size, float(arrays["scale"]), inner=inner, **optional)


def model_digest(model: nn.Module) -> bytes:
    """A digest of the class of a model, its settings and its weights as they are now.

    It takes 20 ms for 3 million weights. Where tensors lie and how often they were written to would
    say less: torch does not count what is written through `.data`. Of a fused network it is that of
    the network it was made from, as folded weights are rounded otherwise from machine to machine.
    """
    unfused: bytes | None = getattr(model, "unfused_digest", None)
    if unfused is not None:
        return unfused
    settings = getattr(model, "config", None)
    if isinstance(settings, dict):  # settings that came later count where they are on alone
        later = ("boundary", "finest_channels", "color", "boundary_width")
        settings = {k: v for k, v in settings.items() if v or k not in later}
    digest = hashlib.sha256(f"{type(model).__qualname__} {settings!r}".encode())
    for name, values in sorted(model.state_dict().items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        bits = values.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(bits.numpy().tobytes())
    return digest.digest()
