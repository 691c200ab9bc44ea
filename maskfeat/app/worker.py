"""A thread that does what is asked for, the newest first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class Worker:
    """One thread that does first what was asked for last; what is done ahead waits.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, function: Callable[[], T], is_ahead: bool) -> Future[T]:
        """Have a function called; the future can be canceled until then."""
        future: Future[T] = Future()
        with self._lock:
            self._waiting.insert(0 if is_ahead else len(self._waiting), (future, function))
        self._pool.submit(self._work)
        return future

    def hurry(self, future: Future[Any]) -> None:
        """Do this next, if it still waits."""
        with self._lock:
            self._waiting.sort(key=lambda job: job[0] is future)

    def close(self) -> None:
        """Do no more of what waits."""
        with self._lock:
            for future, _ in self._waiting:
                future.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _work(self) -> None:
        with self._lock:
            future, function = self._waiting.pop()
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:  # the one who waits for the result gets it
            future.set_exception(error)
