"""One line in the terminal while shards are written or read."""

from __future__ import annotations

from rich import progress


class Progress:
    """A bar over the samples of the input at hand.

    Args:
        is_shown: Whether there is one at all.
        num_inputs: How many there will be.
    """

    def __init__(self, is_shown: bool, num_inputs: int) -> None:
        self._bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[rate]}"),
            progress.TimeRemainingColumn(),
            disable=not is_shown,
        )
        self._num_inputs, self._number = num_inputs, 0
        self._task = self._bar.add_task("", total=None, rate="")

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def start(self, name: str, total: int, completed: int = 0) -> None:
        """Go on to the next input.

        Args:
            name: What to call it.
            total: Its samples.
            completed: How many of them are done already.
        """
        self._number += 1
        text = f"{name} ({self._number} of {self._num_inputs})"
        self._bar.reset(self._task, description=text, total=total, completed=completed, rate="")

    def advance(self) -> None:
        """One sample more is done."""
        self._bar.advance(self._task)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, rate=f"{speed:.1f}/s" if speed else "")
