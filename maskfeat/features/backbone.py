"""A timm backbone, by name, with or without its weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
from torch import nn


def build_backbone(name: str, pretrained: bool | str) -> tuple[nn.Module, list[int], list[int]]:
    """Make a backbone that gives its feature maps.

    Args:
        name: A timm model that supports `features_only` and inputs of any size.
        pretrained: False for random weights, True for timm's own (from its cache or the hub), or
            the path of a weights file in timm's format.

    Returns:
        The network, the stride and the number of channels of each of its maps, finest first.

    Raises:
        ValueError: If timm does not know the name or the model gives no feature maps.
        FileNotFoundError: If the weights cannot be had.
    """
    if not timm.is_model(name.split(".")[0]):
        raise ValueError(
            f"timm knows no model named {name!r}; `timm.list_models()` has the names, "
            "efficientvit_b0 is the default here"
        )
    settings: dict[str, Any] = {"features_only": True, "pretrained": bool(pretrained)}
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise FileNotFoundError(
                f"no weights file at {pretrained!r}; give the path of timm weights for {name!r}, "
                "or set pretrained: false to train from scratch"
            )
        settings["pretrained_cfg_overlay"] = {"file": pretrained}
    try:
        with _one_try_at_the_hub() if pretrained is True else contextlib.nullcontext():
            network = timm.create_model(name, **settings)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise ValueError(f"timm model {name!r} cannot give feature maps: {error}") from error
    except OSError as error:  # huggingface_hub: LocalEntryNotFoundError and its kin
        raise FileNotFoundError(
            f"pretrained weights of {name!r} are neither in the cache nor to be had from the hub; "
            "set pretrained to the path of a weights file, or to false to train from scratch"
        ) from error
    info: Any = network.feature_info
    return network, list(info.reduction()), list(info.channels())


@contextlib.contextmanager
def _one_try_at_the_hub() -> Iterator[None]:
    """Ask the hub only where it answers; the cache is looked in either way.

    Without a network huggingface_hub would try six times over, for about 47 seconds.
    """
    from huggingface_hub import constants, get_session

    offline = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception as error:  # whatever the transport raises: no answer is no hub
        logging.getLogger("maskfeat").info("the model hub does not answer (%s)", error)
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
