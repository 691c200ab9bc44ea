"""Revisions: each answer says which state it shows, each action which state it is based on.

So of two tabs that show one image, the one that has not seen the other's last prompt gets a
conflict, instead of adding to what it does not show.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any


class StaleError(ValueError):
    """An action is based on a state that is gone. Nothing was changed; the page shows it anew."""


def revision_of(content: bytes) -> str:
    """A short name of a content, hexadecimal; of nothing the empty one."""
    return hashlib.sha256(content).hexdigest()[:16] if content else ""


def check_revision(request: Mapping[str, Any], revision: str, name: str) -> None:
    """Refuse an action on what is called `name` that was decided upon another state.

    One without `revision` is for any state.

    Raises:
        StaleError: If its `revision` is another one.
    """
    if request.get("revision", revision) != revision:
        raise StaleError(
            f"'{name}' was changed elsewhere, in another tab or on disk; it is shown now as it is, "
            "and the last step was not made"
        )
