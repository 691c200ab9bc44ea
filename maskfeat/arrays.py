"""Names of array types, one for each dtype. The shape is in the docstrings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]
IndexArray = npt.NDArray[np.intp]
FloatArray = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
RgbImage = npt.NDArray[np.uint8]  # (H, W, 3)
