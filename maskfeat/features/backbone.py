"""A timm backbone, by name, with or without its weights; where its maps lie."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn


def build_backbone(name: str, pretrained: bool | str) -> tuple[nn.Module, list[int], list[int]]:
    """Make a backbone that gives its feature maps.

    Args:
        name: A timm model that supports `features_only`.
        pretrained: False for random weights, True for timm's own (from its cache or the hub), or
            the path of a weights file in timm's format.

    Returns:
        The network, the stride and the number of channels of each of its maps, finest first.

    Raises:
        ValueError: If timm does not know the name, the model gives no feature maps, or the file
            holds no weights of it. Nothing in a file is run.
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
    except OSError as error:  # huggingface_hub: LocalEntryNotFoundError and similar
        raise FileNotFoundError(
            f"pretrained weights of {name!r} are neither in the cache nor to be had from the hub; "
            "set pretrained to the path of a weights file, or to false to train from scratch"
        ) from error
    except Exception as error:  # timm, torch, pickle and safetensors each raise kinds of their own
        if isinstance(pretrained, str):
            build_backbone(name, pretrained=False)  # raises where the model is at fault
            # Not the library's words: torch's advice is to read the file again, and run its code.
            raise ValueError(
                f"'{pretrained}' holds no weights of {name!r} that can be read without running "
                "code; give timm's weights as .safetensors, or a state dict that torch.save wrote"
            ) from error
        raise ValueError(
            f"timm model {name!r} cannot give feature maps: {_in_one_line(error)}"
        ) from error
    info: Any = network.feature_info
    return network, list(info.reduction()), list(info.channels())


def backbone_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of a network of `build_backbone`, each (B, C, h, w), whatever their order inside.

    Args:
        network: The backbone.
        images: Shape (B, 3, H, W).
    """
    maps: list[Tensor] = network(images)
    if getattr(network, "output_fmt", None) == "NHWC":
        return [one.permute(0, 3, 1, 2) for one in maps]
    return maps


def size_multiple(
    name: str, network: nn.Module, strides: Sequence[int], channels: Sequence[int]
) -> int:
    """Of what sides must be a multiple so that every map lies at its stride, found by a trial.

    Strides alone do not tell: some networks enlarge a map of odd sides. On the meta device,
    which computes nothing, they have to do.

    Args:
        name: Of the backbone, for errors.
        network: As `build_backbone` gives it, likewise the next two.
        strides: See there.
        channels: See there.

    Raises:
        ValueError: If the network takes images of one size alone, or a map is larger or smaller
            than its stride implies.
    """
    least = math.lcm(*strides)
    if next(network.parameters()).is_meta:
        return least
    faults = []
    for multiple in (least, 2 * least):
        # Odd both ways, not square, and longer than the images that networks are made for: some
        # have tables of places that end there.
        size = (multiple, 33 * multiple)
        fault = _fault_at(size, network, strides, channels)
        if fault is None:
            return multiple
        faults.append(fault)
    raise ValueError(
        f"backbone {name!r} does not work for images of any size: {faults[0]}; take one that "
        "does, such as efficientvit_b0, convnext_atto or resnet18"
    )


def _fault_at(
    size: tuple[int, int], network: nn.Module, strides: Sequence[int], channels: Sequence[int]
) -> str | None:
    """What is wrong with the maps of an image of some size; None if nothing is."""
    was_training = network.training
    network.eval()
    image = torch.zeros(1, 3, *size, device=next(network.parameters()).device)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            maps = backbone_maps(network, image)
    except (RuntimeError, AssertionError, ValueError, TypeError, LookupError) as error:
        return f"it fails at {size[0]} x {size[1]} pixels ({_in_one_line(error)})"
    finally:
        network.train(was_training)
    for one, stride, count in zip(maps, strides, channels, strict=True):
        wanted = (count, size[0] // stride, size[1] // stride)
        if tuple(one.shape[1:]) != wanted:
            return (
                f"its map of stride {stride} is {tuple(one.shape[1:])} and not {wanted} "
                f"(channels, rows, columns) at {size[0]} x {size[1]} pixels"
            )
    return None


def _in_one_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


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
