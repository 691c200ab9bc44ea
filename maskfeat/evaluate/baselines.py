"""Feature spaces that learned nothing, to be beaten."""

from maskfeat.features.lab import LabEncoder

__all__ = ["LabEncoder"]
