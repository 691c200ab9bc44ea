"""Nobody ever reads half a file."""

import errno
import fcntl
import hashlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from maskfeat import folder_lock
from maskfeat.data.convert.state import ConvertState
from maskfeat.data.shards.cache import CacheFolderError, ShardCache
from maskfeat.features.checkpoint import WholeFileCheckpointIO
from maskfeat.files import file_digest, whole_file
from maskfeat.folder_lock import FolderInUseError, check_free, held_folder


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path) -> None:
    path = tmp_path / "folder" / "a.txt"
    for text in (b"old", b"new"):
        with whole_file(path) as file:
            file.write(text)
            assert not path.exists() or path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_after_an_exception_the_old_file_is_still_there(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with whole_file(path) as file:
            file.write(b"ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_others_may_read_it_as_the_umask_says(tmp_path) -> None:
    old = os.umask(0o022)
    try:
        with whole_file(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_left_is_removed_by_the_next_and_a_living_one_is_let_be(
    tmp_path,
) -> None:
    path = tmp_path / "a.txt"
    program = (
        "import sys, time; from maskfeat.files import whole_file\n"
        "with whole_file(sys.argv[1]) as file:\n"
        "    file.write(b'half'); file.flush(); print('half', flush=True); time.sleep(600)"
    )
    words = [sys.executable, "-c", program, str(path)]
    killed, living = (subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(2))
    try:
        for process in (killed, living):
            assert process.stdout.readline() == b"half\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert len(list(tmp_path.iterdir())) == 2
        with whole_file(path) as file:
            file.write(b"whole")
        (left,) = (p.name for p in tmp_path.iterdir() if p != path)
        assert str(living.pid) in left
        assert path.read_bytes() == b"whole"
    finally:
        living.kill()
        living.wait()


def test_a_checkpoint_that_the_disk_has_no_room_for_is_named(tmp_path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*a\.ckpt'"):
            WholeFileCheckpointIO().save_checkpoint(
                {"a": torch.zeros(100_000)}, tmp_path / "a.ckpt"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_threads_that_write_one_file_never_show_half_of_it(tmp_path) -> None:
    path = tmp_path / "a.txt"
    texts = [bytes([letter]) * 50_000 for letter in b"abcd"]
    path.write_bytes(texts[0])
    stop = threading.Event()

    def write(text: bytes) -> None:
        while not stop.is_set():
            with whole_file(path) as file:
                file.write(text[:25_000])
                file.write(text[25_000:])

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, text) for text in texts]
        reads = {path.read_bytes() for _ in range(200)}
        stop.set()
        for writer in writers:
            writer.result()  # no write failed
    assert reads <= set(texts)
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_name_as_long_as_the_system_allows_can_be_written(tmp_path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    with whole_file(path) as file:
        file.write(b"x")
    assert path.read_bytes() == b"x"


HOLDER = (
    "import pathlib, sys, time; from maskfeat.folder_lock import held_folder\n"
    "with held_folder(pathlib.Path(sys.argv[1]), 'a test'):\n"
    "    print('held', flush=True); time.sleep(600)"
)


def test_a_folder_has_one_owner_and_a_killed_one_leaves_it_free(tmp_path) -> None:
    words = [sys.executable, "-c", HOLDER, str(tmp_path)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"held\n"
        said = rf"is in use by a test \(process {holder.pid} on {socket.gethostname()}, since 20"
        with pytest.raises(FolderInUseError, match=said), held_folder(tmp_path, "another"):
            pass
    finally:
        holder.kill()
        holder.wait()
    with held_folder(tmp_path, "another"), held_folder(tmp_path, "the same process"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_relative_folder_is_let_go_after_the_working_folder_changed(
    monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    with held_folder(Path("held"), "a test"):
        monkeypatch.chdir("/")
    assert list((tmp_path / "held").iterdir()) == []


def test_a_held_folder_is_free_for_its_own_process_alone(tmp_path) -> None:
    check_free(tmp_path)
    program = "import pathlib, sys; from maskfeat.folder_lock import check_free\n"
    program += "check_free(pathlib.Path(sys.argv[1]))"
    words = [sys.executable, "-c", program, str(tmp_path)]
    with held_folder(tmp_path, "a test"):
        check_free(tmp_path)
        for _ in range(2):  # asking does not free it
            second = subprocess.run(words, capture_output=True, text=True)
            assert "is in use by a test (process " in second.stderr
    assert subprocess.run(words).returncode == 0


def test_a_folder_held_twice_in_a_process_is_free_after_both_have_ended(tmp_path) -> None:
    with held_folder(tmp_path, "outer"):
        with held_folder(tmp_path, "inner"):
            pass
        second = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path)], capture_output=True, text=True
        )
    assert "is in use by outer" in second.stderr


def test_where_the_file_system_has_no_locks_one_warning_names_the_folder(
    tmp_path, monkeypatch, caplog
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with held_folder(tmp_path, "a test"), ConvertState(tmp_path).lock("a") as is_free:
            assert is_free
    said = {id(one): one.getMessage() for one in caplog.records}  # of handlers, there may be two
    (line,) = (text for text in said.values() if "cannot be locked" in text)
    assert f"'{tmp_path}' cannot be locked: " in line
    with pytest.raises(CacheFolderError, match=r"cannot keep shards .No locks available"):
        ShardCache(tmp_path / "cache", 1000).open("http://localhost/a.tar", lambda *_: None)


def test_the_digest_of_a_file_is_of_all_its_content(tmp_path) -> None:
    path = tmp_path / "a"
    path.write_bytes(bytes(3_000_000))
    before = file_digest(path)
    assert before == hashlib.blake2b(bytes(3_000_000), digest_size=16).hexdigest()
    path.write_bytes(bytes(2_999_999) + b"x")
    assert file_digest(path) != before


def test_a_holder_that_the_garbage_collector_ends_does_not_wait_for_itself(
    tmp_path, monkeypatch
) -> None:
    """It may run while another folder is taken, in the same thread."""
    (tmp_path / "dropped").mkdir()
    (tmp_path / "taken").mkdir()
    dropped = held_folder(tmp_path / "dropped", "a test")
    dropped.__enter__()
    written = folder_lock._write_holder

    def drops(*args) -> None:
        written(*args)
        dropped.__exit__(None, None, None)

    monkeypatch.setattr(folder_lock, "_write_holder", drops)

    def take() -> None:
        with held_folder(tmp_path / "taken", "a test"):
            pass

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert not list((tmp_path / "dropped").iterdir())
