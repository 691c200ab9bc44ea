"""Whether a file still contains the image that annotations belong to."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from maskfeat.data.folder import MAX_MEGAPIXELS, read_image
from maskfeat.files import file_digest


@dataclass(frozen=True)
class ImageIdentity:
    """What an image file held when it was read.

    Attributes:
        num_bytes: Size of the file.
        mtime_ns: When it was changed last, nanoseconds.
        file_digest: Of its bytes, hexadecimal.
        pixel_digest: Of its pixels upright: they stay when tags are edited, the bytes do not.
    """

    num_bytes: int
    mtime_ns: int
    file_digest: str
    pixel_digest: str

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)

    def has_equal_content(self, other: ImageIdentity) -> bool:
        """Whether both are of one image, whatever the files' times."""
        return self.file_digest == other.file_digest or self.pixel_digest == other.pixel_digest


def identity_from_json(entry: object) -> ImageIdentity | None:
    """Read what `to_json` wrote; None if it is something else."""
    match entry:
        case {
            "num_bytes": int(num_bytes),
            "mtime_ns": int(mtime_ns),
            "file_digest": str(file_digest),
            "pixel_digest": str(pixel_digest),
        }:
            return ImageIdentity(num_bytes, mtime_ns, file_digest, pixel_digest)
    return None


def identity_of(path: Path, rgb: npt.NDArray[np.uint8]) -> ImageIdentity:
    """What a file holds; `rgb`, shape (H, W, 3), is what `read_image` read from it.

    Raises:
        OSError: If the file cannot be read.
    """
    status = path.stat()
    return ImageIdentity(status.st_size, status.st_mtime_ns, file_digest(path), _pixel_digest(rgb))


def holds_image(path: Path, known: ImageIdentity) -> bool:
    """Whether a file holds an image that was read before.

    Equal size and time are believed; else the bytes are read, and decoded if these differ too.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it holds no image.
    """
    status = path.stat()
    if (status.st_size, status.st_mtime_ns) == (known.num_bytes, known.mtime_ns):
        return True
    if file_digest(path) == known.file_digest:
        return True
    return _pixel_digest(read_image(path, MAX_MEGAPIXELS)) == known.pixel_digest


def _pixel_digest(rgb: npt.NDArray[np.uint8]) -> str:
    digest = hashlib.blake2b(repr(rgb.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()
