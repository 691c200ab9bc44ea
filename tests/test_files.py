"""Nobody ever reads half a file."""

import os

import pytest

from maskfeat.files import whole_file


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
