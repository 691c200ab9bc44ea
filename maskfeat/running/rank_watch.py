"""A rank that stands still ends the run, and is named."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

_LOG = logging.getLogger("maskfeat")
_BEAT_S = 1.0
_GO_ON = "--ckpt_path last goes on from the last checkpoint"


class _Beat(NamedTuple):
    """What a rank writes: number of the beat, batches and images begun, seconds since the last."""

    number: int
    num_begun: int
    idle_s: int


class RankWatch(Callback):
    """Ends a run when a rank stands still or is gone, and names it.

    Each rank writes once a second into the store of the process group: that it lives, how many
    batches and held-out images it has begun, and since when it has begun no other. A rank that has
    begun nothing for too long, mostly because it waits for another, reads what all wrote. A rank
    that writes no more has stopped. Where all write and none has begun anything for too long, the
    ones that began the fewest stand still. With one process there is nothing to watch.

    Args:
        timeout_s: Seconds in which some rank must begin a batch (of training or validation), a
            held-out image, or the next part of an epoch; waiting for data and ranks included.

    Raises:
        ValueError: If `timeout_s` is not positive.
    """

    def __init__(self, timeout_s: float = 1200.0) -> None:
        if not timeout_s > 0:
            raise ValueError(f"rank_timeout_s must be positive, got {timeout_s}")
        self.timeout_s = timeout_s
        self._num_begun = 0
        self._begun_at = time.monotonic()
        self._store: Any = None
        self._is_over = threading.Event()

    def on_item_start(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 - any hook's arguments
        """Note that something begins; evaluators call this for each held-out image."""
        self._num_begun += 1
        self._begun_at = time.monotonic()

    on_train_batch_start = on_validation_batch_start = on_test_batch_start = on_item_start
    on_train_epoch_end = on_validation_epoch_end = on_validation_end = on_item_start
    on_train_end = on_fit_end = on_test_epoch_end = on_item_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Watch no more."""
        self._is_over.set()
        self._store = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to write and to watch, or go on."""
        self.on_item_start()
        if trainer.world_size == 1 or self._store is not None:
            return
        self._is_over.clear()
        self._store, beats = self._new_store(), self._new_store()
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self._store.set(f"maskfeat/who/{trainer.global_rank}", who)
        self._store.set(f"maskfeat/beat/{trainer.global_rank}", "0 0 0")
        # Two threads: a rank that reads what the others wrote goes on writing.
        for work in (lambda: self._beat(trainer.global_rank, beats), lambda: self._watch(trainer)):
            threading.Thread(target=work, daemon=True).start()
        for thread in threading.enumerate():
            # Every 5 s Lightning kills all ranks if one is gone; it may look before we do.
            if isinstance(thread, _ChildProcessObserver):
                thread._terminate_all = lambda: self._end(  # type: ignore[method-assign]
                    trainer, f"{_ended_children(trainer)}; {_GO_ON}"
                )

    on_train_start = on_test_start = on_validation_start

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Where it was the connection to a rank that failed, name that rank."""
        self._is_over.set()
        is_of_ranks = isinstance(exception, dist.DistError) or "gloo" in str(exception)
        if self._store is None or not isinstance(exception, RuntimeError) or not is_of_ranks:
            return
        first = str(exception).strip().partition("\n")[0]
        gone = _ended_children(trainer)
        if gone:
            self._end(trainer, f"{gone}; {_GO_ON}")
        found = self._behind(trainer.world_size)
        what = f"{found} does not answer" if found else f"ranks lost their connection: {first}"
        self._end(trainer, f"{what}; {_GO_ON}")

    def _new_store(self) -> Any:  # noqa: ANN401 - torch has no type for it
        store = dist.distributed_c10d._get_default_store().clone()
        store.set_timeout(timedelta(seconds=10 * _BEAT_S))
        return store

    def _beat(self, rank: int, store: Any) -> None:  # noqa: ANN401
        number = 0
        while not self._is_over.wait(_BEAT_S):
            number += 1
            idle_s = time.monotonic() - self._begun_at
            with contextlib.suppress(RuntimeError):  # a store that does not answer in time
                store.set(f"maskfeat/beat/{rank}", f"{number} {self._num_begun} {idle_s:.0f}")

    def _watch(self, trainer: Trainer) -> None:
        while not self._is_over.wait(_BEAT_S):
            begun_at = self._begun_at
            if time.monotonic() - begun_at <= self.timeout_s:
                continue
            found = self._behind(trainer.world_size, self.timeout_s)
            if found and self._begun_at == begun_at and not self._is_over.is_set():
                self._end(
                    trainer,
                    f"{found} stands still: after batch or image {self._num_begun} none began for "
                    f"{self.timeout_s:g} s (--rank_timeout_s); {_GO_ON}",
                )

    def _behind(self, world_size: int, idle_s: float = 0.0) -> str | None:
        """The ranks that write no more, or else those that began the fewest batches.

        None as long as all write, and one has begun something in the last `idle_s` seconds.
        """
        own = dist.get_rank()
        # Where the process that keeps the store is stopped, torch waits for it without end.
        answered: list[_Beat | None] = []
        asking = threading.Thread(target=lambda: answered.append(self._read(own)), daemon=True)
        asking.start()
        asking.join(10 * _BEAT_S)
        if not answered or answered[0] is None:
            return "rank 0, by which the ranks reach one another,"
        before = [self._read(rank) for rank in range(world_size)]
        time.sleep(5 * _BEAT_S)
        after = [self._read(rank) for rank in range(world_size)]
        silent = [r for r in range(world_size) if r != own and before[r] == after[r]]
        if silent:
            return ", ".join(self._name(rank) for rank in silent)
        if any(beat is not None and beat.idle_s < idle_s for beat in after):
            return None
        begun = [-1 if beat is None else beat.num_begun for beat in after]
        slowest = [self._name(r) for r in range(world_size) if begun[r] == min(begun)]
        is_known = len(slowest) < world_size
        return ", ".join(slowest) if is_known else "no rank is behind, but each" if idle_s else None

    def _read(self, rank: int) -> _Beat | None:
        """What a rank wrote last; None if it has written nothing, or the store does not answer."""
        try:
            return _Beat(*map(int, self._store.get(f"maskfeat/beat/{rank}").split()))
        except RuntimeError:  # torch's, for a store that does not answer in time
            return None

    def _name(self, rank: int) -> str:
        try:
            return f"rank {rank} ({self._store.get(f'maskfeat/who/{rank}').decode()})"
        except RuntimeError:
            return f"rank {rank}"

    def _end(self, trainer: Trainer, reason: str) -> None:
        """End this process and those that it started, whatever their threads wait for."""
        self._is_over.set()
        _LOG.error("%s", reason)
        launcher = trainer.strategy.launcher
        if isinstance(launcher, _SubprocessScriptLauncher):
            launcher.kill(signal.SIGKILL)  # a process that is stopped takes no other signal
        logging.shutdown()
        os._exit(1)


def _ended_children(trainer: Trainer) -> str:
    """The ranks among the processes that this one started which have failed, and how."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher):
        return ""
    time.sleep(_BEAT_S)  # the system closes connections before the parent knows
    ended = []
    for number, process in enumerate(launcher.procs, start=1):
        status = process.poll()
        if status:
            how = f"was killed ({signal.Signals(-status).name})" if status < 0 else "failed"
            ended.append(f"rank {number} (process {process.pid}) {how}")
    return ", ".join(ended)
