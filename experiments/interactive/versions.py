"""Which version of the code gave a result."""

from __future__ import annotations

import subprocess


def commit() -> str:
    """The commit this runs at, with "-dirty" if files differ from it."""
    words = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip()
