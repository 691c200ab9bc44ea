"""The servers of `maskfeat annotate` answer their own page alone, and nothing malformed."""

from __future__ import annotations

import json
import re

import pytest
from drawn_images import ON_DISC, click
from served_pages import annotate_app, client_of, refusal


def test_page_and_images_are_served_and_nothing_else(client, paths) -> None:
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    for address in set(re.findall(r'"(/page/[^"]+)"', page.text)):
        content = client.get(address)
        assert content.status_code == 200
        # No asset of a foreign host: the names of XML in an icon are no addresses.
        assert "//" not in re.sub(r"(?m)//.*$|xmlns=\S+", "", content.text)
    jpeg = client.get("/api/images/0/image")
    assert jpeg.headers["content-type"] == "image/jpeg"
    for address in (
        "/page/../cli.py",
        "/page/%2e%2e/cli.py",
        "/page/..%2fcli.py",
        "/page//etc/passwd",
    ):
        assert client.get(address).status_code == 404
    assert "no image 3 among 3" in refusal(client.get("/api/images/3"))
    assert client.get("/api/images/-1").status_code == 404
    assert client.get(f"/api/images/{paths[0]}").status_code == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:8765"},
        {"host": "127.0.0.1.evil.example"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
def test_what_other_sites_send_is_refused_and_changes_nothing(client, out, headers) -> None:
    body = json.dumps(click(ON_DISC))
    headers = {"content-type": "application/json", **headers}
    post = client.post("/api/images/0/actions", content=body, headers=headers)
    assert refusal(post, status=403)
    assert not out.exists()
    if "content-type" not in headers or "host" in headers or "sec-fetch-site" in headers:
        assert client.get("/api/folder", headers=headers).status_code == 403


def test_own_requests_are_answered_by_each_of_the_server_s_names(client, paths, out) -> None:
    for host in ("127.0.0.1:8765", "localhost:8765", "[::1]:8765", "localhost"):
        headers = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        assert client.get("/api/folder", headers=headers).status_code == 200
    link = {"sec-fetch-site": "cross-site"}  # a link to the page is no request for data
    assert client.get("/", headers=link).status_code == 200
    with client_of(annotate_app(paths, out, host="0.0.0.0")) as open_client:
        for host, status in (("192.0.2.7:8765", 200), ("evil.example:8765", 403)):
            assert open_client.get("/api/folder", headers={"host": host}).status_code == status


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"{", "must be JSON"),
        (b"[1]", "must be an object"),
        (b"[" * 100_000, "must be JSON"),
        (b" " * 1_000_001, "at most 1000000 bytes"),
        (b'{"do": "finish", "mask": {"size": [1, 1], "counts": "1"}}', "no pixels yet"),
        (b'{"do": "delete", "number": 7}', "no finished object 7"),
    ],
)
def test_a_malformed_action_is_refused_in_one_sentence(client, body, match) -> None:
    headers = {"content-type": "application/json"}
    post = client.post("/api/images/0/actions", content=body, headers=headers)
    assert match in refusal(post)
