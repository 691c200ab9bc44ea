"""Where networks run."""

from __future__ import annotations

import torch


def device_of(device: str | torch.device) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one.

    Raises:
        ValueError: If it is no device, or this machine does not have it.
    """
    if device == "auto":
        kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return torch.device(next((kind for kind, is_there in kinds.items() if is_there), "cpu"))
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"device must be cpu, cuda, mps or auto, and be there, got '{device}': {reason}"
        ) from error
    return found
