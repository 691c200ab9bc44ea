"""Through how many files a reader follows one click, from the request of the page to the mask."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from drawn_images import ON_DISC, ON_GROUND, click, write_images
from served_pages import act, annotate_app, client_of, ready_view

import maskfeat

ROOT = f"{Path(maskfeat.__file__).parent}/"
# What runs beside the path, and knows nothing of how a click becomes a mask.
NOT_COUNTED = {
    # The click as a step that is checked, kept, undone and written to disk.
    "app/annotation.py",
    "app/annotation_json.py",
    "app/annotation_state.py",
    "app/annotation_store.py",
    "app/revisions.py",
    "data/annotations/image_identity.py",
    "data/annotations/read_as.py",
    # The mask as runs, for the answer.
    "data/annotations/painting.py",
    "data/annotations/rle.py",
    # Helpers of any room: checked arguments, kept results, files, queues, arrays.
    "app/worker.py",
    "arguments.py",
    "features/look.py",
    "features/rows.py",
    "files.py",
    "recent.py",
    # The decoder's network, superpixels, tree, maximum flow, features: arrays in, arrays out.
    "features/reading.py",
    "interactive/decoder.py",
    "segment/inputs.py",
    "segment/potts.py",
    "segment/superpixels.py",
    "segment/tree.py",
}


@contextmanager
def files_run() -> Iterator[set[str]]:
    """The files of the package of which a function is called, in threads started from here on."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(ROOT):
            found.add(frame.f_code.co_filename.removeprefix(ROOT))

    threading.setprofile(note)
    try:
        yield found
    finally:
        threading.setprofile(None)


def test_a_click_passes_through_eight_files(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 1)
    app = annotate_app(paths, tmp_path / "out", maskfeat.load())
    passed = set()
    # The client starts the threads of the server, so all of them are followed.
    with files_run() as found, client_of(app) as client:
        ready_view(client)
        for place, label in ((ON_DISC, 1), (ON_GROUND, 0)):
            found.clear()
            (mask,) = act(client, click(place, label))["masks"]
            assert mask["counts"]
            passed |= found
    assert passed - NOT_COUNTED == {
        "app/server.py",
        "app/open_images.py",
        "app/annotation_masks.py",
        "interactive/segmenter.py",
        "interactive/prompts.py",
        "interactive/update.py",
        "interactive/decoder_unary.py",
        "interactive/cut.py",
    }
    assert passed >= NOT_COUNTED
