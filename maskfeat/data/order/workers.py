"""Workers of a loader that die, or cannot hand over their batch: an error of one sentence."""

from __future__ import annotations

import errno
import os
import re
import traceback
from concurrent.futures import BrokenExecutor
from multiprocessing import queues
from typing import Any

from torch._utils import ExceptionWrapper

_GO_ON = "--ckpt_path last goes on from the last checkpoint"
_FULL = (
    "a worker that reads data found no room in /dev/shm, by which it hands over its batches; make "
    "it larger (docker run --shm-size), or lower data.batch_size or data.num_workers, which may "
    f"be 0; {_GO_ON}"
)
_NO_FILES = (
    "too many files are open for workers to hand over batches; raise the limit (ulimit -n), or "
    f"lower data.num_workers; {_GO_ON}"
)
# Torch's words for a worker that is no more, with the signal where it knows.
_SHARER = "multiprocessing.resource_sharer"
_DEAD = re.compile(r"DataLoader worker \(pid.*?\) (?:is killed by signal: ([\w ]+)|exited)")


def prepare_worker(_: int) -> None:
    """Let a batch that cannot be handed over end the run; for `worker_init_fn`.

    A worker's queue sends by a thread. What fails there is printed, the batch is forgotten, and
    the loader waits for it for ever.
    """
    queues.Queue._on_queue_feeder_error = _send_error  # type: ignore[attr-defined]


def _send_error(queue: Any, error: Exception, item: Any) -> None:  # noqa: ANN401 - of torch
    """Send why a batch cannot be sent, in its place; the loader raises it."""
    if not isinstance(item, tuple):  # already bytes: the pipe itself is broken
        os._exit(1)  # which the loader sees
    number, _ = item  # as workers of torch put it
    reported: Exception = error
    if "shared memory" in str(error) or getattr(error, "errno", None) == errno.ENOSPC:
        reported = ChildProcessError(_FULL)
    elif getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
        reported = ChildProcessError(_NO_FILES)
    wrapped = ExceptionWrapper((type(reported), reported, None), "in DataLoader worker")  # type: ignore[no-untyped-call]
    queue.put((number, wrapped))


def _killed(how: str) -> str:
    return (
        f"a worker that reads data was {how}, mostly because memory or /dev/shm ran out; lower "
        f"data.num_workers or data.streaming.shuffle_buffer_mb; {_GO_ON}"
    )


def death_of_worker(error: BaseException) -> str | None:
    """The sentence for an error of a worker; None for other errors.

    Args:
        error: What ended a run. Torch raises at any moment when a worker has died, such as while
            a checkpoint is written, so those that it came in the midst of are looked at, too.
    """
    seen: BaseException | None = error
    while seen is not None:
        message = str(seen)
        if isinstance(seen, RuntimeError) and (dead := _DEAD.search(message)):
            if dead[1] == "Bus error":
                return _FULL
            return _killed(
                f"killed by the system (signal: {dead[1].strip()})" if dead[1] else "killed"
            )
        frames = traceback.walk_tb(seen.__traceback__)
        is_handed_over = any(frame.f_globals.get("__name__") == _SHARER for frame, _ in frames)
        if isinstance(seen, OSError | EOFError) and is_handed_over:
            return _killed("killed")  # while a batch was taken over: nobody answers at its socket
        if isinstance(seen, BrokenExecutor):  # of the commands of shards
            return (
                "a worker process was killed, mostly because memory ran out; lower --num_workers; "
                "then give the same command again"
            )
        if isinstance(seen, RuntimeError) and "Too many open files" in message:
            return _NO_FILES
        seen = seen.__cause__ or seen.__context__
    return None
