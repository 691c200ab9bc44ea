"""Label maps of images that are done: kept, and written as files that others read."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from maskfeat.arrays import IntArray
from maskfeat.data.annotations.read_as import ReadAs
from maskfeat.files import file_digest, whole_file
from maskfeat.formats.sa1b import annotate_levels, image_entry, json_bytes
from maskfeat.labeling.click_log import Click, ClickFile

Format = Literal["png", "coco", "sa1b"]
_LIST = ".maskfeat_export.json"
_LOG = logging.getLogger("maskfeat")


def export_labels(
    folder: Path,
    labeled: Iterable[tuple[Path, int, IntArray]],
    classes: Sequence[str],
    formats: Sequence[Format],
    min_area_px: int = 16,
    read_as: ReadAs = ReadAs(),  # noqa: B008 - frozen
) -> int:
    """Write the labels of images, file by file, each whole, then renamed.

    - "png": KEY_classes.png, the number of the class of each pixel plus 1, 16 bit, and
      classes.txt, a name a line.
    - "coco": coco.json, images, categories (`id` is number plus 1) and an annotation for each
      connected region, its mask as compressed RLE.
    - "sa1b": KEY.json in the layout of SA-1B, an annotation for each connected region, with the
      name of its class under `label`; beside KEY.jpg it is training data.

    A list of what was written stays in the folder (`.maskfeat_export.json`). The next export
    removes the files of images that it leaves out, unless they were changed since.

    Args:
        folder: Where to; made if it is not there.
        labeled: Image, its number, and the class of each pixel, shape (H, W), -1 for none.
        classes: Names.
        formats: What to write.
        min_area_px: Regions of fewer pixels are no annotations; the png has them.
        read_as: How the images were read.

    Returns:
        How many images were written.

    Raises:
        ValueError: If a format is unknown, or an image is named as coco.json would be.
    """
    unknown = sorted(set(formats) - {"png", "coco", "sa1b"})
    if unknown:
        raise ValueError(f"formats must be of png, coco and sa1b, got {unknown[0]!r}")
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    before = _read_list(folder)
    written: dict[str, tuple[str, str]] = {}
    for path, number, labels in labeled:
        height, width = labels.shape
        images.append({"id": number, "file_name": path.name, "height": height, "width": width})
        if "png" in formats:
            label_map = folder / f"{path.stem}_classes.png"
            write_label_map(label_map, labels)
            written[label_map.name] = (path.name, file_digest(label_map))
        if "coco" not in formats and "sa1b" not in formats:
            continue
        regions = _regions(labels, min_area_px)
        if "coco" in formats:
            annotations.extend(_coco(regions, number, len(annotations)))
        if "sa1b" in formats:
            masks = folder / f"{path.stem}.json"
            if masks.name == "coco.json" and "coco" in formats:
                raise ValueError(
                    f"the masks of '{path.name}' and of all images would both be written to "
                    f"'{masks}'; rename the image, or export the two formats to two folders"
                )
            image = image_entry(number, labels.shape, path, folder, read_as)
            described = [
                {"id": place + 1, **region, "label": classes[number]}
                for place, (number, region) in enumerate(regions)
            ]
            _write_json(masks, {"image": image, "annotations": described})
            written[masks.name] = (path.name, file_digest(masks))
    _remove_others(folder, before, written)
    if "png" in formats:
        with whole_file(folder / "classes.txt") as file:
            file.write("".join(f"{name}\n" for name in classes).encode())
    if "coco" in formats:
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(classes)]
        content = {"images": images, "categories": categories, "annotations": annotations}
        _write_json(folder / "coco.json", content)
    return len(images)


def _read_list(folder: Path) -> dict[str, tuple[str, str]]:
    """What the last export wrote, as `_remove_others` keeps it; {} if that is not known."""
    try:
        content = json.loads((folder / _LIST).read_bytes())
        return {
            str(name): (str(image), str(digest))
            for name, (image, digest) in content["files"].items()
            if Path(name).name == name  # a list that was tampered with reaches no other folder
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _remove_others(
    folder: Path, before: dict[str, tuple[str, str]], written: dict[str, tuple[str, str]]
) -> None:
    """Remove what an earlier export wrote of images that this one leaves out, and keep the list.

    Both lists hold the name of the image and the digest of the content, by name of the file.
    """
    images = {image for image, _ in written.values()}
    kept = {name: one for name, one in before.items() if one[0] in images and name not in written}
    for name in before.keys() - kept.keys() - written.keys():
        file = folder / name
        # What somebody changed is theirs.
        if file.is_file() and not file.is_symlink() and file_digest(file) == before[name][1]:
            file.unlink()
    if before or written:
        _write_json(folder / _LIST, {"files": kept | written})


def write_label_map(path: Path, labels: IntArray) -> None:
    """Write classes plus 1 as a 16-bit PNG, 0 where there is none (-1), shape (H, W)."""
    with whole_file(path) as file:
        Image.fromarray((labels + 1).astype(np.uint16)).save(file, "PNG", compress_level=1)


def read_label_map(path: Path) -> IntArray | None:
    """Read what `write_label_map` wrote; None if it is not there, or damaged."""
    try:
        with Image.open(path, formats=["PNG"]) as image_path:
            labels = np.asarray(image_path)
    except (OSError, SyntaxError, ValueError):  # what Pillow raises for a file cut or overwritten
        return None
    return labels.astype(np.int64) - 1 if labels.ndim == 2 else None


def _regions(labels: IntArray, min_area_px: int) -> list[tuple[int, dict[str, Any]]]:
    """Class and description of each connected region."""
    found = []
    for region in annotate_levels({"region": labels.astype(np.int32)}, min_area_px):
        x, y = (int(value) for value in region["point_coords"][0])
        number = int(labels[y, x])
        if number >= 0:
            found.append((number, {k: v for k, v in region.items() if k not in ("level", "id")}))
    return found


def _coco(
    regions: Sequence[tuple[int, dict[str, Any]]], image_id: int, first: int
) -> list[dict[str, Any]]:
    kept = ("segmentation", "area", "bbox")
    return [
        {
            "id": first + place + 1,
            "image_id": image_id,
            "category_id": number + 1,
            "iscrowd": 0,
            **{name: region[name] for name in kept},
        }
        for place, (number, region) in enumerate(regions)
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    with whole_file(path) as file:
        file.write(json_bytes(content))


class KeptLabels:
    """Files `FOLDER/KEY.png`, one for each image that is done, and none for others.

    The folder is made with the first file; `size_of` gives height and width of an image, in pixels,
    by its number. An image whose file is missing or damaged is not done any more, which is logged.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[Path],
        clicks: ClickFile,
        size_of: Callable[[int], tuple[int, int]],
    ) -> None:
        self._paths = [folder / f"{path.stem}.png" for path in paths]
        self._clicks, self._size_of = clicks, size_of
        for image in sorted(clicks.done):
            if not self._paths[image].is_file():
                self._reopen(image)

    def keep(self, image: int, labels: IntArray) -> None:
        """Call an image done with these classes of its pixels, shape (H, W)."""
        write_label_map(self._paths[image], labels)
        self._clicks.set_done(image, True)

    def drop(self, image: int) -> None:
        """Call an image not done."""
        with self.withdrawn(image):
            self._clicks.set_done(image, False)

    def read(self, image: int) -> IntArray | None:
        """The classes of an image that is done, shape (H, W); else None."""
        if image not in self._clicks.done:
            return None
        labels = read_label_map(self._paths[image])
        if labels is not None and labels.shape == self._size_of(image):
            return labels
        self._reopen(image)
        return None

    @contextlib.contextmanager
    def withdrawn(self, image: int) -> Iterator[None]:
        """Remove the file of an image when the block has ended well.

        It is out of sight from the start: a kill in between leaves no labels that clicks do not
        stand for.
        """
        path = self._paths[image]
        hidden = path.with_name(f".{path.name[-200:]}.old")
        with contextlib.suppress(FileNotFoundError):
            path.replace(hidden)
        try:
            yield
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                hidden.replace(path)
            raise
        hidden.unlink(missing_ok=True)

    def withdrawn_of_last(self, clicks: Sequence[Click]) -> contextlib.AbstractContextManager[None]:
        """The same for the image that the last of some clicks is on."""
        return self.withdrawn(clicks[-1].image) if clicks else contextlib.nullcontext()

    def _reopen(self, image: int) -> None:
        _LOG.warning(
            "'%s', the labels of an image that was done, is missing or damaged; the image is "
            "not done any more",
            self._paths[image],
        )
        self.drop(image)
