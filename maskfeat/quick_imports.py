"""Imports while the garbage collector rests. Nothing slow is imported here."""

from __future__ import annotations

import gc
import sys


class QuickImports:
    """`with QuickImports(): import torch` takes a fifth less CPU time.

    What libraries make while they are imported stays, and the garbage collector would look
    through it many times: it rests, and then leaves all that there is alone. For the beginning of
    a program, as that holds for whatever was made before, too: once torch is there, nothing is
    done.
    """

    def __enter__(self) -> None:
        self._begins = gc.isenabled() and "torch" not in sys.modules
        if self._begins:
            gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._begins:
            gc.freeze()
            gc.enable()
