"""What a person has labeled in one image: steps that can be taken back, and what they add up to.

Nothing here computes a mask: a finished object brings its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Literal, get_args

Mode = Literal["object", "labels"]
PromptKind = Literal["click", "scribble", "segment"]

MODES: tuple[Mode, ...] = get_args(Mode)
MAX_LABEL = 9  # the number keys
OBJECT, BACKGROUND = 1, 0  # labels of prompts while one object is cut out


@dataclass(frozen=True)
class Prompt:
    """One click, one scribble, or one segment of a partition taken whole.

    Attributes:
        kind: What was drawn.
        points_yx: Pixels of the image (row, column): of a click and a segment the one under the
            cursor, of a scribble the corners of its line.
        label: 1 object or 0 background while an object is cut out, else 1 to 9.
        granularity: Of the partition whose segment is meant, in (0, 1); None for other kinds.
        click_radius: How far a click or scribble was made from the outline of the object as it was
            shown then, pixels of the image, see `maskfeat.interactive.prompts`; None if it was
            made on no outline, or that is not known. Segments and prompts that give labels have
            none.
    """

    kind: PromptKind
    points_yx: tuple[tuple[int, int], ...]
    label: int
    granularity: float | None = None
    click_radius: float | None = None


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
    """The candidate that was chosen for the first prompts of an object; later ones correct it.

    Attributes:
        number: Of the candidate, 1 for the first after the mask that is shown without a choice.
        num_masks: How many there were, that one included.
        num_prompts: How many prompts it is a candidate for.
        mask: As it was, so that no other model can change it.
    """

    number: int
    num_masks: int
    num_prompts: int
    mask: MaskRuns


@dataclass(frozen=True)
class FinishedObject:
    """An object that is cut out; its prompts and the chosen mask allow to open it again."""

    number: int
    prompts: tuple[Prompt, ...]
    mask: MaskRuns
    chosen: ChosenMask | None = None


@dataclass(frozen=True)
class State:
    """What the steps add up to.

    Attributes:
        mode: "object": one object at a time; "labels": every pixel gets one of a few labels.
        open_prompts: Prompts of the object at hand.
        chosen: The candidate that was chosen for it, or None.
        open_number: Its number if it was finished before and opened again, else None.
        finished: Finished objects by rising number.
        next_number: What the next new object is called; numbers are never used twice.
        label_prompts: Prompts that give labels.
        labels: What pixels had each label when the labels were written last, by rising label.
        is_done: Whether the image was called done, and nothing was changed since.
    """

    mode: Mode = "object"
    open_prompts: tuple[Prompt, ...] = ()
    chosen: ChosenMask | None = None
    open_number: int | None = None
    finished: tuple[FinishedObject, ...] = ()
    next_number: int = 1
    label_prompts: tuple[Prompt, ...] = ()
    labels: tuple[tuple[int, MaskRuns], ...] = ()
    is_done: bool = False

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts that the mode shows."""
        return self.open_prompts if self.mode == "object" else self.label_prompts

    @property
    def shown_in_results(self) -> tuple[object, ...]:
        """What the files of masks depend on."""
        return self.is_done, self.labels, self.finished


@dataclass(frozen=True)
class AddPrompt:
    """Prompt the object at hand, or give a label."""

    prompt: Prompt

    def after(self, state: State) -> State:
        """The state with one more prompt."""
        if state.mode == "object":
            if self.prompt.label not in (OBJECT, BACKGROUND):
                raise ValueError(f"an object's prompt has label 0 or 1, got {self.prompt.label}")
            return replace(state, open_prompts=(*state.open_prompts, self.prompt), is_done=False)
        if not 1 <= self.prompt.label <= MAX_LABEL:
            raise ValueError(f"a label lies in 1 to {MAX_LABEL}, got {self.prompt.label}")
        return replace(state, label_prompts=(*state.label_prompts, self.prompt), is_done=False)


@dataclass(frozen=True)
class ClearPrompts:
    """Drop all prompts of the object at hand, or all labels."""

    def after(self, state: State) -> State:
        """The state without the prompts; an object that was opened again is gone."""
        if state.mode == "labels":
            return replace(state, label_prompts=(), is_done=False)
        return replace(state, open_prompts=(), chosen=None, open_number=None, is_done=False)


@dataclass(frozen=True)
class ChooseMask:
    """Take another candidate for the prompts of the object at hand.

    Attributes:
        number: See `ChosenMask`; 0 takes back the choice.
        num_masks: See there.
        mask: The candidate; None with number 0.
    """

    number: int
    num_masks: int
    mask: MaskRuns | None = None

    def after(self, state: State) -> State:
        """The state with that mask."""
        if state.mode != "object" or not state.open_prompts:
            raise ValueError("there is no object at hand to choose a mask for; click one first")
        count = len(state.open_prompts)
        if state.chosen is not None and state.chosen.num_prompts < count:
            raise ValueError("the chosen mask was corrected; undo the corrections to choose again")
        chosen = None
        if self.mask is not None:
            chosen = ChosenMask(self.number, self.num_masks, count, self.mask)
        return replace(state, chosen=chosen, is_done=False)


