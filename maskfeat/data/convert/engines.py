"""Engines that work on parts of a large run: dask, Slurm by submitit, Ray. Each is an extra."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from maskfeat.data.convert.pool import NUM_REPEATS, Engine

Out = TypeVar("Out")
P = ParamSpec("P")

EXECUTORS = ("processes", "dask", "submitit", "ray")
_TASK_OPTIONS = ("num_cpus", "num_gpus", "memory", "resources", "scheduling_strategy")  # of Ray
_TIMEOUT_MIN = 24 * 60  # of a job, where nothing else is asked for; submitit's own is 5
_POLL_S = 1.0  # between looks at the jobs of Slurm


def engine_of(
    name: str,
    options: dict[str, Any] | None,
    num_parts: int | None,
    folder: Path,
    num_workers: int | None = None,
) -> Engine | None:
    """An engine by its name.

    Args:
        name: One of `EXECUTORS`.
        options: Go to `dask.distributed.Client`; to `submitit.AutoExecutor` (`cluster`, `folder`)
            and its `update_parameters`; to the tasks of Ray (`num_gpus`, ...) and `ray.init`.
        num_parts: See `Engine`.
        folder: The logs of submitit go to `.submitit` in it.
        num_workers: Processes that each worker is to have.

    Returns:
        None for "processes": the work is shared out to processes sample by sample, not by parts.

    Raises:
        ValueError: If there is none of this name, its package is not installed, or it has no
            such workers.
    """
    if name not in EXECUTORS:
        raise ValueError(f"executor must be one of {', '.join(EXECUTORS)}, got '{name}'")
    if num_parts is not None and num_parts < 1:
        raise ValueError(f"parts must be at least 1, got {num_parts}")
    options = dict(options or {})
    if name == "processes":
        if options or num_parts is not None:
            raise ValueError("executor_options and parts are for dask, submitit and ray")
        return None
    if name == "dask":
        if num_workers:  # its workers are daemons, which may have no processes of their own
            raise ValueError(
                f"num_workers must be 0 with dask, got {num_workers}; give it more workers instead"
            )
        distributed = _imported("distributed", name)
        return Engine(
            lambda: _dask(distributed, options), num_parts, 0, (distributed.KilledWorker,)
        )
    if name == "submitit":
        submitit = _imported("submitit", name)
        lost = (BrokenExecutor, submitit.core.utils.UncompletedJobError)
        return Engine(lambda: _submitit(submitit, folder, options), num_parts, lost=lost)
    ray = _imported("ray", name)
    of_ray = ("WorkerCrashedError", "NodeDiedError", "OutOfMemoryError", "ObjectLostError")
    crashed = tuple(getattr(ray.exceptions, error) for error in of_ray)
    return Engine(lambda: _ray(ray, options), num_parts, 0, (BrokenExecutor, *crashed))


def _imported(module: str, extra: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"the executor {extra} needs {module}, which is not installed; "
            f"pip install 'maskfeat[{extra}]'"
        ) from error


@contextlib.contextmanager
def _dask(distributed: Any, options: dict[str, Any]) -> Iterator[Executor]:  # noqa: ANN401
    """Workers of a scheduler, or where no address is known, one for each core of this machine."""
    # One thread in a worker: torch and NumPy work in one there.
    with distributed.Client(**{"threads_per_worker": 1, **options}) as client:
        yield client.get_executor(pure=False)


@contextlib.contextmanager
def _submitit(submitit: Any, folder: Path, options: dict[str, Any]) -> Iterator[Executor]:  # noqa: ANN401
    """A job of Slurm for each part; with the option cluster=local a process of this machine."""
    of_executor = {"folder": str(folder / ".submitit"), "cluster": None}
    of_executor |= {name: options[name] for name in of_executor.keys() & options.keys()}
    executor = submitit.AutoExecutor(**of_executor)
    others = {name: value for name, value in options.items() if name not in of_executor}
    executor.update_parameters(**{"timeout_min": _TIMEOUT_MIN, **others})
    with _Jobs(executor.submit, submitit.core.utils.FailedJobError) as jobs:
        yield jobs


@dataclass(frozen=True)
class _Resumable:
    """Work that Slurm may stop, at the time limit or for others, and start again."""

    work: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:  # noqa: ANN401 - any work
        return self.work(*args)

    def checkpoint(self, *args: Any) -> Any:  # noqa: ANN401 - as submitit asks
        """What to submit in its place: the same, which goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *args)


class _Jobs(Executor):
    """Jobs as futures: submitit's own have to be asked whether they are done.

    Args:
        start: `submitit.Executor.submit`.
        failed: What submitit raises of a job that did not get as far as the work, or could not
            give its result. It is a kind of the error of a job that died, which this is not.
    """

    def __init__(self, start: Callable[..., Any], failed: type[Exception]) -> None:
        self._start, self._failed = start, failed
        self._jobs: dict[Future[Any], Any] = {}
        self._is_over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def submit(self, fn: Callable[P, Out], /, *args: P.args, **kwargs: P.kwargs) -> Future[Out]:
        """Submit a job."""
        future: Future[Out] = Future()
        self._jobs[future] = self._start(_Resumable(fn), *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Cancel the jobs whose futures are canceled, and watch no more."""
        self._is_over.set()
        self._watcher.join()
        for future, job in self._jobs.items():
            if future.cancelled():
                job.cancel()

    def _watch(self) -> None:
        while not self._is_over.wait(_POLL_S):
            for future, job in list(self._jobs.items()):
                if future.done():
                    continue
                try:
                    if job.done():
                        future.set_result(job.result())
                except self._failed as error:
                    future.set_exception(RuntimeError(str(error)))
                except Exception as error:  # of a job that died, or of asking for it
                    future.set_exception(error)


@contextlib.contextmanager
def _ray(ray: Any, options: dict[str, Any]) -> Iterator[Executor]:  # noqa: ANN401
    """Tasks of a cluster, or where no address is known, of this machine."""
    of_task = {name: options[name] for name in _TASK_OPTIONS if name in options}
    was_there = ray.is_initialized()
    if not was_there:
        ray.init(**{name: value for name, value in options.items() if name not in of_task})
    try:
        # Ray repeats a task whose worker or machine has died.
        yield _Tasks(ray.remote(max_retries=NUM_REPEATS, **of_task)(_called))
    finally:
        if not was_there:
            ray.shutdown()


def _called(fn: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401 - any work
    return fn(*args)


class _Tasks(Executor):
    """Tasks of Ray as futures.

    Args:
        task: A remote function that calls what it gets.
    """

    def __init__(self, task: Any) -> None:  # noqa: ANN401 - made by Ray
        self._task = task

    def submit(self, fn: Callable[P, Out], /, *args: P.args, **kwargs: P.kwargs) -> Future[Out]:
        """Start a task."""
        future: Future[Out] = self._task.remote(fn, *args, **kwargs).future()
        return future
