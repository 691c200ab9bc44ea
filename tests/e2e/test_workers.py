"""Batches that cannot be handed over, and workers that die: the loader says so."""

from __future__ import annotations

import errno
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_sharer
from typing import Any

import pytest
from torch.utils.data import DataLoader, Dataset

from maskfeat.data.order.workers import death_of_worker, prepare_worker


class Unsendable:
    """What fails on its way out of a worker, in the thread that sends."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


class OneUnsendable(Dataset[Any]):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, item: int) -> Any:
        return Unsendable(self.error) if item == 2 else item


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (RuntimeError("unable to allocate shared memory(shm)"), OSError, "no room in /dev/shm"),
        (OSError(errno.ENOSPC, "No space left"), OSError, "no room in /dev/shm"),
        (OSError(errno.EMFILE, "Too many"), OSError, "too many files are open"),
        (TypeError("cannot be pickled"), TypeError, "cannot be pickled"),
    ],
)
def test_a_batch_that_cannot_be_sent_ends_the_loop(
    error: Exception, kind: type[Exception], told: str
) -> None:
    loader = DataLoader(
        OneUnsendable(error),
        batch_size=None,
        num_workers=1,
        worker_init_fn=prepare_worker,
        multiprocessing_context="fork",
        timeout=60,  # or a loader that waits for ever would be one that passes
    )
    batches = iter(loader)
    assert [next(batches), next(batches)] == [0, 1]
    with pytest.raises(kind, match=told):
        next(batches)


def test_a_worker_that_dies_while_it_hands_over_a_batch_is_said() -> None:
    shared = resource_sharer.DupFd(0)
    resource_sharer.stop()  # as if its process had ended
    with pytest.raises(OSError) as lost:  # noqa: PT011 - whichever the system gives
        shared.detach()
    assert "a worker that reads data was killed" in death_of_worker(lost.value)
    assert death_of_worker(ConnectionResetError()) is None


def test_the_death_of_a_worker_is_found_beneath_what_it_led_to() -> None:
    def fail_beneath(words: str) -> BaseException:
        try:
            try:
                raise RuntimeError(words)
            except RuntimeError:
                raise RuntimeError("unexpected pos 512 vs 0")  # noqa: B904 - as torch.save does
        except RuntimeError as error:
            return error

    killed = fail_beneath("DataLoader worker (pid 12) is killed by signal: Killed. ")
    assert "was killed by the system (signal: Killed), mostly because memory" in str(
        death_of_worker(killed)
    )
    gone = RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly")
    assert str(death_of_worker(gone)).startswith("a worker that reads data was killed, mostly")
    crowded = fail_beneath("DataLoader worker (pid 12) is killed by signal: Bus error. It is ...")
    assert "no room in /dev/shm" in str(death_of_worker(crowded))
    assert death_of_worker(RuntimeError("the loss became nan")) is None


def test_the_death_of_a_worker_of_a_command_is_a_sentence() -> None:
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        future = pool.submit(os._exit, 1)
        with pytest.raises(BrokenProcessPool) as caught:
            future.result(timeout=60)
    assert "lower --num_workers" in str(death_of_worker(caught.value))
