"""Where the file of a network lies. Torch is not needed to say that."""

from __future__ import annotations

import os
from pathlib import Path

# Networks that come with the package.
_SHIPPED = Path(__file__).parent.parent / "weights"


def find_model(path: str | os.PathLike[str]) -> Path:
    """The file of a path, or of the name of a network that comes with the package.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is neither a path nor a name.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"a model must be a name or the path of a file, got {type(path).__name__}")
    shipped = _SHIPPED / f"{path}.safetensors"
    file = shipped if shipped.is_file() else Path(path)
    if not file.is_file():
        names = ", ".join(sorted(file.stem for file in _SHIPPED.glob("*.safetensors")))
        raise FileNotFoundError(
            f"no model file at '{path}'; give a checkpoint of `lightning fit` (.ckpt), a "
            f".safetensors or .onnx file made by maskfeat, or one of the names {names}"
        )
    return file
