"""Where the file of a network lies. Torch is not needed to say that."""

from __future__ import annotations

import os
from pathlib import Path

# The file of a network in a folder of `maskfeat.save_pretrained`, as hubs name it.
WEIGHTS_NAME = "model.safetensors"
# Networks that come with the package.
_SHIPPED = Path(__file__).parent.parent / "weights"


def find_model(path: str | os.PathLike[str]) -> Path:
    """The file of a path, of a folder of `maskfeat.save_pretrained`, or of a network's name.

    Networks that come with the package have names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is neither a path nor a name.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"a model must be a name or the path of a file, got {type(path).__name__}")
    shipped = _SHIPPED / f"{path}.safetensors"
    file = shipped if shipped.is_file() else Path(path)
    file = file / WEIGHTS_NAME if file.is_dir() else file
    if not file.is_file():
        names = ", ".join(sorted(file.stem for file in _SHIPPED.glob("*.safetensors")))
        raise FileNotFoundError(
            f"no model file at '{file}'; give a checkpoint of `lightning fit` (.ckpt), a "
            f".safetensors or .onnx file made by maskfeat, or one of the names {names}"
        )
    return file
