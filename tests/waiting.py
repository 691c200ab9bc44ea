"""Waiting for what other processes do: as long as a busy machine may need, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

# Long, since it is only used up by a test that fails.
PATIENCE_S = 240.0


def wait_until(
    is_reached: Callable[[], object],
    what: Callable[[], object] = lambda: "",
    patience_s: float = PATIENCE_S,
    pause_s: float = 0.02,
) -> None:
    """Return as soon as something is so; fail with what `what` gives where it never is."""
    give_up = time.monotonic() + patience_s
    while not is_reached():
        assert time.monotonic() < give_up, what()
        time.sleep(pause_s)


def is_gone(process: int) -> bool:
    """Whether a process has ended, though nobody may have asked for its status yet."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
