"""A whole Slurm on this machine: munged, slurmctld and slurmd, for as long as needed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "scancel", "squeue")

_CONFIG = """
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
# A requeued job waits for so many seconds; the default is 120.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=5
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    absent = [name for name in PROGRAMS if _program(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm, munge)"
    return None if os.geteuid() == 0 else "the daemons are started as root"


class LoopbackSlurm:
    """Its commands.

    Args:
        folder: Holds its config, logs and state.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *words: str, check: bool = True, **environment: str) -> str:
        """What a command prints."""
        done = self._done(*words, **environment)
        if check and done.returncode:
            raise AssertionError(f"{' '.join(words)}: {done.stderr}")
        return done.stdout

    def _done(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_program(words[0]) or words[0], *words[1:]],
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def is_queued(self, *options: str) -> bool:
        """Whether a job waits or runs; also where squeue fails, as it does on a busy machine."""
        done = self._done("squeue", "-h", *options)
        if done.returncode:
            return "Invalid job id" not in done.stderr  # what is said of a job that ended long ago
        return bool(done.stdout.strip())

    def submit(self, script: Path, cwd: Path, settings: Mapping[str, str], *options: str) -> str:
        """Number of a new job."""
        words = ["sbatch", "--parsable", f"--chdir={cwd}", *options, str(script)]
        return self.run(*words, **settings).strip()

    def job(self, number: str) -> dict[str, str]:
        """What scontrol says of a job."""
        words = self.run("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: str, *states: str, timeout_s: float) -> dict[str, str]:
        """The job, once it is in one of these states."""
        give_up = time.monotonic() + timeout_s
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < give_up, job
            time.sleep(0.5)
        return job


@contextlib.contextmanager
def loopback_slurm(folder: Path) -> Iterator[LoopbackSlurm]:
    """Start the daemons; stop them, and what they started, at the end."""
    slurm = LoopbackSlurm(folder)
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o755)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o600)
    ports = _free_ports(2)
    config = _CONFIG.format(
        host=socket.gethostname().split(".")[0],
        folder=folder,
        controller_port=ports[0],
        node_port=ports[1],
    )
    (folder / "slurm.conf").write_text(config)
    munge = folder / "munge"
    daemons = {
        "munged": [
            *("--foreground", "--force", f"--socket={munge}/socket"),
            *(f"--key-file={munge}/key", f"--pid-file={munge}/pid", f"--seed-file={munge}/seed"),
        ],
        "slurmctld": ["-D", "-f", str(folder / "slurm.conf")],
        "slurmd": ["-D", "-f", str(folder / "slurm.conf")],
    }
    running: list[subprocess.Popen[bytes]] = []
    try:
        for name, words in daemons.items():
            with (folder / f"{name}.out").open("wb") as log:
                command = [_program(name) or name, *words]
                running.append(
                    subprocess.Popen(command, env=slurm.environment, stdout=log, stderr=log)
                )
            if name == "munged":
                _wait_until((munge / "socket").exists, 10)
        _wait_until(lambda: "idle" in slurm.run("sinfo", "-h", "-o", "%T", check=False), 60)
        yield slurm
    finally:
        slurm.run("scancel", "--full", "--signal=KILL", "--user=root", check=False)
        slurm.run("scancel", "--user=root", check=False)
        give_up = time.monotonic() + 20
        while slurm.is_queued() and time.monotonic() < give_up:
            time.sleep(0.5)
        for daemon in reversed(running):
            daemon.terminate()
        for daemon in running:
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(num: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait_until(is_so, timeout_s: float) -> None:
    give_up = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < give_up, "Slurm did not start"
        time.sleep(0.2)
