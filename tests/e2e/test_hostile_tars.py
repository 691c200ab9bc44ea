"""Tars as people have them, and as nobody should: read the same by index and stream, or named."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import logging
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from shard_factory import Scene, draw_scene, sample_files, write_members, write_shard
from streams import stream_samples

from maskfeat.batch import SkippedSample
from maskfeat.cli import main
from maskfeat.data.convert.verify import verify_shard
from maskfeat.data.shards.count import count_samples
from maskfeat.data.shards.index import index_shard, scan_shard
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.data.shards.names import expand_shards
from maskfeat.data.shards.remote import ShardSource
from maskfeat.data.shards.stream import raw_samples


def streamed(path: Path) -> dict[str, bytes | str]:
    """Image of each sample of a stream, or why there is none."""
    found = stream_samples(str(path))
    return {s.key: s.detail if isinstance(s, SkippedSample) else s.jpg for s in found}


def indexed(path: Path) -> dict[str, bytes | str]:
    """The same by the index."""
    shards = IndexedShards(str(path))
    found: dict[str, bytes | str] = {s.key: s.jpg for s in shards}
    return found | {s.key: s.detail for s in shards.incomplete}


def files_of(key: str, number: int) -> dict[str, bytes]:
    scene = draw_scene(np.random.default_rng(number), (24, 32))
    return {f"{key}.{kind}": data for kind, data in sample_files(Scene(key, *scene)).items()}


def add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, to: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), to
    tar.addfile(info, io.BytesIO(data))


def test_links_are_followed_by_the_index_and_named_by_the_stream(tmp_path: Path) -> None:
    files = files_of("a", 1)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in files.items():
            add(tar, f"s/{name}", data)
        add(tar, "s/b.jpg", kind=tarfile.LNKTYPE, to="s/a.jpg")
        add(tar, "s/b.json", kind=tarfile.LNKTYPE, to="s/a.json")
        add(tar, "t/c.jpg", kind=tarfile.SYMTYPE, to="../s/b.jpg")  # a link to a link
        add(tar, "t/c.json", kind=tarfile.SYMTYPE, to="./../s/a.json")
        add(tar, "t/d.jpg", kind=tarfile.SYMTYPE, to="/photos/d.jpg")
        add(tar, "t/d.json", files["a.json"])
        add(tar, "t/e.jpg", kind=tarfile.SYMTYPE, to="e.json")
        add(tar, "t/e.json", kind=tarfile.SYMTYPE, to="e.jpg")  # a ring
    found = indexed(tmp_path / "x.tar")
    assert found["a"] == found["b"] == found["c"] == files["a.jpg"]
    assert found["d"] == (
        "'t/d.jpg' is a symbolic link to '/photos/d.jpg', which is no file in the shard; "
        "make the tar with --dereference"
    )
    assert "'t/e.jpg' is a symbolic link to 'e.json'" in str(found["e"])

    found = streamed(tmp_path / "x.tar")
    assert found["a"] == files["a.jpg"]
    assert found["b"] == (
        "'s/b.jpg' is a hard link to 's/a.jpg', and a stream does not go back; read the shard in "
        "indexed mode or re-shard it"
    )
    assert set(found) == set("abcde")
    assert count_samples([str(tmp_path / "x.tar")], ShardSource())[0].num_samples == 5


def test_links_that_the_tar_program_makes_are_read(tmp_path: Path) -> None:
    for name, data in files_of("a", 1).items():
        (tmp_path / name).write_bytes(data)
        os.link(tmp_path / name, tmp_path / name.replace("a.", "b."))
        (tmp_path / name.replace("a.", "c.")).symlink_to(name)
    names = sorted(p.name for p in tmp_path.iterdir())
    subprocess.run(["tar", "-cf", "x.tar", *names, "a.jpg"], cwd=tmp_path, check=True)
    found = indexed(tmp_path / "x.tar")
    assert list(found) == ["a", "b", "c"]
    assert len(set(found.values())) == 1


def test_a_farm_of_links_beside_the_files_is_no_second_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "all/a.jpg", kind=tarfile.SYMTYPE, to="../train/a.jpg")
        for name, data in files_of("a", 1).items():
            add(tar, f"train/{name}", data)
        add(tar, "all/a.json", kind=tarfile.SYMTYPE, to="../train/a.json")
    assert indexed(tmp_path / "x.tar")["a"] == files_of("a", 1)["a.jpg"]


def test_tars_put_together_are_read_to_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "1.tar", 3)
    write_shard(tmp_path / "2.tar", 2, first_id=500)
    joined = (tmp_path / "1.tar").read_bytes() + (tmp_path / "2.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(joined)
    keys = ["sa_100", "sa_101", "sa_102", "sa_500", "sa_501"]
    with caplog.at_level(logging.WARNING, "maskfeat"):
        assert list(indexed(tmp_path / "x.tar")) == keys
        assert list(streamed(tmp_path / "x.tar")) == keys
    assert caplog.text == ""


def test_what_follows_the_end_of_a_tar_and_is_none_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "x.tar", 2)
    with (tmp_path / "x.tar").open("ab") as file:
        file.write(b"\xff\xd8 a header was lost" * 100)
    with caplog.at_level(logging.WARNING, "maskfeat"):
        assert len(indexed(tmp_path / "x.tar")) == len(streamed(tmp_path / "x.tar")) == 2
    assert caplog.text.count("is cut short or broken after member sa_101.json") == 2


@pytest.mark.parametrize(
    ("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)]
)
def test_compressed_tars_are_streamed_without_a_warning_and_the_index_names_them(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    write_shard(tmp_path / "plain.tar", 3)
    plain = (tmp_path / "plain.tar").read_bytes()
    for name in (f"x.tar.{ending}", "named_as_if_plain.tar"):
        path = tmp_path / name
        with caplog.at_level(logging.WARNING, "maskfeat"):
            caplog.clear()
            path.write_bytes(pack(plain))
            assert streamed(path) == indexed(tmp_path / "plain.tar")
        assert caplog.text == ""
        with pytest.raises(ValueError, match=rf"{name}' is compressed by \w+.*data.mode streaming"):
            IndexedShards(str(path))
        path.write_bytes(pack(plain)[:-60])
        if ending == "bz2":  # a single block, so nothing is left
            with pytest.raises(ValueError, match="is no tar, or has no whole member"):
                streamed(path)
            continue
        with caplog.at_level(logging.WARNING, "maskfeat"):
            assert len(streamed(path)) <= 3
        assert "is cut short or broken after member" in caplog.text


def test_two_compressed_tars_put_together_are_read_to_the_end(tmp_path: Path) -> None:
    write_shard(tmp_path / "1.tar", 2)
    write_shard(tmp_path / "2.tar", 2, first_id=500)
    parts = [gzip.compress((tmp_path / name).read_bytes()) for name in ("1.tar", "2.tar")]
    (tmp_path / "x.tar.gz").write_bytes(b"".join(parts))
    assert len(streamed(tmp_path / "x.tar.gz")) == 4


def test_a_compression_that_is_not_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(1000))
    with pytest.raises(ValueError, match=r"x.tar.zst' cannot be read: it is compressed by zstd"):
        streamed(tmp_path / "x.tar.zst")
    with pytest.raises(ValueError, match=r"x.tar.zst' is compressed by zstd"):
        indexed(tmp_path / "x.tar.zst")


def test_a_folder_of_compressed_tars_is_one_of_shards_unless_plain_ones_lie_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("b.tar.gz", "a.tgz"):
        (tmp_path / name).write_bytes(b"")
    assert expand_shards(str(tmp_path)) == [str(tmp_path / "a.tgz"), str(tmp_path / "b.tar.gz")]
    (tmp_path / "c.tar").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "maskfeat"):
        assert expand_shards(str(tmp_path)) == [str(tmp_path / "c.tar")]
    assert "2 compressed tars beside others" in caplog.text


def test_folders_pipes_and_sparse_files_in_place_of_a_half_are_named(tmp_path: Path) -> None:
    text = files_of("a", 1)["a.json"]
    for name in "abcd":
        (tmp_path / f"{name}.json").write_bytes(text)
    (tmp_path / "a.jpg").write_bytes(files_of("a", 1)["a.jpg"])
    (tmp_path / "b.jpg").mkdir()
    os.mkfifo(tmp_path / "c.jpg")
    with (tmp_path / "d.jpg").open("wb") as file:
        file.truncate(2**30)
        file.seek(2**29)
        file.write(b"x" * 9000)
    names = sorted(p.name for p in tmp_path.iterdir())
    for style in ("gnu", "posix"):
        command = ["tar", "--sparse", f"--format={style}", "-cf", f"{style}.tar", *names]
        subprocess.run(command, cwd=tmp_path, check=True)
        by_index, by_stream = (
            indexed(tmp_path / f"{style}.tar"),
            streamed(tmp_path / f"{style}.tar"),
        )
        assert by_index == by_stream
        assert isinstance(by_index["a"], bytes)
        assert by_index["b"] == "'b.jpg' is a folder, not a file"
        assert by_index["c"] == "'c.jpg' is a pipe, not a file"
        assert by_index["d"] == (
            "'d.jpg' is a sparse file, which is not read; make the tar without --sparse"
        )


def test_commands_read_or_name_them_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = files_of("a", 1)
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, data in files.items():
            add(tar, name, data)
        add(tar, "b.jpg", kind=tarfile.LNKTYPE, to="a.jpg")
        add(tar, "b.json", kind=tarfile.LNKTYPE, to="a.json")
        add(tar, "c.jpg", kind=tarfile.SYMTYPE, to="gone.jpg")
        add(tar, "c.json", files["a.json"])
    main(["shards", "index", str(tmp_path / "x.tar")])
    assert "2 samples" in capsys.readouterr().out
    words = ["convert", str(tmp_path / "x.tar"), f"--out={tmp_path}/out", "--num_workers=0"]
    main(["shards", *words])
    told = json.loads((tmp_path / "out/index.json").read_bytes())
    assert (told["samples"], told["skipped"]) == (2, {"incomplete": 1})
    main(["shards", "verify", str(tmp_path / "out"), "--num_workers=0"])
    main(["shards", "stats", str(tmp_path / "x.tar"), "--num_workers=0"])
    capsys.readouterr()

    packed = tmp_path / "packed" / "y.tar"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress((tmp_path / "x.tar").read_bytes()))
    for command in ("index", "stats"):
        with pytest.raises(SystemExit, match="is compressed by gzip"):
            main(["shards", command, str(packed)])
    with pytest.raises(SystemExit, match="no sample could be converted"):
        main(["shards", "convert", str(packed), f"--out={tmp_path}/o", "--num_workers=0"])
    [note] = (tmp_path / "o/.convert").glob("*.done.json")
    assert "is compressed by gzip" in note.read_text()
    packed.rename(tmp_path / "y.tar.gz")
    with pytest.raises(SystemExit, match="is compressed, so it cannot be read at random; unpack"):
        main(["shards", "convert", f"{tmp_path}/y.tar.gz", f"--out={tmp_path}/o"])
    (tmp_path / "y.tar.gz").rename(packed)
    [problem] = verify_shard(packed).problems
    assert "is compressed by gzip" in problem.what


def test_names_and_notes_without_end_take_no_memory(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 2**33
        path = tmp_path / "x.tar"
        path.write_bytes(info.tobuf())
        with path.open("r+b") as file:
            file.truncate(2**33 + 1024)  # a hole in the file
        with pytest.raises(ValueError, match="is no plain tar"):
            scan_shard(path)
        with pytest.raises(ValueError, match="is no tar"):
            list(raw_samples(str(path), ShardSource()))


def test_a_name_longer_than_files_have_costs_its_sample_alone(tmp_path: Path) -> None:
    files = files_of("a", 1)
    long = "n" * 4000
    members = [*files.items(), (f"{long}.jpg", files["a.jpg"]), (f"{long}.json", files["a.json"])]
    index = index_shard(write_members(tmp_path / "x.tar", members))
    assert index.keys == ("a",)
    assert index.incomplete == ((long, "its name has more than 255 bytes"),)
