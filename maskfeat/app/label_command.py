"""`maskfeat annotate --classes`: a set of images gets classes, on a local web page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.applications import Starlette

_ACQUISITIONS = ("uncertain", "energy", "given")


def class_names(text: str) -> list[str]:
    """Names with commas between.

    Raises:
        ValueError: If they are not at least two different ones.
    """
    names = [name.strip() for name in text.split(",")]
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"classes must be at least two different names with commas between, got {text!r}"
        )
    return names


def check_acquisition(acquisition: str) -> None:
    """Refuse an unknown acquisition function."""
    if acquisition not in _ACQUISITIONS:
        raise ValueError(f"acquisition must be uncertain, energy or given, got {acquisition!r}")


def label_app(
    paths: Sequence[Path],
    classes: Sequence[str],
    folder: Path,
    model: str,
    host: str,
    acquisition: str,
    max_megapixels: float,
) -> tuple[Starlette, str]:
    """The application, and the text that is printed when it starts."""
    from maskfeat.app.label_views import LabelViews
    from maskfeat.app.server import create_app
    from maskfeat.labeling.labeler import Labeler
    from maskfeat.segment.inputs import model_of

    labeler = Labeler(
        paths,
        classes,
        model_of(model),
        folder,
        acquisition=acquisition,  # type: ignore[arg-type]
        max_megapixels=max_megapixels,
    )
    done = labeler.progress
    greeting = (
        f"{done.num_done} of {done.num_images} images done, {done.num_prepared} prepared; "
        f"clicks and labels go to '{folder}'"
    )
    return create_app(LabelViews(labeler), host), greeting
