"""What a person has labeled in one image: prompts, finished objects, labels.

Nothing here computes a mask: a finished object brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mode = Literal["object", "labels"]
PromptKind = Literal["click", "scribble", "segment", "brush", "box"]
Review = Literal["open", "check", "done"]

MODES: tuple[Mode, ...] = get_args(Mode)
MAX_LABEL = 9  # the number keys
OBJECT, BACKGROUND = 1, 0  # labels of prompts while one object is cut out


@dataclass(frozen=True)
class Prompt:
    """One click, scribble, painted line or box, or one segment of a partition taken whole.

    Attributes:
        kind: What was drawn.
        points_yx: Pixels of the image (row, column): of a click and a segment the one under the
            cursor, of a scribble and a brush the corners of its line, of a box two opposite
            corners, both inside it.
        label: 1 object or 0 background while an object is cut out, else 1 to 9; 1 of a box.
        granularity: Of the partition whose segment is meant, in (0, 1); None for other kinds.
        click_radius: How far a click or scribble was made from the outline of the object as it was
            shown then, pixels of the image, see `maskfeat.interactive.prompts`; None if it was
            made on no outline, or that is not known. Other kinds and prompts that give labels
            have none.
        radius_px: Of a brush, pixels of the image; None for other kinds.
    """

    kind: PromptKind
    points_yx: tuple[tuple[int, int], ...]
    label: int
    granularity: float | None = None
    click_radius: float | None = None
    radius_px: float | None = None


@dataclass(frozen=True)
class MaskRuns:
    """A mask as it was when its object was finished, so that no other model can change it.

    Attributes:
        size: Height and width, pixels; smaller than the image where that was reduced.
        counts: Compressed COCO counts, see `maskfeat.data.annotations.painting.encode`.
    """

    size: tuple[int, int]
    counts: str


@dataclass(frozen=True)
class ChosenMask:
    """A mask that the first prompts of an object stand for; later ones correct it.

    Attributes:
        number: Of the candidate, 1 for the first after the mask that is shown without a choice;
            0 for the mask of another program.
        num_masks: How many there were, that one included.
        num_prompts: How many prompts it is a candidate for; 0 for the mask of another program.
        mask: As it was, so that no other model can change it.
    """

    number: int
    num_masks: int
    num_prompts: int
    mask: MaskRuns


@dataclass(frozen=True)
class Description:
    """What a person calls an object.

    Attributes:
        name: Of this one; empty for "Object 3".
        class_name: What it is one of; empty if it has none.
        color: How the page shows it, "#rrggbb"; empty for the color of its number.
    """

    name: str = ""
    class_name: str = ""
    color: str = ""


@dataclass(frozen=True)
class FinishedObject:
    """An object that is cut out; its prompts and the chosen mask allow to open it again."""

    number: int
    prompts: tuple[Prompt, ...]
    mask: MaskRuns
    chosen: ChosenMask | None = None
    description: Description = Description()

    @property
    def start(self) -> ChosenMask | None:
        """The mask that is corrected when it is opened: its own if another program made it."""
        if self.prompts or self.chosen is not None:
            return self.chosen
        return ChosenMask(0, 1, 0, self.mask)


@dataclass(frozen=True)
class State:
    """What the steps add up to.

    Attributes:
        mode: "object": one object at a time; "labels": every pixel gets one of a few labels.
        open_prompts: Prompts of the object at hand.
        chosen: The mask that they correct, or None.
        open_number: Its number if it was finished before and opened again, else None.
        description: What the object at hand is called.
        finished: Finished objects by rising number.
        order: Numbers in the order that a person gave them, those that are gone included; empty
            if nobody gave one.
        next_number: What the next new object is called; numbers are never used twice.
        label_prompts: Prompts that give labels.
        labels: What pixels had each label when the labels were written last, by rising label.
        is_done: Whether the image was called done, and nothing was changed since.
        is_to_check: Whether a person wants to look at the image again.
    """

    mode: Mode = "object"
    open_prompts: tuple[Prompt, ...] = ()
    chosen: ChosenMask | None = None
    open_number: int | None = None
    description: Description = Description()
    finished: tuple[FinishedObject, ...] = ()
    order: tuple[int, ...] = ()
    next_number: int = 1
    label_prompts: tuple[Prompt, ...] = ()
    labels: tuple[tuple[int, MaskRuns], ...] = ()
    is_done: bool = False
    is_to_check: bool = False

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts that the mode shows."""
        return self.open_prompts if self.mode == "object" else self.label_prompts

    @property
    def has_open(self) -> bool:
        """Whether an object is at hand."""
        return bool(self.open_prompts) or self.chosen is not None

    @property
    def in_order(self) -> tuple[FinishedObject, ...]:
        """Finished objects as a person ordered them; those that came later by number at the end."""
        finished = {one.number: one for one in self.finished}
        return tuple(finished[number] for number in self.all_in_order if number in finished)

    @property
    def all_in_order(self) -> list[int]:
        """Numbers of `in_order`, and at its place that of the object that was opened again."""
        places = {number: place for place, number in enumerate(self.order)}
        opened = [] if self.open_number is None else [self.open_number]
        numbers = sorted([*opened, *(one.number for one in self.finished)])
        return sorted(numbers, key=lambda number: places.get(number, len(places)))

    @property
    def review(self) -> Review:
        """How far the image is."""
        return "check" if self.is_to_check else "done" if self.is_done else "open"

    @property
    def shown_in_results(self) -> tuple[object, ...]:
        """What the files of masks depend on."""
        return self.is_done, self.labels, self.finished, self.order

    def finished_object(self, number: int) -> FinishedObject:
        """A finished object.

        Raises:
            ValueError: If there is none of this number.
        """
        for one in self.finished:
            if one.number == number:
                return one
        raise ValueError(f"there is no finished object {number}")
