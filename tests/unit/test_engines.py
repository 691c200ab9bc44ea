"""Parts of a run on processes, dask, submitit and ray: workers and drivers die, bytes stay."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import forked_python
import pytest
from shard_factory import files_of, write_shard
from waiting import wait_until

from maskfeat.app.segment_shards import segment
from maskfeat.data.commands import convert, verify
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.convert.engines import EXECUTORS, _Jobs, engine_of
from maskfeat.data.convert.pool import Engine, InThisProcess, run_parts
from maskfeat.data.convert.sample import Record, Shrunk
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.convert.verify import verify_folder

SMALL = Settings(size=40, min_area_px=4, shard_mb=0.03)
OPTIONS: dict[str, dict[str, Any]] = {
    "dask": {"n_workers": 1, "dashboard_address": None},
    "submitit": {"cluster": "local"},
    "ray": {"num_cpus": 1, "include_dashboard": False},
}
PACKAGES = {"dask": "distributed", "submitit": "submitit", "ray": "ray"}


def processes(num: int = 1) -> Engine:
    forked_python.start_server()  # whose forks have imported what the workers need
    return Engine(partial(ProcessPoolExecutor, num, multiprocessing.get_context("forkserver")))


@pytest.fixture(params=EXECUTORS)
def engine(request, tmp_path: Path, monkeypatch) -> Engine:
    """Each engine on this machine; its workers find the modules of the tests."""
    name = request.param
    if name == "processes":
        return processes()
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{name} is not installed: pip install 'maskfeat[{name}]'")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    if name == "submitit":  # which waits for the results of dead jobs as for a slow file system
        monkeypatch.setattr("submitit.core.core.Job._results_timeout_s", 1)
    found = engine_of(name, OPTIONS[name], None, tmp_path)
    assert found is not None
    return found


@dataclass(frozen=True)
class Deadly(Settings):
    """Kills its process at a sample, as often as files can be taken away for it."""

    lives: str = ""

    def described(self) -> dict[str, Any]:
        return SMALL.described()

    def make(self, key: str, number: int, record: Record) -> Shrunk:
        if key == "sa_104" and (left := sorted(Path(self.lives).iterdir())):
            left[0].unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().make(key, number, record)


def deadly(folder: Path, times: int) -> Deadly:
    folder.mkdir()
    for number in range(times):
        (folder / str(number)).touch()
    return Deadly(40, 4, shard_mb=0.03, lives=str(folder))


def write_tars(folder: Path, num: int = 2) -> Path:
    for number in range(num):
        write_shard(folder / f"sa_{number:06d}.tar", 8, seed=number)
    return folder


def test_a_part_whose_worker_dies_is_repeated_and_gives_the_same_bytes(
    engine: Engine, tmp_path: Path
) -> None:
    inputs = find_inputs([str(write_tars(tmp_path / "in"))])
    convert_inputs(inputs, tmp_path / "whole", SMALL, num_workers=0)
    recipe = deadly(tmp_path / "lives", 2)  # each of the two inputs has such a sample
    state = convert_inputs(inputs, tmp_path / "out", recipe, engine=engine)

    assert list((tmp_path / "lives").iterdir()) == []
    assert state.undone() == []
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")
    report, num_shards = verify_folder(tmp_path / "out", engine=engine)
    assert (report, num_shards) == verify_folder(tmp_path / "whole", 0)
    assert report.problems == []


@pytest.mark.usefixtures("forked_workers")
def test_a_process_of_the_pool_that_dies_is_replaced(tmp_path: Path) -> None:
    inputs = find_inputs([str(write_tars(tmp_path / "in", 1))])
    convert_inputs(inputs, tmp_path / "whole", SMALL, num_workers=0)
    convert_inputs(inputs, tmp_path / "out", deadly(tmp_path / "lives", 1), num_workers=1)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "out")


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_driver_that_is_killed_goes_on_when_it_is_called_again(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(PACKAGES[name]) is None:
        pytest.skip(f"{name} is not installed: pip install 'maskfeat[{name}]'")
    write_tars(tmp_path / "in", 4)
    convert_inputs(find_inputs([str(tmp_path / "in")]), tmp_path / "whole", SMALL, num_workers=0)
    options = str(OPTIONS[name]).replace("'", '"').replace("None", "null").replace("False", "false")
    words = ["in", "--out=out", "--size=40", "--min-area-px=4", "--shard-mb=0.03"]
    words += [f"--executor={name}", f"--executor-options={options}"]
    run = [sys.executable, "-m", "maskfeat", "shards", "convert", *words]
    out = tmp_path / "out"
    with subprocess.Popen(run, cwd=tmp_path, stdout=-3, stderr=-3) as driver:
        wait_until(lambda: any(out.glob(".convert/sa_*-*.json")))  # a note on a whole shard
        driver.kill()
    noted = [f"{note.stem}.tar" for note in out.glob(".convert/sa_*-*.json")]
    finished = {shard: (out / shard).stat().st_ino for shard in noted}
    again = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "inputs done" in again.stdout
    assert files_of(tmp_path / "whole") == files_of(out)
    assert {shard: (out / shard).stat().st_ino for shard in noted} == finished


def add_up(numbers: Sequence[int]) -> int:
    return sum(numbers)


def raise_once_more(tries: Path) -> None:
    (tries / str(len(list(tries.iterdir())))).touch()
    raise ValueError("a fault of the input")


def die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_the_order_of_the_parts() -> None:
    engine = processes(2)
    parts = Engine(engine.open, num_parts=3).shares(range(10))
    assert [list(part) for part in parts] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert run_parts(add_up, parts, engine) == [18, 12, 15]


def test_what_the_work_raises_is_raised_at_once_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a fault of the input"):
        run_parts(raise_once_more, [tmp_path], processes())
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_sent_is_raised_at_once() -> None:
    engines = [processes()]  # each opened once
    with pytest.raises((pickle.PicklingError, AttributeError), match="pickle"):
        run_parts(add_up, [[lambda: 1]], Engine(lambda: engines.pop().open()))


class Unknown:
    """A part that workers cannot read, as where they have no maskfeat, or another one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return importlib.import_module, ("maskfeat_of_tomorrow",)


