"""What a person has labeled in one image as steps that can be taken back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, reduce

from maskfeat.app.annotation_state import State
from maskfeat.app.annotation_steps import Step


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
