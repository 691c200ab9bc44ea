"""A network in a file of weights: read as data, its class and settings checked, then built."""

from __future__ import annotations

import inspect
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from maskfeat.arguments import checked_count, checked_flag, checked_number
from maskfeat.features.pyramid import FeaturePyramid

# Key of the class of a network in a checkpoint, and in the metadata of a safetensors file. Only
# classes other than FeaturePyramid are named: most files then stay as they always were.
CLASS_KEY = "maskfeat_class"
# An argument that `config` need not hold: the weights of the file replace those that it asks for.
_NOT_KEPT = {"pretrained"}


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
    """Refuse weights (by name) that do not fit the settings of a `FeaturePyramid`.

    The settings are those that `checked_config` gives; no memory is taken for the network yet. The
    origin names the file.

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


def load_archive(
    path: str | os.PathLike[str], instead: str, origin: str | None = None
) -> dict[str, Any] | Any:  # noqa: ANN401 - what torch.save was given
    """What `torch.save` wrote to a local file, on the CPU; nothing but weights and settings.

    The sentence of an error names the origin, else the path, and ends in what to do instead.

    Raises:
        ValueError: If the file is empty, foreign, cut short, damaged (a checksum does not fit), or
            holds more than weights and settings.
        OSError: If it cannot be read.
    """
    try:
        _check_archive(Path(path))
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):  # these are of the machine, not of the file
        raise
    except Exception as error:  # torch raises pickle, zip, end-of-file, runtime and key errors here
        message = f"'{origin or path}' {_fault(Path(path), error)}; {instead}"
        raise ValueError(message) from error


def _check_archive(path: Path) -> None:
    """Compare the archive with its checksums, which torch does not look at."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise ValueError("entries overlap or are compressed, and torch compresses none")
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f"the checksum of '{damaged}' does not fit")


def _fault(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        return "is an empty file, no checkpoint"
    if start != b"PK\x03\x04":  # torch writes zips
        return "is no checkpoint of `lightning fit`"
    if not zipfile.is_zipfile(path):  # whose table of contents stands at the end
        return "is a checkpoint that is cut short"
    if isinstance(error, pickle.UnpicklingError):
        return "cannot be read as a checkpoint without unpickling code, which could do harm"
    return "is a checkpoint that is damaged"


def checked_network(net: nn.Module, needs_backbone: bool = False) -> FeaturePyramid:
    """The same network, typed as the `FeaturePyramid` that it behaves like.

    Raises:
        ValueError: If it lacks an attribute (`backbone` counts if that is trained at a rate of its
            own), or its `config` an argument of its constructor: a network that is built again from
            `config` would be another one.
    """
    name = network_class(net).__name__
    wanted = ["forward", "features", "strides", "scale", "config"]
    lacking = [one for one in wanted if not hasattr(net, one)]
    # nn.Module has a forward that only raises.
    if network_class(net).forward is nn.Module.forward:
        lacking.insert(0, "forward")
    if lacking:
        raise ValueError(
            "model.net must be a module with forward(images) -> list of maps, strides, scale, "
            f"config and features(rgb), but {name} has no {', no '.join(lacking)}"
        )
    pyramid: FeaturePyramid = net  # type: ignore[assignment]
    arguments = inspect.signature(network_class(net).__init__).parameters.values()
    unsaid = [
        one.name
        for one in list(arguments)[1:]
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        and one.name not in {*pyramid.config, *_NOT_KEPT}
    ]
    if unsaid:
        raise ValueError(
            f"config of {name} must hold every argument of its constructor, but not "
            f"{', '.join(unsaid)}; set self.config[{unsaid[0]!r}] in its __init__, or a "
            "checkpoint would be loaded as another network"
        )
    if needs_backbone and not hasattr(net, "backbone"):
        raise ValueError(
            f"model.backbone_rate needs a network with a backbone, but {name} has none; set "
            "model.backbone_rate to 1"
        )
    return pyramid


def network_class(net: nn.Module) -> type[nn.Module]:
    """The class that a network was built as: sharding puts a class of its own before it."""
    kinds: list[Any] = [one for one in type(net).__mro__ if not issubclass(one, FSDPModule)]
    found: type[nn.Module] = kinds[0]
    return found


def class_entry(net: nn.Module) -> dict[str, str]:
    """The class of a network, for the file of its weights; nothing for a `FeaturePyramid`."""
    found = network_class(net)
    if found is FeaturePyramid:
        return {}
    return {CLASS_KEY: f"{found.__module__}.{found.__qualname__}"}


def class_to_build(
    named: str | None, given: type[nn.Module] | None, origin: str
) -> type[nn.Module]:
    """The class that weights of a file are put into.

    No class is imported because a file names it: that would run code at the wish of the file.

    Args:
        named: The class that the file names, as in `class_entry`; None is FeaturePyramid, or a
            class of a file that was written before classes were named.
        given: The class that the caller gives.
        origin: The name of the file.

    Raises:
        ValueError: If the file names a class and the caller gives none or another.
    """
    if named is None:
        return FeaturePyramid if given is None else given
    module, _, name = named.rpartition(".")
    if given is not None and given.__name__ == name:
        return given
    got = "" if given is None else f", got {given.__name__}"
    raise ValueError(
        f"{origin} holds a network of class {named}, whose forward only that class knows; in "
        f"Python give maskfeat.load(path, net_class={name}) with {name} of {module}, on the "
        f"command line use lightning predict with the config of its run{got}"
    )


def check_class(net: nn.Module, named: str | None, origin: str) -> None:
    """Refuse to go on with a checkpoint of another class of network.

    Raises:
        ValueError: If the file names another class than that of the network.
    """
    name = network_class(net).__name__
    if named is not None and named.rpartition(".")[2] != name:
        raise ValueError(
            f"expected a checkpoint of a {name}, but {origin} holds a network of class {named}; "
            "set model.net.class_path to it, or give another --ckpt_path"
        )