@dataclass(frozen=True)
class FinishObject:
    """Put the object at hand with the finished ones."""

    mask: MaskRuns

    def after(self, state: State) -> State:
        """The state with one more object, or with the opened one back at its place."""
        if not state.open_prompts:
            raise ValueError("there is no object at hand to finish; click one first")
        number = state.open_number or state.next_number
        one = FinishedObject(number, state.open_prompts, self.mask, state.chosen)
        finished = (*state.finished, one)
        return replace(
            state,
            open_prompts=(),
            chosen=None,
            open_number=None,
            finished=tuple(sorted(finished, key=lambda one: one.number)),
            next_number=max(state.next_number, number + 1),
            is_done=False,
        )


@dataclass(frozen=True)
class ReopenObject:
    """Take a finished object in hand again."""

    number: int

    def after(self, state: State) -> State:
        """The state with that object at hand."""
        if state.open_prompts:
            raise ValueError("finish or clear the object at hand before opening another one")
        chosen = _find(state, self.number)
        if not chosen.prompts:
            raise ValueError(
                f"object {self.number} was read from a file, so it has no clicks to go on from; "
                "delete it, and click it anew"
            )
        others = tuple(one for one in state.finished if one is not chosen)
        return replace(
            state,
            mode="object",
            open_prompts=chosen.prompts,
            chosen=chosen.chosen,
            open_number=chosen.number,
            finished=others,
            is_done=False,
        )


@dataclass(frozen=True)
class DeleteObject:
    """Drop a finished object."""

    number: int

    def after(self, state: State) -> State:
        """The state without that object."""
        chosen = _find(state, self.number)
        others = tuple(one for one in state.finished if one is not chosen)
        return replace(state, finished=others, is_done=False)


@dataclass(frozen=True)
class AddObjects:
    """Put objects that another program made with the finished ones; they have no prompts."""

    masks: tuple[MaskRuns, ...]

    def after(self, state: State) -> State:
        """The state with these objects."""
        first = state.next_number
        added = tuple(FinishedObject(first + n, (), mask) for n, mask in enumerate(self.masks))
        return replace(
            state,
            finished=(*state.finished, *added),
            next_number=first + len(added),
            is_done=False,
        )


@dataclass(frozen=True)
class SetMode:
    """Cut out objects, or give labels; the prompts of the other mode are kept."""

    mode: Mode

    def after(self, state: State) -> State:
        """The state in that mode."""
        return replace(state, mode=self.mode, is_done=False)


@dataclass(frozen=True)
class SetDone:
    """Call the image done, or not done after all, and keep the labels that its pixels have.

    Attributes:
        is_done: Whether it is.
        labels: The pixels of each label; None keeps those that were kept before.
    """

    is_done: bool
    labels: tuple[tuple[int, MaskRuns], ...] | None = None

    def after(self, state: State) -> State:
        """The state, done or not."""
        labels = state.labels if self.labels is None else self.labels
        return replace(state, is_done=self.is_done, labels=labels)


Step = (
    AddPrompt
    | ClearPrompts
    | ChooseMask
    | FinishObject
    | ReopenObject
    | DeleteObject
    | AddObjects
    | SetMode
    | SetDone
)


@dataclass(frozen=True)
class Annotation:
    """The steps taken in one image. It never changes: each change gives another one.

    Attributes:
        steps: All steps, those that were taken back last.
        position: How many of them count; those after it can be taken again.
    """

    steps: tuple[Step, ...] = ()
    position: int = 0

    @cached_property
    def state(self) -> State:
        """What the steps that count add up to.

        Raises:
            ValueError: If a step cannot follow those before it.
        """
        return reduce(lambda state, step: step.after(state), self.steps[: self.position], State())

    @property
    def can_undo(self) -> bool:
        """Whether a step counts."""
        return self.position > 0

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back."""
        return self.position < len(self.steps)

    @property
    def last_step(self) -> Step | None:
        """What undo takes back."""
        return self.steps[self.position - 1] if self.position else None

    def with_step(self, step: Step) -> Annotation:
        """Take one more step; what was taken back before is forgotten.

        Raises:
            ValueError: If the step cannot follow.
        """
        step.after(self.state)
        return Annotation((*self.steps[: self.position], step), self.position + 1)

    def undone(self) -> Annotation:
        """Take the last step back; the same if there is none."""
        return replace(self, position=max(0, self.position - 1))

    def redone(self) -> Annotation:
        """Take the step again that was taken back last; the same if there is none."""
        return replace(self, position=min(len(self.steps), self.position + 1))


def described(step: Step) -> str:
    """What a step did, to say that it is taken back."""
    match step:
        case AddPrompt(prompt):
            return f"a {prompt.kind}"
        case ClearPrompts():
            return "clearing the prompts"
        case ChooseMask():
            return "a choice of mask"
        case FinishObject():
            return "finishing an object"
        case ReopenObject(number):
            return f"opening object {number} again"
        case AddObjects(masks):
            return f"reading {len(masks)} objects from a file"
        case DeleteObject(number):
            return f"deleting object {number}"
        case SetMode(mode):
            return f"changing to {mode} mode"
        case SetDone(is_done):
            return "calling the image done" if is_done else "writing the labels"


def _find(state: State, number: int) -> FinishedObject:
    for one in state.finished:
        if one.number == number:
            return one
    raise ValueError(f"there is no finished object {number}")
