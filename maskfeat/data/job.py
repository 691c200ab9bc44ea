"""The processes that train together."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def is_in_job() -> bool:
    """Whether this process is one of several that train together."""
    return dist.is_available() and dist.is_initialized()


def gathered(own: T) -> list[T]:
    """What each process of a job has; all of them must call this at once."""
    if not is_in_job():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found
