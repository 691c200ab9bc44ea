"""Python processes that start at once: forks of a server that has imported what all of them need.

A start of `maskfeat fit` spends most of its time on imports of torch and Lightning. Here it is a
fork of multiprocessing's fork server, which did them once: a process of its own with a command
line, working folder, environment, exit status and signals of its own.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import IO, Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["forked_python", "preloaded"])


def start_server() -> None:
    """Have the server, from now on also that of `start_method="forkserver"`, know the imports."""
    before = dict(os.environ)
    # Before Python 3.13 the server looks for what it imports on its own path alone.
    os.environ |= {"PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


class Started:
    """A process that runs Python; as `subprocess.Popen` of text, as far as tests need it.

    Args:
        words: What python is given: "-m" and a module, "-c" and code, or a script, and arguments.
        cwd: Working folder; this process's by default.
        env: Environment; this process's by default. What libraries read when they are imported
            has no effect.
        stdout: File to write to, "pipe" to read it from `stdout`, or None for this process's.
        stderr: File to write to, or None for this process's.
        forks_ranks: Let the second of two ranks be forked too, and not started by Lightning.
    """

    def __init__(
        self,
        words: Sequence[object],
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stdout: Path | str | None = None,
        stderr: Path | str | None = None,
        forks_ranks: bool = True,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forked")
        is_piped = stdout == "pipe"
        if is_piped:
            stdout = Path(self._folder.name, "stdout")
            os.mkfifo(stdout)
        job = {
            "words": [str(word) for word in words],
            "forks_ranks": forks_ranks,
            "cwd": os.path.abspath(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "stdout": None if stdout is None else os.path.abspath(stdout),
            "stderr": None if stderr is None else os.path.abspath(stderr),
        }
        self.args = job["words"]
        start_server()
        self._process = _CONTEXT.Process(target=_run, args=(job,))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self.stdout: IO[str] | None = open(stdout) if is_piped else None  # type: ignore[arg-type]

    @property
    def returncode(self) -> int | None:
        """The exit status, that of a signal negative; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        self._folder.cleanup()
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal while it runs."""
        if self.returncode is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()


def run(
    words: Sequence[object],
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = False,
    timeout: float = 900,
    **settings: bool,
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, as `subprocess.run` with captured text does."""
    with tempfile.TemporaryDirectory(prefix="forked") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = Started(words, cwd, env, out, err, **settings)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        done = subprocess.CompletedProcess(
            process.args, status, out.read_text(errors="replace"), err.read_text(errors="replace")
        )
    if check and status:
        raise AssertionError(f"{done.args} ended with {status}: {done.stderr[-3000:]}")
    return done


def _run(job: dict[str, Any]) -> None:
    """In the new process: what `python WORDS` does."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if job[name] is not None:
            file = os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
            os.close(file)
            # The stream of before may believe that it can seek, which a pipe cannot.
            setattr(sys, name, open(number, "w", closefd=False))
    multiprocessing.set_start_method("fork", force=True)  # the system's, as in any process
    _become(job)
    if job["forks_ranks"] and any("devices=2" in word for word in job["words"]):
        job["words"] = _forked_for_second_rank() or job["words"]
    _run_words(job["words"])


def _become(job: dict[str, Any]) -> None:
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    if "PYTHONPATH" in os.environ:  # its maskfeat, not that of the server
        sys.path[:0] = os.environ["PYTHONPATH"].split(os.pathsep)
        for name in [name for name in sys.modules if name.partition(".")[0] == "maskfeat"]:
            del sys.modules[name]


def _run_words(words: list[str]) -> None:
    if words[0] == "-m":
        sys.argv, sys.path[:0] = words[1:], [os.getcwd()]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv, sys.path[:0] = ["-c", *words[2:]], [""]
        main = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv, sys.path[:0] = words, [os.path.dirname(os.path.abspath(words[0]))]
        runpy.run_path(words[0], run_name="__main__")


def _forked_for_second_rank() -> list[str] | None:
    """Let Lightning's start of rank one be a fork, made now, before there are threads.

    Returns:
        In the process that is to be rank one, the words that Lightning wants it to run.
    """
    from lightning.pytorch.strategies.launchers import subprocess_script

    reading, writing = os.pipe()
    second = os.fork()
    if second == 0:
        os.close(writing)
        with open(reading) as pipe:
            told = pipe.read()
        if not told:  # the first ended without a second
            os._exit(0)
        job = json.loads(told)
        _become(job)
        words: list[str] = job["words"][1:]
        return words
    os.close(reading)

    class Forked(subprocess.Popen):
        def __init__(self, words: list[str], env: dict[str, str], cwd: str | None) -> None:
            self.args, self.pid, self.returncode = words, second, None
            self.stdin = self.stdout = self.stderr = None
            self._child_created, self._waitpid_lock = True, threading.Lock()
            with open(writing, "w") as pipe:
                json.dump({"words": words, "env": env, "cwd": cwd or os.getcwd()}, pipe)

    subprocess_script.subprocess = types.SimpleNamespace(Popen=Forked)  # type: ignore[assignment]
    return None
