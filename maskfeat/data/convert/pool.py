"""Work shared out to processes, its results taken in order, and a bar that shows how far it is."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from rich import progress

In = TypeVar("In")
Out = TypeVar("Out")

# Results may be a megabyte each; a few for each process hide the waits of an uneven load.
_AHEAD = 3


class OrderedPool:
    """Processes that map a function over items.

    Args:
        num_workers: Processes; 0 works in this one. None takes one for each core that this
            process may use.
    """

    def __init__(self, num_workers: int | None = None) -> None:
        if num_workers is not None and num_workers < 0:
            raise ValueError(f"num_workers must be at least 0, got {num_workers}")
        self.num_workers = num_cores() if num_workers is None else num_workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> OrderedPool:
        if self.num_workers > 0:
            context = multiprocessing.get_context("spawn")  # fork is unsafe beside threads
            self._pool = ProcessPoolExecutor(self.num_workers, context, initializer=prepare_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[In], Out], items: Iterable[In]) -> Iterator[Out]:
        """Results in the order of the items; the function must be one of a module's."""
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future[Out]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(function, item))
                if len(waiting) >= _AHEAD * self.num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def num_cores() -> int:
    """Cores that this process may use: on a cluster those of the job, not of the machine."""
    has_affinity = hasattr(os, "sched_getaffinity")  # not on macOS
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1


def prepare_worker() -> None:
    """Leave ctrl-C to the main process, and end when it ends, were it by kill -9."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


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
