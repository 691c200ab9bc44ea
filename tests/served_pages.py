"""The servers of `maskfeat annotate` for tests: asked directly, as a process, and in a browser."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import tempfile
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import uvicorn
from drawn_images import SIZE
from forked_python import Started
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient
from waiting import PATIENCE_S

from maskfeat import Labeler
from maskfeat.app.annotate_command import listening
from maskfeat.app.annotation_store import AnnotationStore
from maskfeat.app.label_views import LabelViews
from maskfeat.app.open_images import OpenImages
from maskfeat.app.server import create_app
from maskfeat.cli import main
from maskfeat.features.reading import Features
from maskfeat.segment.inputs import as_features, model_of


def client_of(app: Starlette) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1:8765")


def annotate_app(
    paths: Sequence[Path],
    out: Path,
    model: object | None = None,
    max_megapixels: float = 2.0,
    host: str = "127.0.0.1",
) -> Starlette:
    """The page of objects on images, by the color of their pixels if no model is given."""
    store = AnnotationStore(out, paths)
    images = OpenImages(store, model_of("lab" if model is None else model), max_megapixels)
    return create_app(images, host)


def label_app(
    paths: Path | Sequence[Path], out: Path, classes: Sequence[str], **settings: object
) -> Starlette:
    """The page of classes on images, by the color of their pixels; settings of `Labeler`."""
    return create_app(LabelViews(Labeler(paths, classes, "lab", out, **settings)))


class Slow:
    """Gives features when it is let."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def features(self, rgb: np.ndarray) -> Features:
        assert self.go.wait(PATIENCE_S)
        return as_features(rgb)


def act(client: TestClient, action: dict, number: int = 0) -> dict:
    response = client.post(f"/api/images/{number}/actions", json=action)
    assert response.status_code == 200, response.text
    return response.json()


def ready_view(client: TestClient, number: int = 0) -> dict:
    """When the features are there."""
    for _ in range(60):
        view = client.get(f"/api/images/{number}?wait=1").json()
        if view["is_ready"]:
            return view
    raise AssertionError("the features do not come")


