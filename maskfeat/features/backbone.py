"""A timm backbone, by name, with or without its weights; where its maps lie."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

# `load_state_dict` is replaced for a moment: by one thread at a time.
_LOADING = threading.Lock()


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
            does not hold all weights of it (the classifier's are not needed). Nothing in a file
            is run.
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
    loads: list[_Load] = []
    around = _one_try_at_the_hub() if pretrained is True else contextlib.nullcontext()
    try:
        with around, _recorded_loads(loads):
            network = timm.create_model(name, **settings)
    except OSError as error:  # huggingface_hub: LocalEntryNotFoundError and similar
        raise FileNotFoundError(
            f"pretrained weights of {name!r} are neither in the cache nor to be had from the hub; "
            "set pretrained to the path of a weights file, or to false to train from scratch"
        ) from error
    except Exception as error:  # timm, torch, pickle and safetensors each raise kinds of their own
        if isinstance(pretrained, str):
            build_backbone(name, pretrained=False)  # raises where the model is at fault
            if loads:  # the file was read, but shapes differ
                _check_fit(loads[-1].wanted, name, loads[-1], pretrained)
            # Not the library's words: torch's advice is to read the file again, and run its code.
            raise ValueError(
                f"'{pretrained}' holds no weights of {name!r} that can be read without running "
                "code; give timm's weights as .safetensors, or a state dict that torch.save wrote"
            ) from error
        raise ValueError(
            f"timm model {name!r} cannot give feature maps: {_in_one_line(error)}"
        ) from error
    if isinstance(pretrained, str) and loads:
        _check_fit(network.state_dict(keep_vars=True), name, loads[-1], pretrained)
    info: Any = network.feature_info
    return network, list(info.reduction()), list(info.channels())


def backbone_maps(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The maps of a network of `build_backbone`, each (B, C, h, w), whatever their order inside."""
    maps: list[Tensor] = network(images)
    if getattr(network, "output_fmt", None) == "NHWC":
        return [one.permute(0, 3, 1, 2) for one in maps]
    return maps


def size_multiple(
    name: str, network: nn.Module, strides: Sequence[int], channels: Sequence[int]
) -> int:
    """Of what sides must be a multiple so that every map lies at its stride, found by a trial.

    Strides alone do not tell: some networks enlarge a map of odd sides. On the meta device, which
    computes nothing, they have to do.

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


class _Load(NamedTuple):
    """What a network was to be filled with.

    Attributes:
        wanted: Its tensors that a file must hold, by name: all floats but the classifier's.
        given: Shapes of the tensors that there were, by name.
        unknown: Names that it does not have.
    """

    wanted: dict[str, Tensor]
    given: dict[str, torch.Size]
    unknown: list[str]


@contextlib.contextmanager
def _recorded_loads(loads: list[_Load]) -> Iterator[None]:
    """Note what timm fills a network with: it keeps random weights where a file holds none."""
    original = nn.Module.load_state_dict

    def load(module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - torch's signature
        classifier = (getattr(module, "pretrained_cfg", None) or {}).get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        own = module.state_dict(keep_vars=True)
        wanted = {
            name: value
            for name, value in own.items()
            if value.is_floating_point() and name.rpartition(".")[0] not in heads
        }
        given = {n: v.shape for n, v in state_dict.items() if isinstance(v, Tensor)}
        loads.append(_Load(wanted, given, [name for name in state_dict if name not in own]))
        return original(module, state_dict, *args, **kwargs)

    with _LOADING:
        nn.Module.load_state_dict = load  # type: ignore[assignment, method-assign]
        try:
            yield
        finally:
            nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _check_fit(kept: Mapping[str, Tensor], name: str, load: _Load, path: str) -> None:
    """Refuse a file that lacks weights of the tensors that are kept for the feature maps.

    Raises:
        ValueError: Says how many there are, and names one that is not.
    """
    ids = {id(value) for value in kept.values()}  # their names may have changed since
    wanted = {n: v.shape for n, v in load.wanted.items() if id(v) in ids}
    lacking = [n for n, shape in wanted.items() if load.given.get(n) != shape]
    if lacking:
        instead = f", it has for example '{load.unknown[0]}'" if load.unknown else ""
        raise ValueError(
            f"'{path}' holds {len(wanted) - len(lacking)} of the {len(wanted)} weights that "
            f"{name!r} needs (for example not '{lacking[0]}'{instead}); give timm's weights of "
            "this backbone, or set pretrained: false to train from scratch"
        )


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
