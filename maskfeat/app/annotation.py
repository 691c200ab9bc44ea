"""What a person has labeled in one image: steps that each make a state, and can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce

from maskfeat.app.annotation_state import (
    BACKGROUND,
    MAX_LABEL,
    OBJECT,
    ChosenMask,
    Description,
    FinishedObject,
    MaskRuns,
    Mode,
    Prompt,
    State,
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
        state = step.after(self.state)
        longer = Annotation((*self.steps[: self.position], step), self.position + 1)
        longer.__dict__["state"] = state  # not from the first step on: there may be thousands
        return longer

    def undone(self) -> Annotation:
        """Take the last step back; the same if there is none."""
        return replace(self, position=max(0, self.position - 1))

    def redone(self) -> Annotation:
        """Take the step again that was taken back last; the same if there is none."""
        return replace(self, position=min(len(self.steps), self.position + 1))


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
        if self.prompt.kind == "box":
            raise ValueError("a box is drawn around an object, labels have none; paint instead")
        return replace(state, label_prompts=(*state.label_prompts, self.prompt), is_done=False)


@dataclass(frozen=True)
class ClearPrompts:
    """Drop all prompts of the object at hand, or all labels."""

    def after(self, state: State) -> State:
        """The state without the prompts; an object that was opened again is gone."""
        if state.mode == "labels":
            return replace(state, label_prompts=(), is_done=False)
        return replace(_with_none_open(state), is_done=False)


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
        if state.chosen is not None and state.chosen.num_prompts == 0:
            raise ValueError("a mask that was read from a file has no other candidates; correct it")
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
    """Put the object at hand with the finished ones.

    Attributes:
        mask: Its pixels.
        class_name: What it is one of, if it has none yet.
    """

    mask: MaskRuns
    class_name: str = ""

    def after(self, state: State) -> State:
        """The state with one more object, or with the opened one back at its place."""
        if not state.has_open:
            raise ValueError("there is no object at hand to finish; click one first")
        number = state.open_number or state.next_number
        class_name = state.description.class_name or self.class_name
        description = replace(state.description, class_name=class_name)
        one = FinishedObject(number, state.open_prompts, self.mask, state.chosen, description)
        finished = (*state.finished, one)
        return replace(
            _with_none_open(state),
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
        if state.has_open:
            raise ValueError("finish or clear the object at hand before opening another one")
        opened = state.finished_object(self.number)
        return replace(
            state,
            mode="object",
            open_prompts=opened.prompts,
            chosen=opened.start,
            open_number=opened.number,
            description=opened.description,
            finished=tuple(one for one in state.finished if one is not opened),
            is_done=False,
        )


@dataclass(frozen=True)
class DeleteObject:
    """Drop a finished object."""

    number: int

    def after(self, state: State) -> State:
        """The state without that object."""
        deleted = state.finished_object(self.number)
        others = tuple(one for one in state.finished if one is not deleted)
        return replace(state, finished=others, is_done=False)


@dataclass(frozen=True)
class DescribeObject:
    """Name, classify and color a finished object, or the one at hand."""

    number: int
    description: Description

    def after(self, state: State) -> State:
        """The state in which the object is described so; an image that is done stays done."""
        if state.has_open and self.number == (state.open_number or state.next_number):
            return replace(state, description=self.description)
        former = state.finished_object(self.number)
        described = replace(former, description=self.description)
        finished = (described if one is former else one for one in state.finished)
        return replace(state, finished=tuple(finished))


@dataclass(frozen=True)
class MoveObject:
    """Give a finished object another place; of two that overlap the later one is on top.

    Attributes:
        number: Of the object.
        place: Its place among the finished ones, from 0.
    """

    number: int
    place: int

    def after(self, state: State) -> State:
        """The state with that order; an image that is done stays done."""
        moved = state.finished_object(self.number)
        numbers = [one.number for one in state.in_order if one is not moved]
        if not 0 <= self.place <= len(numbers):
            raise ValueError(f"an object's place lies in 0 to {len(numbers)}, got {self.place}")
        numbers.insert(self.place, self.number)
        if state.open_number is not None:  # it comes back at its place among all
            numbers.insert(state.all_in_order.index(state.open_number), state.open_number)
        return replace(state, order=tuple(numbers))


@dataclass(frozen=True)
class AddObjects:
    """Put objects that another program made with the finished ones; they have no prompts.

    Attributes:
        masks: Of each.
        class_names: Of each, empty where there is none; no name at all in files of 0.2.
    """

    masks: tuple[MaskRuns, ...]
    class_names: tuple[str, ...] = ()

    def after(self, state: State) -> State:
        """The state with these objects."""
        first = state.next_number
        names = self.class_names or ("",) * len(self.masks)
        added = tuple(
            FinishedObject(first + n, (), mask, description=Description(class_name=name))
            for n, (mask, name) in enumerate(zip(self.masks, names, strict=True))
        )
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
        """The state, done or not; what is called done was looked at."""
        labels = state.labels if self.labels is None else self.labels
        is_to_check = state.is_to_check and not self.is_done
        return replace(state, is_done=self.is_done, is_to_check=is_to_check, labels=labels)


@dataclass(frozen=True)
class SetToCheck:
    """Say that somebody should look at the image again, or that nobody needs to."""

    is_to_check: bool

    def after(self, state: State) -> State:
        """The state with that wish; what is to be checked is not done."""
        is_done = state.is_done and not self.is_to_check
        return replace(state, is_to_check=self.is_to_check, is_done=is_done)


Step = (
    AddPrompt
    | ClearPrompts
    | ChooseMask
    | FinishObject
    | ReopenObject
    | DeleteObject
    | DescribeObject
    | MoveObject
    | AddObjects
    | SetMode
    | SetDone
    | SetToCheck
)


def described(step: Step) -> str:
    """What a step did, to say that it is taken back."""
    match step:
        case AddPrompt(prompt):
            return f"a {'painted line' if prompt.kind == 'brush' else prompt.kind}"
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
        case DescribeObject(number):
            return f"describing object {number}"
        case MoveObject(number):
            return f"moving object {number} in the list"
        case SetMode(mode):
            return f"changing to {mode} mode"
        case SetDone(is_done):
            return "calling the image done" if is_done else "writing the labels"
        case SetToCheck(is_to_check):
            return "asking for a check" if is_to_check else "taking back the wish for a check"


def _with_none_open(state: State) -> State:
    return replace(state, open_prompts=(), chosen=None, open_number=None, description=Description())
