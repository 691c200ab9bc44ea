"""A server on loopback that fails, stalls and cuts as it is told."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path


class BadServer(http.server.ThreadingHTTPServer):
    """Serves the files of a folder.

    Attributes:
        plans: For each path what to do with its next requests, in turn: a status (503), "stall"
            (send half, then nothing), "cut" (send half, then close), "no range" (ignore that the
            middle was asked for), "wrong range" (send another middle than was asked for), "no
            length" (do not say how long it is), "cut, no length" (and send half), "drip" (a byte
            now and then), "head drips" (the same, within the head), an answer from "HTTP/" on, or a
            url (redirect to it); what comes after the last is served well.
        with_versions: Whether each answer has an ETag, made from the content.
        requests: How often each path was asked for.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plans: dict[str, list[int | str]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.with_versions = True
        self.is_over = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: BadServer

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.requests[name] += 1
        plans = self.server.plans[name]
        plan = plans.pop(0) if plans else "well"
        path = self.server.folder / name
        if isinstance(plan, int) or not path.is_file():
            self.send_error(plan if isinstance(plan, int) else 404)
            return
        if plan == "head drips" or plan.startswith("HTTP/"):
            self._send_head(plan)
            return
        if "://" in plan:
            self.send_response(302)
            self.send_header("Location", plan)
            self.end_headers()
            return
        content = path.read_bytes()
        version = f'"{hashlib.sha256(content).hexdigest()}"'
        start = 0
        asked = self.headers.get("Range")
        if asked and plan != "no range" and self.headers.get("If-Range", version) == version:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start and plan == "wrong range":
            start -= 1
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if "no length" not in plan:
            self.send_header("Content-Length", str(len(content) - start))
        if self.server.with_versions:
            self.send_header("ETag", version)
        self.end_headers()
        self._send(content[start:], plan)

    def _send_head(self, plan: str) -> None:
        self.close_connection = True
        if plan.startswith("HTTP/"):
            self.wfile.write(plan.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
            return
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.server.is_over.wait(0.05):
                self.wfile.write(b"X")

    def _send(self, content: bytes, plan: str) -> None:
        is_whole = plan in ("well", "no range", "wrong range", "no length")
        with contextlib.suppress(ConnectionError):
            if plan == "drip":
                for byte in content:
                    self.wfile.write(bytes([byte]))
                    if self.server.is_over.wait(0.02):
                        return
            self.wfile.write(content if is_whole else content[: len(content) // 2])
            self.wfile.flush()
            if plan == "stall":
                self.server.is_over.wait(20)


@contextlib.contextmanager
def bad_server(folder: Path) -> Iterator[BadServer]:
    """A running server."""
    with BadServer(folder) as server:
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        try:
            yield server
        finally:  # or a test that fails would never end
            server.is_over.set()
            server.shutdown()
            thread.join()
