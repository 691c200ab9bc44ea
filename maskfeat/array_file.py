"""Arrays that are kept in a file until they can be made again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, npt.NDArray[Any]] | None:
    """All arrays of an .npz file by name, whose checksums are compared.

    None if the file is not there, is none that `numpy.savez` wrote, lacks one of `names` or is
    damaged: whoever can make it does so again.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in {*arrays.files, *names}}
    except Exception:  # the parsers of zip and npy raise OSError, KeyError, BadZipFile, ...
        return None
