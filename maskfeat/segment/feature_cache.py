"""Features of images on disk, so that an image is encoded once."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from maskfeat.features.reading import Features
from maskfeat.files import whole_file


class FeatureCache:
    """Keeps what a model says of images, in half precision, one file for each image.

    A file is named by the image's pixels and the model's weights, so neither another image
    nor another training is taken for it. Features are rounded to half precision when they are
    first made, too: they are the same whether they were kept or not.

    Args:
        folder: Made when it is needed.
        model: Gives the features; an nn.Module.

    Raises:
        ValueError: If the model is no nn.Module, whose weights could be told apart.
    """

    def __init__(self, folder: str | Path, model: object) -> None:
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"cache_dir needs a model that is an nn.Module, got {type(model).__name__}; "
                "leave cache_dir out"
            )
        self.folder = Path(folder)
        self._model = model
        self._weights = _digest_of_weights(model)

    def features(self, rgb: npt.NDArray[np.uint8]) -> Features:
        """The features of an image, uint8, shape (H, W, 3); from disk, if they are there."""
        path = self.folder / f"{_digest(rgb, self._weights)}.npz"
        if not path.is_file():
            self._write(path, rgb)
        with np.load(path, allow_pickle=False) as arrays:
            strides = arrays["strides"].tolist()
            levels = [torch.from_numpy(arrays[f"level_{i}"]).float() for i in range(len(strides))]
            return Features(levels, strides, (rgb.shape[0], rgb.shape[1]), float(arrays["scale"]))

    def _write(self, path: Path, rgb: npt.NDArray[np.uint8]) -> None:
        features: Features = self._model.features(rgb)  # type: ignore[operator]
        arrays: dict[str, npt.ArrayLike] = {
            f"level_{i}": level.half().cpu().numpy() for i, level in enumerate(features.pyramid)
        }
        arrays |= {"scale": features.scale, "strides": np.array(features.strides)}
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, allow_pickle=False, **arrays)


def _digest_of_weights(model: nn.Module) -> bytes:
    digest = hashlib.sha256()
    for name, values in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(values.detach().cpu().contiguous().numpy().tobytes())
    return digest.digest()


def _digest(rgb: npt.NDArray[np.uint8], weights: bytes) -> str:
    digest = hashlib.sha256(weights)
    digest.update(str(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb).tobytes())
    return digest.hexdigest()[:32]
