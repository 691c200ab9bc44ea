"""Settings of a network in a file of weights, checked before it is built."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from maskfeat.arguments import checked_count, checked_flag, checked_number
from maskfeat.features.pyramid import FeaturePyramid


def checked_config(config: object, net_class: type[nn.Module], origin: str) -> dict[str, Any]:
    """The settings of a network, each of its type and within its bounds.

    No setting makes `FeaturePyramid` look for another file, or ask a hub.

    Args:
        config: Of a file, anything.
        net_class: What is built of it. A class of the user's own may have settings of its own.
        origin: The name of the file, for errors.

    Raises:
        ValueError: Says which setting is wrong, or that this version does not have it.
    """
    if not isinstance(config, dict) or not config:
        raise ValueError(f"{origin} holds no settings of a maskfeat network; take another file")
    is_pyramid = issubclass(net_class, FeaturePyramid)
    checks = dict(_CHECKS) if is_pyramid else {}
    if net_class is not FeaturePyramid:
        own = set(inspect.signature(net_class).parameters) - _CHECKS.keys()
        own -= {"pretrained"} if is_pyramid else set()
        checks |= dict.fromkeys(own, lambda _, value: value)
    unknown = [str(key)[:40] for key in config if key not in checks]
    if unknown:
        raise ValueError(
            f"{origin} has settings that this version of maskfeat does not have in weights "
            f"({', '.join(unknown[:5])}); update maskfeat, or take another file"
        )
    try:
        return {key: checks[key](key, value) for key, value in config.items()}
    except ValueError as error:
        raise ValueError(f"{origin} holds no network that can be built: {error}") from error


def check_fit(config: dict[str, Any], weights: Mapping[str, Tensor], origin: str) -> None:
    """Refuse weights that are not those of their settings, before memory is taken for these.

    Args:
        config: Of a `FeaturePyramid`, as `checked_config` gives it.
        weights: By name.
        origin: The name of the file, for errors.

    Raises:
        ValueError: If names or shapes differ, or timm cannot build the network.
    """
    try:
        with torch.device("meta"):  # tensors without memory
            wanted = FeaturePyramid(**config).state_dict()
    except ValueError as error:
        raise ValueError(f"{origin} holds no network that can be built: {error}") from error
    faults = [
        *(f"{name} is missing" for name in wanted if name not in weights),
        *(f"it has no {name[:80]}" for name in weights if name not in wanted),
        *(
            f"{name} has shape {tuple(weights[name].shape)} and not {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in weights and weights[name].shape != value.shape
        ),
    ]
    if faults:
        raise ValueError(
            f"the weights in {origin} do not fit its own config ({faults[0]}); take another file, "
            "it was changed after maskfeat wrote it"
        )


def checked_weights(values: object, origin: str) -> dict[str, Tensor]:
    """Tensors of real numbers by name.

    Raises:
        ValueError: If they are something else.
    """
    if not isinstance(values, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) and not value.is_complex()
        for name, value in values.items()
    ):
        raise ValueError(f"{origin} holds no weights: tensors of real numbers, each with a name")
    return values


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ValueError(f"{name} must be a name, got {str(value)[:80]!r}")
    return value


def _levels(name: str, value: object) -> list[int]:
    if not isinstance(value, list | tuple) or len(value) > 10:
        raise ValueError(f"{name} must be a list of at most 10 octaves, got {str(value)[:80]}")
    return [checked_count(name, level, least=0, most=10) for level in value]


_CHECKS: dict[Any, Callable[[str, object], Any]] = {
    "backbone": _text,
    "levels": _levels,
    "c0": lambda name, value: checked_number(name, value, above=0, most=256),
    "width": lambda name, value: checked_count(name, value, least=8, most=8192),
    "bound": _text,
    "scale": lambda name, value: checked_number(name, value, above=0, most=1e9),
    "learn_scale": checked_flag,
    "boundary": checked_flag,
    "color": checked_flag,
    "finest_channels": lambda name, value: (
        None if value is None else checked_count(name, value, least=1, most=4096)
    ),
    "boundary_width": lambda name, value: (
        None if value is None else checked_count(name, value, least=8, most=8192)
    ),
}
