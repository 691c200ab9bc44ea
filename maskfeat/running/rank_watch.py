"""The rank that the others wait for in vain: named in a sentence, not waited for for ever."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

_LOG = logging.getLogger("maskfeat")
_BEAT_S = 1.0
_GO_ON = "--ckpt_path last goes on from the last checkpoint"


class RankWatch(Callback):
    """Ends training when a rank stands still or is gone, and names it.

    Each rank tells the others through the store of the process group, once a second, that it lives
    and which batch it began last. One that has been in the same batch for too long, mostly since
    it waits for the gradients of another, reads what all told: the rank that told nothing lately,
    or else the one that is behind, stands still. Validations, which may last, are not timed. With
    one process there is nothing to watch.

    Args:
        timeout_s: Seconds that a batch may take, waiting for data and other ranks included.

    Raises:
        ValueError: If `timeout_s` is not positive.
    """

    def __init__(self, timeout_s: float = 1200.0) -> None:
        if not timeout_s > 0:
            raise ValueError(f"rank_timeout_s must be positive, got {timeout_s}")
        self.timeout_s = timeout_s
        self._num_begun = 0
        self._begun_at: float | None = None  # None while nothing is timed
        self._store: Any = None
        self._is_over = threading.Event()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to tell and to watch."""
        if trainer.world_size == 1:
            return
        self._store = dist.distributed_c10d._get_default_store().clone()
        self._store.set_timeout(timedelta(seconds=10 * _BEAT_S))
        who = f"process {os.getpid()} on {socket.gethostname()}"
        self._store.set(f"maskfeat/who/{trainer.global_rank}", who)
        self._store.set(f"maskfeat/beat/{trainer.global_rank}", "0 0")
        threading.Thread(target=self._watch, args=(trainer,), daemon=True).start()
        for thread in threading.enumerate():
            # Every 5 s Lightning kills all ranks if one is gone; it may look before we do.
            if isinstance(thread, _ChildProcessObserver):
                thread._terminate_all = lambda: self._end(  # type: ignore[method-assign]
                    trainer, f"{_ended_children(trainer)}; {_GO_ON}"
                )

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401 - Lightning's signature
        batch_idx: int,
    ) -> None:
        """Note that a batch begins."""
        self._num_begun += 1
        self._begun_at = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time nothing until the next batch."""
        self._begun_at = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Time nothing until the next batch."""
        self._begun_at = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch no more."""
        self._is_over.set()

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
        said = f"{found} does not answer" if found else f"ranks lost their connection: {first}"
        self._end(trainer, f"{said}; {_GO_ON}")

    def _watch(self, trainer: Trainer) -> None:
        number = 0
        while not self._is_over.wait(_BEAT_S):
            number += 1
            self._store.set(f"maskfeat/beat/{trainer.global_rank}", f"{number} {self._num_begun}")
            begun_at = self._begun_at
            if begun_at is not None and time.monotonic() - begun_at > self.timeout_s:
                found = self._behind(trainer.world_size) or "no rank is behind, but all"
                if self._begun_at == begun_at and not self._is_over.is_set():
                    self._end(
                        trainer,
                        f"{found} stands still: batch {self._num_begun} took longer than "
                        f"{self.timeout_s:g} s (--rank_timeout_s); {_GO_ON}",
                    )

    def _behind(self, world_size: int) -> str | None:
        """The ranks that tell nothing any more, or else those that began the fewest batches."""
        own = dist.get_rank()  # which tells nothing while it asks
        # Where the process that keeps the store is stopped, torch waits for it without end.
        told: list[tuple[int, int] | None] = []
        asking = threading.Thread(target=lambda: told.append(self._told(own)), daemon=True)
        asking.start()
        asking.join(10 * _BEAT_S)
        if not told or told[0] is None:
            return "rank 0, by which the ranks reach one another,"
        before = [self._told(rank) for rank in range(world_size)]
        time.sleep(5 * _BEAT_S)
        after = [self._told(rank) for rank in range(world_size)]
        silent = [r for r in range(world_size) if r != own and before[r] == after[r]]
        begun = [told[1] if told else -1 for told in after]
        slowest = [r for r in range(world_size) if begun[r] == min(begun)]
        found = silent or (slowest if len(set(begun)) > 1 else [])
        return ", ".join(self._name(rank) for rank in found) or None

    def _told(self, rank: int) -> tuple[int, int] | None:
        """Number of its beat and of batches begun; None if it has told nothing, or cannot."""
        try:
            beat, begun = self._store.get(f"maskfeat/beat/{rank}").split()
        except RuntimeError:  # torch's, for a store that does not answer in time
            return None
        return int(beat), int(begun)

    def _name(self, rank: int) -> str:
        try:
            return f"rank {rank} ({self._store.get(f'maskfeat/who/{rank}').decode()})"
        except RuntimeError:
            return f"rank {rank}"

    def _end(self, trainer: Trainer, said: str) -> None:
        """End this process and those that it started, whatever their threads wait for."""
        self._is_over.set()
        _LOG.error("%s", said)
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
    time.sleep(_BEAT_S)  # the system closes connections before it tells the parent
    ended = []
    for number, process in enumerate(launcher.procs, start=1):
        status = process.poll()
        if status:
            how = f"was killed ({signal.Signals(-status).name})" if status < 0 else "failed"
            ended.append(f"rank {number} (process {process.pid}) {how}")
    return ", ".join(ended)
