"""Checksums in .safetensors files: the format has none, so a flipped bit is a wrong weight."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from typing import Any

CHECKSUM_KEY = "maskfeat_crc32"
_CHUNK = 2**20


def with_checksum(
    serialize: Callable[..., bytes], tensors: Mapping[str, Any], metadata: Mapping[str, str]
) -> bytes:
    """The content of a .safetensors file that holds the checksum of its tensors and metadata.

    Args:
        serialize: `safetensors.torch.save` or `safetensors.numpy.save`.
        tensors: By name.
        metadata: What else the file holds. A checksum in it, of another file, is replaced.
    """
    content = serialize(dict(tensors))  # tensors lie in the same order with any metadata
    start = 8 + int.from_bytes(content[:8], "little")
    found = zlib.crc32(memoryview(content)[start:], _crc32_of(metadata))
    return serialize(dict(tensors), metadata={**metadata, CHECKSUM_KEY: f"{found:08x}"})


def check_tensors(path: str | os.PathLike[str], metadata: Mapping[str, str] | None) -> None:
    """Compare the content of a .safetensors file with the checksum in its metadata, if any.

    Raises:
        ValueError: If they differ.
    """
    if metadata is None or CHECKSUM_KEY not in metadata:
        return
    found = _crc32_of(metadata)
    with open(path, "rb") as file:
        file.seek(8 + int.from_bytes(file.read(8), "little"))
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    if metadata[CHECKSUM_KEY] != f"{found:08x}":
        raise ValueError(
            f"'{path}' is damaged, or was changed after maskfeat wrote it: its checksum is another;"
            " take another copy, or export it again"
        )


def _crc32_of(metadata: Mapping[str, str]) -> int:
    others = sorted((key, value) for key, value in metadata.items() if key != CHECKSUM_KEY)
    return zlib.crc32(json.dumps(others).encode())