@pytest.mark.parametrize("engine", list(PACKAGES), indirect=True)
def test_what_workers_lack_is_raised_at_once_and_no_loss_of_workers(engine: Engine, caplog) -> None:
    with pytest.raises(Exception, match=r"(?s)^(?!the workers)") as raised:
        run_parts(die, [Unknown()], engine)
    chain = [raised.value, raised.value.__cause__]
    assert any("maskfeat_of_tomorrow" in str(error) for error in chain)
    assert "are repeated" not in caplog.text


def test_dask_says_itself_how_often_a_worker_died(monkeypatch, tmp_path: Path) -> None:
    dask = pytest.importorskip("dask")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    engine = engine_of("dask", OPTIONS["dask"], None, tmp_path)
    assert engine is not None
    told = r"of 1 parts died \(KilledWorker: .* on 1 different workers"
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(RuntimeError, match=told),
    ):
        run_parts(die, [None], engine)


class Unreachable:
    """A job whose state cannot be asked for."""

    def done(self) -> bool:
        raise OSError("the folder of the jobs is gone")


def test_a_job_that_cannot_be_asked_for_ends_the_run() -> None:
    engine = Engine(lambda: _Jobs(lambda *_: Unreachable(), RuntimeError))
    with pytest.raises(OSError, match="is gone"):
        run_parts(add_up, [[1]], engine)


def run_out_of_time(tries: Path) -> int:
    num = len(list(tries.iterdir()))
    (tries / str(num)).touch()
    if num < 2:
        raise TimeoutError
    return num


def test_what_an_engine_raises_within_the_work_is_repeated(tmp_path: Path) -> None:
    engine = Engine(InThisProcess, lost=(TimeoutError,))
    assert run_parts(run_out_of_time, [tmp_path], engine) == [2]


def test_workers_that_always_die_end_the_run_in_one_sentence() -> None:
    engine = Engine(processes().open, num_repeats=1)
    with pytest.raises(RuntimeError, match=r"workers of 1 parts died, each 2 times .* call the"):
        run_parts(die, [None], engine)


def test_an_input_is_held_by_one_thread_at_a_time(tmp_path: Path) -> None:
    state = ConvertState(tmp_path)
    with state.lock("a") as is_mine, state.lock("a") as is_other, state.lock("b") as is_free:
        assert (is_mine, is_other, is_free) == (True, False, True)
    with state.lock("a") as is_mine:
        assert is_mine


def test_engines_that_are_none_or_not_installed_are_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="executor must be one of processes, dask"):
        engine_of("threads", None, None, tmp_path)
    with pytest.raises(ValueError, match="are for dask, submitit and ray"):
        engine_of("processes", None, 4, tmp_path)
    with pytest.raises(ValueError, match=r"dask, got 2; give it more workers"):
        convert(["in"], str(tmp_path), executor="dask", num_workers=2)
    with pytest.raises(ValueError, match=r"dask, got 2; give it more workers"):
        segment(["in"], str(tmp_path), executor="dask", num_workers=2)
    with pytest.raises(ValueError, match=r"dask, got 2; give it more workers"):
        verify(str(tmp_path), executor="dask", num_workers=2)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with pytest.raises(ValueError, match=r"ray, which is not installed; pip install 'maskfeat\["):
        engine_of("ray", None, None, tmp_path)
