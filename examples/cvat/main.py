"""What Nuclio runs."""

from maskfeat.integrations.nuclio import handler, init_context

__all__ = ["handler", "init_context"]
