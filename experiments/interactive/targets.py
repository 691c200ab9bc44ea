"""What is clicked: folders with an index, shards, and the field's own layouts, all as targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from click_sets import Berkeley, CocoMVal, Davis, GrabCut, Sbd

from maskfeat.batch import ClickTarget
from maskfeat.data.heldout import ClickFolder, ShardImages
from maskfeat.evaluate.clicking import pick_target

LAYOUTS: dict[str, Callable[[Path, int | None], Sequence[ClickTarget]]] = {
    "grabcut": GrabCut,
    "berkeley": Berkeley,
    "davis": Davis,
    "sbd": Sbd,
    "coco_mval": CocoMVal,
}


class ShardTargets(Sequence[ClickTarget | None]):
    """One mask of each image of some shards, chosen by `pick_target`; None where none is fair.

    Args:
        shards: Local tars, as in `maskfeat.data.shards.names.expand_shards`.
        num_targets: At most so many; None takes one of each image. Beyond the number of images a
            second mask of each is taken, and so on.
    """

    def __init__(self, shards: str, num_targets: int | None) -> None:
        self._images = ShardImages(shards, num_targets)
        self._num_targets = len(self._images) if num_targets is None else num_targets

    def __len__(self) -> int:
        return self._num_targets

    def __getitem__(self, i: int) -> ClickTarget | None:  # type: ignore[override]
        if not 0 <= i < self._num_targets:
            raise IndexError(i)  # ends iteration
        turn, image = divmod(i, len(self._images))
        return pick_target(self._images[image], turn)


def open_targets(
    data: str, layout: str | None, num_targets: int | None
) -> tuple[str, Sequence[ClickTarget | None]]:
    """A set by what was typed, and a short name for it.

    Args:
        data: PATH or LAYOUT=PATH; the path is a folder with `index.json` (see
            `maskfeat.data.heldout.ClickFolder`), the tars of a data set, or the folder of a layout.
        layout: Of a path that names none; None finds out by looking.
        num_targets: At most so many, evenly spaced; None takes all.

    Raises:
        FileNotFoundError: If there is nothing of that kind at the path.
        ValueError: If there is no such layout, or what lies there is malformed.
    """
    before, separator, after = data.partition("=")
    if separator and before in LAYOUTS:
        layout, data = before, after
    if layout is not None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        return layout, LAYOUTS[layout](Path(data), num_targets)
    path = Path(data)
    if (path / "index.json").is_file():
        return path.name, ClickFolder(path, num_targets)
    if path.is_dir() and not any(path.glob("*.tar")):
        raise FileNotFoundError(
            f"'{path}' holds neither index.json nor tars; say which layout it has, e.g. "
            f"--data grabcut={path}"
        )
    shards = path / "*.tar" if path.is_dir() else path
    return "/".join(shards.parts[-2:]), ShardTargets(str(shards), num_targets)
