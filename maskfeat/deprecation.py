"""Names of before, which work for one release more."""

from __future__ import annotations

import warnings


def warn_renamed(old: str, new: str) -> None:
    """Say that a name has changed, at the line that called our function."""
    warnings.warn(
        f"{old} is now {new}; the former name goes with the next release",
        FutureWarning,
        stacklevel=3,
    )
