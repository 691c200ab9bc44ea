"""The console script: Ctrl-C while a command is imported ends it with one line and status 130."""

from __future__ import annotations

import os
import signal


def _end(*_: object) -> None:
    # No exception: raised in an import it is printed, swallowed or turned into another.
    os.write(2, b"interrupted\n")
    os._exit(130)  # as shells count: 128 + the number of the signal


def raise_at_ctrl_c() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again: everything is imported, and work begins."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def main() -> None:
    """What `lightning`, `maskfeat` and `python -m maskfeat` call, see `maskfeat.cli.main`."""
    from maskfeat.cli import main as run

    run()


# Before anything slow is imported; what is set otherwise, as by nohup, stays.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, _end)