def refusal(response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    return one_sentence(response.json()["error"])


def refused_start(*words: str) -> str:
    """What `maskfeat annotate` says when it ends at once."""
    with pytest.raises(SystemExit) as stop:
        main(["annotate", *words, "--open_browser", "false"])
    return one_sentence(str(stop.value.code))


def one_sentence(text: str) -> str:
    assert "\n" not in text, text
    return text


@dataclass(frozen=True)
class Program:
    """`maskfeat annotate` as a process of its own, and what it said first."""

    process: Started
    said: str
    url: str
    errors: IO[str]

    def complaints(self) -> str:
        """What it wrote to stderr."""
        self.errors.seek(0)
        return self.errors.read()

    def ask(self, address: str, action: dict | None = None) -> dict:
        data = None if action is None else json.dumps(action).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}api/{address}", data, headers)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def status_after(self, number: int) -> int:
        """Its exit status when it gets a signal."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def running(folder: Path, *words: str) -> Iterator[Program]:
    """Start a program, and kill it at the end."""
    command = ["-m", "maskfeat", "annotate", folder, "--model", "lab"]
    command += ["--port", "0", "--open-browser", "false", *words]
    errors = tempfile.NamedTemporaryFile("w+")
    process = Started(command, stdout="pipe", stderr=errors.name)
    try:
        said, address = process.stdout.readline(), process.stdout.readline()
        yield Program(process, said, address.split()[1], errors)
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        process.stdout.close()
        errors.close()


@contextlib.contextmanager
def served(app: Starlette) -> Iterator[str]:
    """The address of an application, on a port of its own."""
    with listening("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


@contextlib.contextmanager
def chromium() -> Iterator:
    """A window of a headless browser; the test is skipped where there is none.

    Its tabs share processes, which start in half a CPU second less than those of a new window.
    Each server has a port, and so an origin, of its own.
    """
    # typing keeps one object for `Union[int, float]` and `Union[float, int]`, the one that was
    # made first. Playwright makes the latter: `--trainer.limit_train_batches 1` would be 1.0.
    import lightning.pytorch  # noqa: F401

    playwright = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"no browser to test with: none of {', '.join(names)} is on the path")
    playwright.expect.set_options(timeout=60_000)  # machines may be busy
    with playwright.sync_playwright() as driver:
        # Chromium's own sandbox does not work for root, as tests in containers are.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_context(viewport={"width": 1100, "height": 750})
        browser.close()


@contextlib.contextmanager
def opened(browser, url: str) -> Iterator[Page]:
    """A page in a tab of its own, in which nothing may go wrong."""
    tab = browser.new_page()
    tab.set_default_timeout(60_000)
    page = Page(tab, url)
    yield page
    tab.close()
    assert page.problems == [], page.problems


def refuse_from_the_first_step_on(tab) -> None:
    """Let no request through, but those that ask for news before the first step was sent."""
    steps = []

    def answer(route) -> None:
        if route.request.method == "POST":
            steps.append(route.request.url)
        if steps:
            route.abort()
        else:
            route.continue_()

    tab.route("**/api/**", answer)


# All that was ever written into the line of messages.
_KEEP_MESSAGES = """
window.messages = [];
document.addEventListener("DOMContentLoaded", () => {
  const line = document.getElementById("message");
  const keep = () => window.messages.push(line.textContent);
  new MutationObserver(keep).observe(line, { childList: true, characterData: true, subtree: true });
});
"""


class Page:
    """The page as a person sees it: places are [row, column] of the image."""

    def __init__(self, page, url: str) -> None:
        self.page = page
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._hear)
        page.on("request", lambda one: one.url.startswith((url, "blob:")) or self._blame(one.url))
        page.add_init_script(_KEEP_MESSAGES)
        page.goto(url)
        self.wait()

    def _hear(self, message) -> None:
        # What the server refuses, browsers write down as errors; the page shows it.
        if message.type == "error" and not re.search(r"status of (400|409)", message.text):
            self._blame(message.text)

    def _blame(self, text: str) -> None:
        self.problems.append(text)

    def wait(self, name: str = "ready") -> None:
        """Until the page says so of itself: "ready", or "fresh" when the last click is learned."""
        self.page.wait_for_selector(f'body[data-{name}="true"]')

    def wait_for_message(self, text: str) -> None:
        """Until a message with this text was shown, if only for the seconds that some are."""
        self.page.wait_for_function(
            "text => window.messages.some((one) => one.includes(text))", arg=text
        )

    def text(self, selector: str):
        from playwright.sync_api import expect

        return expect(self.page.locator(selector))

    def number(self, selector: str) -> int:
        """The number that a text begins with."""
        return int(self.page.inner_text(selector).split()[0].replace(",", ""))

    def spot(self, place) -> tuple[float, float]:
        """Where a pixel is on the screen while the image is fitted in."""
        box = self.page.locator("#canvas").bounding_box()
        scale = min((box["width"] - 32) / SIZE[1], (box["height"] - 32) / SIZE[0])
        left = box["x"] + (box["width"] - SIZE[1] * scale) / 2
        top = box["y"] + (box["height"] - SIZE[0] * scale) / 2
        return left + (place[1] + 0.5) * scale, top + (place[0] + 0.5) * scale

    def click(self, place, button: str = "left", shift: bool = False) -> None:
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(*self.spot(place), button=button)
        if shift:
            self.page.keyboard.up("Shift")

    def drag(self, *places, button: str = "left") -> None:
        self.point_at(places[0])
        self.page.mouse.down(button=button)
        for place in places[1:]:
            self.page.mouse.move(*self.spot(place), steps=5)
        self.page.mouse.up(button=button)

    def point_at(self, place) -> None:
        self.page.mouse.move(*self.spot(place))

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def color_at(self, place, pointing_at=(SIZE[0] - 1, SIZE[1] - 1)) -> np.ndarray:
        self.point_at(pointing_at)
        self.page.wait_for_timeout(50)  # two frames
        shot = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        return np.array(shot.getpixel(tuple(map(round, self.spot(place)))))
