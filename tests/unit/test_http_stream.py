"""Odd answers of web servers: each ends in time, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bad_server import BadServer, bad_server
from test_remote import QUICK, put, read_all

from maskfeat.data.shards.remote import ShardSource, UnreachableError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[BadServer]:
    (tmp_path / "served").mkdir()
    with bad_server(tmp_path / "served") as running:
        yield running


def test_a_server_that_never_ends_its_head_is_given_up(server: BadServer) -> None:
    put(server, "a.tar")
    server.plans["a.tar"] = ["head drips"] * 2
    source = ShardSource(url_attempts=2, url_wait_s=0.001, url_timeout_s=0.5)
    with pytest.raises(UnreachableError, match=r"2 times in a row.*no whole answer within 0\.5 s"):
        read_all(source, f"{server.url}/a.tar")


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("HTTP/1.1 302 Found\nLocation: http://[a/b.tar", "is refused: Invalid IPv6 URL"),
        ("HTTP/1.1 302 Found\nLocation: /a.tar", "is refused: HTTPError.* infinite loop"),
        ("HTTP/1.1 302 Found\nLocation: http:///a.tar", "is refused"),
        ("HTTP/1.1 999999 What", "3 times in a row.*BadStatusLine"),
        (f"HTTP/1.1 206 Some\nContent-Range: bytes 0-9/{'9' * 5000}", "Content-Range is"),
    ],
)
def test_an_odd_head_of_an_answer_is_one_sentence(server: BadServer, head: str, told: str) -> None:
    put(server, "a.tar")
    server.plans["a.tar"] = [head] * 20
    with pytest.raises(UnreachableError, match=told) as error:
        read_all(ShardSource(**QUICK), f"{server.url}/a.tar")
    assert "\n" not in str(error.value)


def test_an_impossible_length_is_no_length(server: BadServer) -> None:
    server.plans["a.tar"] = [f"HTTP/1.1 200 OK\nContent-Length: {'9' * 5000}\n\nabc"]
    put(server, "a.tar")
    assert read_all(ShardSource(**QUICK), f"{server.url}/a.tar").startswith(b"abc")


def test_names_that_are_not_ascii_are_asked_for_as_browsers_do(server: BadServer) -> None:
    content = put(server, "b%C3%A4ume%201.tar")  # the server's own name of it
    assert read_all(ShardSource(**QUICK), f"{server.url}/b\u00e4ume 1.tar") == content
    assert read_all(ShardSource(**QUICK), f"{server.url}/b%C3%A4ume%201.tar") == content
    with pytest.raises(UnreachableError, match="is refused: Invalid IPv6 URL"):
        read_all(ShardSource(**QUICK), "http://[a/b.tar")
    with pytest.raises(UnreachableError, match=r"is refused: .*label empty or too long"):
        read_all(ShardSource(**QUICK), f"http://{'a' * 300}.com/b.tar")
