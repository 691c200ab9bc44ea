"""What many tests share."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401 - before playwright, see below
import pytest

# typing keeps one object for `Union[int, float]` and `Union[float, int]`, the one that was made
# first. Playwright makes the latter, and then `--trainer.limit_train_batches 1` is a share of 1.0.

REPOSITORY = Path(__file__).resolve().parents[1]
# pytest says where its own process crashed; this is for those that tests start.
os.environ["PYTHONFAULTHANDLER"] = "1"


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over the libraries, which it else looks through for ever."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _log_is_heard(monkeypatch):
    """`caplog` listens above the package's logger, which a command run before has cut off."""
    monkeypatch.setattr(logging.getLogger("maskfeat"), "propagate", True)


@pytest.fixture
def forked_workers(monkeypatch):
    """Processes that the package spawns are forks of a server that has imported torch."""
    from forked_python import start_server

    from maskfeat.app import segment_run  # before the patches, or it keeps one

    start_server()
    get_context = multiprocessing.get_context

    def get_forking(method=None):
        return get_context("forkserver" if method == "spawn" else method)

    monkeypatch.setattr(multiprocessing, "get_context", get_forking)
    monkeypatch.setattr(segment_run, "get_context", get_forking)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The images beside the repository."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the images are not beside the repository")
    return folder


@pytest.fixture
def command(monkeypatch, tmp_path, repository):
    """Run `lightning ...` in this process, in an empty folder, as the shell would."""

    def run(*words: str) -> None:
        from maskfeat.cli import main

        monkeypatch.setattr(sys, "argv", ["lightning", *map(str, words)])
        main()

    monkeypatch.chdir(tmp_path)
    for name in ("conf", "data_shards"):
        (tmp_path / name).symlink_to(repository / name)
    return run


@pytest.fixture
def paths(tmp_path):
    """Three drawn images, for the pages of `maskfeat annotate`."""
    from drawn_images import write_images

    return write_images(tmp_path / "photos")


@pytest.fixture
def out(tmp_path):
    """A folder for results, not made yet."""
    return tmp_path / "out"


@pytest.fixture
def client(paths, out):
    """What asks the server of the page of objects."""
    from served_pages import annotate_app, client_of

    with client_of(annotate_app(paths, out)) as client:
        yield client


@pytest.fixture(scope="module")
def browser():
    """A window of a headless Chromium; without one the tests of the pages are skipped."""
    from served_pages import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def url(paths, out):
    """Address of a served page of objects on drawn images, by the color of their pixels."""
    from served_pages import annotate_app, served

    with served(annotate_app(paths, out)) as url:
        yield url
