"""Work shared out: to processes item by item, or to any executor part by part; and a bar.

For executors see `maskfeat.data.convert.engines`. A part is idempotent: what is done of it is not
done again. So a part whose worker dies is given to another one, and a driver that is killed is
called again.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from rich import progress

In = TypeVar("In")
Out = TypeVar("Out")
P = ParamSpec("P")

_LOG = logging.getLogger("maskfeat")
NUM_REPEATS = 3  # of a part whose worker has died, beside the first try
# Results may be a megabyte each; a few for each process hide the waits of an uneven load.
_AHEAD = 3


class OrderedPool:
    """Processes that map a function over items.

    Their number 0 works in this one; None takes one for each core that this process may use.
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
    """A bar over the samples of the input at hand, one of a number of inputs."""

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
        """Go on to the next input, of `total` samples; some of them are done already."""
        self._number += 1
        text = f"{name} ({self._number} of {self._num_inputs})"
        self._bar.reset(self._task, description=text, total=total, completed=completed, rate="")

    def advance(self) -> None:
        """One sample more is done."""
        self._bar.advance(self._task)
        speed = self._bar.tasks[0].speed
        self._bar.update(self._task, rate=f"{speed:.1f}/s" if speed else "")


@dataclass(frozen=True)
class Engine:
    """Where parts are worked on.

    Attributes:
        open: Gives an executor, in a `with` block; called again where all its workers have died.
        num_parts: How many parts to make of the work; None makes as many as there are pieces.
        num_repeats: How often a part is repeated whose worker has died. Dask and Ray do it
            themselves, as often as `NUM_REPEATS`.
        lost: What tells that a worker, or a process of it, has died, or that its time is over:
            raised by the engine, or within the work. All else is raised to the caller.
    """

    open: Callable[[], AbstractContextManager[Executor]]
    num_parts: int | None = None
    num_repeats: int = NUM_REPEATS
    lost: tuple[type[Exception], ...] = (BrokenExecutor,)

    def shares(self, pieces: Sequence[In]) -> list[Sequence[In]]:
        """Pieces of work dealt out to the parts."""
        num = min(self.num_parts or len(pieces), len(pieces))
        return [pieces[number::num] for number in range(num)]


def run_parts(
    work: Callable[[In], Out],
    parts: Sequence[In],
    engine: Engine,
    on_done: Callable[[], None] = lambda: None,
) -> list[Out]:
    """Work on all parts; where a worker dies, as by kill -9, its part is repeated.

    Args:
        work: Does one part, and may be repeated. It goes to other processes, as its argument and
            its result do.
        parts: What to call it with.
        engine: Where.
        on_done: Called after each part.

    Returns:
        Results, in the order of the parts.

    Raises:
        RuntimeError: If the workers of a part died more than `engine.num_repeats` times.
        Exception: What `work` raises, or the engine where it cannot work on a part at all; parts
            that have not begun are canceled then.
    """
    results: dict[int, Out] = {}
    lost: dict[int, Exception] = {}
    for attempt in range(engine.num_repeats + 1):
        if attempt:
            _LOG.warning("workers of %d parts have died; they are repeated", len(lost))
        lost = _run_once(_Guarded(work), parts, engine, results, on_done)
        if not lost:
            return [results[number] for number in range(len(parts))]
    cause = next(iter(lost.values()))
    # How often an engine repeats parts itself is its own to say.
    times = f", each {engine.num_repeats + 1} times" if engine.num_repeats else ""
    raise RuntimeError(
        f"the workers of {len(lost)} parts died{times} "
        f"({type(cause).__name__}: {cause}); give them more memory, and call the same again: "
        "what is done is not done again"
    ) from cause


def _run_once(
    guarded: _Guarded,
    parts: Sequence[In],
    engine: Engine,
    results: dict[int, Out],
    on_done: Callable[[], object],
) -> dict[int, Exception]:
    """Work on the parts without a result, and add theirs; what lost the workers of the others."""
    lost: dict[int, Exception] = {}
    futures: dict[Future[Any], int] = {}
    with engine.open() as executor:
        try:
            for number in (n for n in range(len(parts)) if n not in results):
                try:
                    futures[executor.submit(guarded, parts[number])] = number
                except engine.lost as error:  # the executor is broken already
                    lost[number] = error
            for future in as_completed(futures):
                try:
                    found, raised = future.result()
                    if raised is not None:
                        raise raised
                except engine.lost as error:
                    lost[futures[future]] = error
                else:
                    results[futures[future]] = found
                    on_done()
        finally:
            for future in futures:
                future.cancel()
    return lost


@dataclass(frozen=True)
class _Guarded:
    """Work that returns what it raises; engines make their own errors of it, or repeat it."""

    work: Callable[[Any], Any]

    def __call__(self, part: Any) -> tuple[Any, Exception | None]:  # noqa: ANN401 - any work
        try:
            return self.work(part), None
        except Exception as error:
            return None, error


class InThisProcess(Executor):
    """Does what is submitted at once, in the process that submits it."""

    def submit(self, fn: Callable[P, Out], /, *args: P.args, **kwargs: P.kwargs) -> Future[Out]:
        """Call the function; KeyboardInterrupt comes through."""
        future: Future[Out] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


HERE = Engine(InThisProcess)
