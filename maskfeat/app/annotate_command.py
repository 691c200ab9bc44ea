"""`maskfeat annotate`: a page to click on. What is slow to import waits for the work."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maskfeat.app.segment_command import check_names
from maskfeat.data.annotations.read_as import ReadAs, read_as_of_words
from maskfeat.folder_lock import held_folder
from maskfeat.quick_imports import QuickImports

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from maskfeat.app.server import Backend

_NUM_PORTS = 20
_ACQUISITIONS = ("uncertain", "energy", "given")


def annotate(
    images: list[str],
    out: str | None = None,
    model: str = "maskfeat-b0",
    host: str = "127.0.0.1",
    port: int = 8765,
    open_browser: bool = True,
    max_megapixels: float = 1.0,
    classes: str | None = None,
    acquisition: str = "uncertain",
    recursive: bool = False,
    page: int | None = None,
    channels: str | None = None,
    value_range: str | None = None,
    masks: str | None = None,
) -> None:
    """Cut objects out of images by clicks, or give whole sets of images classes, on a web page.

    Left click what belongs to the object, right click what does not, or drag a line along it;
    Enter finishes the object, D the image. The key ? on the page lists all that can be done. Each
    prompt is saved as soon as it is made, so a closed page or a killed server loses nothing; when
    started again, it goes on at the first image that is not done. One server at a time works in
    a folder `out`; a second one is refused, with the name of the first.

    For KEY.jpg these files go to the folder `out`, each written whole, then renamed:

    - KEY.prompts.json: all prompts, those taken back included.
    - KEY_mask.png: the number of the object of each pixel, 0 for none, 16 bit; where objects
      overlap, that of the smaller one.
    - KEY.json: one mask for each object in the layout of SA-1B; `id` is the number in
      KEY_mask.png. The folder `out` is training data as it is (`--data.train=out`): `path` leads
      to the image.
    - labels/KEY_mask.png and labels/KEY.json: the same for labels, which also stand under `label`.

    Masks are written whenever an object is finished or the image is done, and by Ctrl+S; what a
    kill left missing or stale is made anew at the next start. Prompts of an image that was replaced
    by another one move to the folder set_aside, with their masks.

    An image of more than `max_megapixels` is reduced to that size before its features are taken,
    and its masks are enlarged back to the pixels of the image.

    With --classes sky,road,car the page gives every pixel of many images one of these classes: it
    proposes an image and its classes, a click corrects the whole region under the cursor, and what
    was learned from all clicks makes the next proposal. Keys 1 to 9 choose the class, D or Enter
    keeps the labels and goes to the next image. Images are prepared in the background. Files
    in `out`:

    - clicks.json: all clicks, written before each is answered: the same command goes on there.
    - labels/KEY.png: number of the class plus 1 of each pixel of an image that is done, 16 bit.
    - exported/, when you ask for it or the last image is done: KEY_classes.png and classes.txt,
      coco.json, and KEY.json in the layout of SA-1B.
    - prepared/: what was computed ahead, 4 MB an image of 640 x 480; it can be deleted.

    Args:
        images: Images and folders of images (.jpg, .png, .webp, .bmp, .tif, .gif, .avif,
            .jp2, with pillow-heif .heic), of different names without ending; what else a folder
            holds is named. EXIF data turn them upright.
        out: Folder to write to, made if it is not there; not that of the images. None is
            PHOTOS_annotations beside the folder PHOTOS that holds the images (the first of them),
            with classes PHOTOS_labels.
        model: A checkpoint of `lightning fit` (.ckpt) or a .safetensors file; or the word lab, for
            the color of pixels alone.
        host: Address to listen on. Whoever can reach it can see and click on the images: other than
            127.0.0.1 only in a network you trust.
        port: Port to listen on, or the next one that is free; 0 is any.
        open_browser: Whether to show the page; else its address is printed only.
        max_megapixels: Size to work with, millions of pixels. At 2, a click takes twice as long,
            and the server 2 GB instead of 1.5.
        classes: Names of at least two classes, with commas between. When started again, new ones
            may come at the end.
        acquisition: With classes, which image comes next: uncertain, the one whose classes have
            the highest entropy; energy, of those the one whose cut has the highest energy; given,
            by name.
        recursive: Take the images in folders within folders, too.
        page: Which page of stacks, counted from 1; the first, if it is not given.
        channels: Which channels become red, green and blue, counted from 1: 4,3,2; or one for gray.
            If not given, those that the file calls so, else the first three.
        value_range: LOW,HIGH: the values that become 0 and 255. If not given, 8 bits stay as they
            are, and of more bits or floats it is the percentiles 0.1 and 99.9 of the image.
        masks: A file or folder of masks to begin with, in any format that maskfeat convert reads:
            images without prompts are opened with these as finished objects. Not with classes.
    """
    if not max_megapixels > 0:
        raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
    if not 0 <= port < 2**16:
        raise ValueError(f"port must lie in 0 to 65,535, got {port}")
    names = None if classes is None else [name.strip() for name in classes.split(",")]
    if names is not None and (len(names) < 2 or not all(names) or len(set(names)) < len(names)):
        raise ValueError(
            f"classes must be at least two different names with commas between, got {classes!r}"
        )
    if acquisition not in _ACQUISITIONS:
        raise ValueError(f"acquisition must be uncertain, energy or given, got {acquisition!r}")
    from maskfeat.data.folder import find_images

    read_as = read_as_of_words(page, channels, value_range)
    if masks is not None and names is not None:
        raise ValueError("masks are for objects; give masks or classes, not both")
    if not images:
        raise ValueError("images must name at least one image or folder, got none")
    kind = "annotations" if names is None else "labels"
    if out is None:  # not one folder for all: two folders often hold images of equal names
        place = Path(images[0]).resolve()
        photos = place if place.is_dir() else place.parent
        out = str(photos.with_name(f"{photos.name}_{kind}"))
    folder = Path(out)
    found = (path for place in images for path in find_images(place, recursive, folder))
    paths = list(dict.fromkeys(found))
    check_names(paths, folder)
    with contextlib.ExitStack() as stack:
        try:  # keeps other servers out, and finds out now whether it can be written to
            stack.enter_context(held_folder(folder, "maskfeat annotate"))
        except OSError as error:
            raise ValueError(
                f"out must be a folder that can be written to, but '{folder}' is none: "
                f"{error.strerror}; choose another one with --out"
            ) from error
        if names is None:
            backend, greeting = _object_backend(
                paths, folder, model, max_megapixels, read_as, masks
            )
        else:
            backend, greeting = _label_backend(
                paths, names, folder, model, acquisition, max_megapixels, read_as
            )
        _serve(backend, greeting, host, port, open_browser)


def _object_backend(
    paths: Sequence[Path],
    folder: Path,
    model: str,
    max_megapixels: float,
    read_as: ReadAs,
    masks: str | None,
) -> tuple[Backend, str]:
    """What the page of objects shows, and the text that is printed when it starts."""
    with QuickImports():  # of torch
        from maskfeat.app.annotation_store import AnnotationStore
        from maskfeat.app.open_images import OpenImages
        from maskfeat.data.convert.mask_sets import list_masks
        from maskfeat.segment.inputs import model_of
    begun = {} if masks is None else {one.key: one for one in list_masks(masks)}
    store = AnnotationStore(folder, paths, read_as, begun)
    greeting = f"{store.num_done} of {len(paths)} images done; prompts and masks go to '{folder}'"
    return OpenImages(store, model_of(model), max_megapixels), greeting


def _label_backend(
    paths: Sequence[Path],
    classes: Sequence[str],
    folder: Path,
    model: str,
    acquisition: str,
    max_megapixels: float,
    read_as: ReadAs,
) -> tuple[Backend, str]:
    """What the page of classes shows, and the text that is printed when it starts."""
    with QuickImports():
        from maskfeat.app.label_views import LabelViews
        from maskfeat.labeling.labeler import Labeler
    labeler = Labeler(
        paths,
        classes,
        model,
        folder,
        acquisition=acquisition,  # type: ignore[arg-type]
        max_megapixels=max_megapixels,
        read_as=read_as,
    )
    done = labeler.progress
    greeting = (
        f"{done.num_done} of {done.num_images} images done, {done.num_prepared} prepared; "
        f"clicks and labels go to '{folder}'"
    )
    return LabelViews(labeler), greeting


def _serve(backend: Backend, greeting: str, host: str, port: int, open_browser: bool) -> None:
    from maskfeat.app.server import create_app, is_loopback

    def announce(bound: int) -> None:
        named = f"[{host}]" if ":" in host else host
        named = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, named)
        if not is_loopback(host):
            logging.getLogger("maskfeat").warning(
                "everyone who can reach %s can see and click on these images; there is no password",
                host,
            )
        print(greeting)
        print(f"open http://{named}:{bound}/  (Ctrl+C ends it)", flush=True)
        if open_browser:  # the socket listens already: the page waits for the server
            webbrowser.open(f"http://{named}:{bound}/")

    run_server(create_app(backend, host), host, port, announce)
    print("ended; all that was clicked is saved")


def run_server(app: ASGIApp, host: str, port: int, announce: Callable[[int], None]) -> None:
    """Answer requests until Ctrl+C, on this port or on one of the next 19 that is free.

    `announce` is called with the port when the server listens.
    """
    import uvicorn

    with listening(host, port) as listener:
        announce(listener.getsockname()[1])
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        # By Ctrl+C it is meant to end, and uvicorn passes that on when it has ended.
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def listening(host: str, port: int) -> socket.socket:
    """A socket on this port, or on the next one that is free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = port if port == 0 else min(port + _NUM_PORTS, 2**16) - 1
    for candidate in range(port, last + 1):
        # With the protocol named: else asyncio does not turn off Nagle's algorithm, and each
        # answer takes 40 ms longer.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            if os.name == "posix":  # or the port of a server that has just ended is not free
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, candidate))
            listener.listen()
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise ValueError(f"cannot listen on {host}, port {port} to {last}: {problem}")
