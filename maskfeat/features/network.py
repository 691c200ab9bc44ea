"""What a network must offer to be trained, and which class it is of."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from maskfeat.features.pyramid import FeaturePyramid

# Key of the class of a network in a checkpoint, and in the metadata of a safetensors file. Only
# classes other than FeaturePyramid are named: most files then stay as they always were.
CLASS_KEY = "maskfeat_class"
# An argument that `config` need not hold: the weights of the file replace those that it asks for.
_NOT_KEPT = {"pretrained"}


def checked_network(net: nn.Module, needs_backbone: bool = False) -> FeaturePyramid:
    """Say before training what a network of the user's own lacks.

    Args:
        net: `FeaturePyramid`, a subclass, or a module that behaves like it.
        needs_backbone: Whether its `backbone` is trained at a rate of its own.

    Returns:
        The same network, typed as the pyramid that it behaves like.

    Raises:
        ValueError: If it lacks an attribute, or its `config` an argument of its constructor: a
            network that is built again from `config` would be another one.
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
