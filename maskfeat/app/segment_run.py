"""Images are segmented one after the other, or in several processes, each image for itself.

What is slow to import waits for the first image that can be read.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TYPE_CHECKING, NamedTuple

from maskfeat.app.segment_task import Task, Work, origin_of
from maskfeat.data.convert.pool import num_cores, prepare_worker
from maskfeat.data.folder import MAX_MEGAPIXELS, read_image
from maskfeat.quick_imports import QuickImports

if TYPE_CHECKING:
    from maskfeat.app.segment_images import Encoder

_AHEAD = 2  # images for each process that are waiting or at work
_LOG = logging.getLogger("maskfeat")


class Done(NamedTuple):
    """An image that a worker is done with: what is wrong with it, and what the log is to say."""

    error: ValueError | None
    log: list[tuple[int, str]]


class ImageRun:
    """Segments images of a run one after the other; its network is loaded for the first whole one.

    Args:
        work: What is the same for all of them.
        check_interrupt: Raises KeyboardInterrupt, if there was one.
    """

    def __init__(self, work: Work, check_interrupt: Callable[[], None] = lambda: None) -> None:
        self._work = work
        self._check_interrupt = check_interrupt
        self._encoder: Encoder | None = None

    def __call__(self, task: Task) -> ValueError | None:
        """Segment one image and write its results; what is wrong with it, or None."""
        work = self._work
        self._check_interrupt()
        try:
            origin = origin_of(task.path, work.settings)
            rgb = read_image(task.path, MAX_MEGAPIXELS, work.read_as)
        except ValueError as error:
            return error
        except OSError as error:  # a link that leads nowhere, a file that may not be read
            return ValueError(f"'{task.path}' cannot be read: {error.strerror or error}")
        with QuickImports():  # torch comes with it
            from maskfeat.app.segment_images import encoder_of, segment_image

        if self._encoder is None:
            self._encoder = encoder_of(work.model, work.device)
        self._check_interrupt()
        try:
            segment_image(rgb, task, origin, self._encoder, work)
        except ValueError as error:
            return error
        return None


def in_processes(
    work: Work, tasks: Sequence[Task], num_workers: int
) -> Iterator[ValueError | None]:
    """Segment images in several processes, each with its share of the cores.

    A process that dies, as when memory runs out, costs the image that it had at work: those that
    were in flight (two for each process) are done again, each in a process of its own, which shows
    which one it was.

    Yields:
        For each image, as it is done, what is wrong with it, or None.
    """
    waiting = deque(tasks)
    while waiting:
        suspects: list[Task] = []
        yield from _until_one_dies(work, waiting, num_workers, suspects)
        for task in suspects:
            alone, again = deque([task]), list[Task]()
            yield from _until_one_dies(work, alone, 1, again)
            if again:
                yield ValueError(
                    f"the process that segmented '{task.path}' died, perhaps for want of memory; "
                    "take fewer --workers or a smaller --max_megapixels for it"
                )


def _until_one_dies(
    work: Work, waiting: deque[Task], num_workers: int, suspects: list[Task]
) -> Iterator[ValueError | None]:
    """Segment images from the left of `waiting` until all are done, or a process dies.

    Then `suspects` gets the images that were in flight.
    """
    context = get_context("spawn")  # fork is unsafe beside threads
    threads = max(1, num_cores() // num_workers)
    pool = ProcessPoolExecutor(num_workers, context, _start_worker, (work, threads))
    flying: dict[Future[Done], Task] = {}
    try:
        while (waiting or flying) and not suspects:
            while waiting and len(flying) < _AHEAD * num_workers:
                flying[pool.submit(_segment, waiting[0])] = waiting[0]
                waiting.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                task = flying.pop(future)
                try:
                    result = future.result()
                except BrokenProcessPool:
                    suspects.append(task)
                    continue
                for level, message in result.log:
                    _LOG.log(level, "%s", message)
                yield result.error
    except BrokenProcessPool:  # one died between two images
        pass
    finally:
        pool.shutdown(wait=not suspects, cancel_futures=True)
    suspects += flying.values()


class _KeptLog(logging.Handler):
    """Keeps messages; they go with a result, to where the progress bar is."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        self.messages.append((record.levelno, record.getMessage()))


_WORKER: list[tuple[ImageRun, _KeptLog]] = []  # of this process


def _start_worker(work: Work, num_threads: int) -> None:
    prepare_worker()
    import torch

    torch.set_num_threads(num_threads)
    kept = _KeptLog()
    _LOG.handlers, _LOG.propagate = [kept], False
    _LOG.setLevel(logging.INFO)
    _WORKER.append((ImageRun(work), kept))


def _segment(task: Task) -> Done:
    (run, kept), *_ = _WORKER
    kept.messages = []
    return Done(run(task), kept.messages)
