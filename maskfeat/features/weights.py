"""Save, load, export networks. Nothing is unpickled."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialize
from torch import Tensor, nn

from maskfeat.arguments import checked_number
from maskfeat.features.color import LabEncoder
from maskfeat.features.device import device_of
from maskfeat.features.model_file import find_model
from maskfeat.features.onnx_encoder import CARD_KEY, OnnxEncoder
from maskfeat.features.pyramid import FeaturePyramid
from maskfeat.features.stored_config import (
    CLASS_KEY,
    check_fit,
    checked_config,
    checked_weights,
    class_entry,
    class_to_build,
    load_archive,
)
from maskfeat.files import whole_file
from maskfeat.tensor_file import check_tensors, with_checksum

# Keys of a checkpoint, and of the metadata of a safetensors file.
CONFIG_KEY = "maskfeat_net"
PREFIX_KEY = "maskfeat_prefix"
# Names of the tensors of a click decoder in the same file, see `interactive.decoder_file`.
DECODER_PREFIX = "click_decoder."
# What decides which weights a network has.
_BUILD = ("backbone", "levels", "c0", "width", "bound", "finest_channels")
_BOUNDARY = "boundary_heads."


def net_entry(net: FeaturePyramid, prefix: str) -> dict[str, Any]:
    """What a checkpoint must hold so that `load` can build the network again.

    The prefix says where its weights to be used lie in the state_dict.
    """
    return {CONFIG_KEY: dict(net.config), PREFIX_KEY: prefix, **class_entry(net)}


@overload
def load(path: Literal["lab"]) -> LabEncoder: ...  # type: ignore[overload-overlap]


@overload
def load(
    path: str | os.PathLike[str] = "maskfeat-b0",
    device: str | torch.device = "cpu",
    net_class: type[nn.Module] | None = None,
) -> FeaturePyramid: ...


def load(
    path: str | os.PathLike[str] = "maskfeat-b0",
    device: str | torch.device = "cpu",
    net_class: type[nn.Module] | None = None,
) -> FeaturePyramid | LabEncoder | OnnxEncoder:
    """Load a trained network, ready to give features.

    A file is data: nothing in it is run, and it cannot ask for another file or a hub. Its checksums
    are compared.

    Args:
        path: A checkpoint of `lightning fit` (.ckpt), a file made by `save` (.safetensors), or
            the name of a network that comes with the package: "maskfeat-b0", trained on train
            splits of images, for research as its data are (experiments/shipped); or the word
            "lab", for the color of pixels without a network; or a file of `maskfeat export` in
            the format ONNX (.onnx), which gives an `OnnxEncoder`.
        device: Where to put it: cpu, cuda, cuda:1, mps; "auto" is a GPU if there is one. The format
            ONNX runs on the CPU.
        net_class: The class of the network, if it is one of your own; it is built by
            net_class(**config). None is `FeaturePyramid`.

    Returns:
        The network in evaluation mode, with the averaged weights where there are any.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds no maskfeat network, one of a class that is not
            given, one whose weights do not fit its settings, or one with a weight that is no
            number.
    """
    if isinstance(path, str | os.PathLike) and os.fspath(path) == "lab":
        return LabEncoder()
    path = find_model(path)
    if path.suffix == ".onnx":
        if device != "auto" and device_of(device).type != "cpu":
            raise ValueError(f"'{path}' runs on the CPU alone, got device {device}")
        return OnnxEncoder(path)
    there = device_of(device)
    config, weights, named = _read(path)
    built = class_to_build(named, net_class, f"'{path}'")
    config = checked_config(config, built, f"'{path}'")
    if built is FeaturePyramid:
        check_fit(config, weights, f"'{path}'")
    net: FeaturePyramid = built(**config)  # type: ignore[assignment]
    _fill(net, weights, path)
    net.loaded_from = path
    net.to(memory_format=torch.channels_last)
    return net.to(there).eval().requires_grad_(False)


def load_fused(
    path: str | os.PathLike[str] = "maskfeat-b0", device: str | torch.device = "cpu"
) -> FeaturePyramid | LabEncoder | OnnxEncoder:
    """As `load`, for inference alone: see `FeaturePyramid.fuse`."""
    net = load(path, device)
    return net.fuse() if isinstance(net, FeaturePyramid) else net


def start_from(
    net: FeaturePyramid, path: str | os.PathLike[str], has_new_head: bool = False
) -> None:
    """Give a network the weights of a trained one of the same build, to train it on.

    Args:
        net: The network; its weights are replaced.
        path: As for `load`. A boundary head of another form than the file's stays as it is, as it
            does where the file has none.
        has_new_head: Whether the boundary head stays as it is in any case.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no maskfeat network, or one of another build.
    """
    path = find_model(path)
    config, weights, _ = _read(path)  # any class whose weights fit
    check_build(net, config, f"'{path}'", "model.start_from to null")
    own = {n: v for n, v in net.state_dict().items() if n.startswith(_BOUNDARY)}
    found = {n: v for n, v in weights.items() if n.startswith(_BOUNDARY)}
    is_other = {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in found.items()}
    if has_new_head or is_other:
        weights = own | {n: v for n, v in weights.items() if n not in found}
    _fill(net, weights, path)


def check_build(net: FeaturePyramid, config: Any, origin: str, instead: str) -> None:  # noqa: ANN401 - of a file
    """Refuse weights of a network that was built otherwise.

    The config is that of the file. The error names the origin, says in what the settings differ,
    and ends in what to set instead if model.net is to stay as it is.

    Raises:
        ValueError: If they differ, or the file holds none.
    """
    if not isinstance(config, dict):
        raise ValueError(f"{origin} holds no settings of a maskfeat network; take another file")
    differing = [key for key in _BUILD if config.get(key) != net.config.get(key)]
    if differing:
        shown = [key for key in _BUILD if key in differing or net.config.get(key) is not None]
        found = ", ".join(f"{key} {config.get(key)}" for key in differing)
        wanted = ", ".join(f"{key} {net.config.get(key)}" for key in shown)
        raise ValueError(
            f"expected weights of a net with {wanted}, but {origin} has {found}; "
            f"set model.net as it was there, or {instead}"
        )


def save(
    net: FeaturePyramid,
    path: str | os.PathLike[str],
    dtype: torch.dtype = torch.float16,
    card: str = "",
    beside: tuple[Mapping[str, Tensor], Mapping[str, str]] = ({}, {}),
) -> None:
    """Write a network with its config to one safetensors file, whole or not at all.

    Args:
        net: The network.
        path: Where to; the name should end in .safetensors.
        dtype: Of the weights in the file. Half precision halves the file. A tensor that it cannot
            hold, as a norm's running variance above 65,504, stays as it is.
        card: What people should know of it: data, terms, command, scores; see `read_card`.
        beside: Tensors and metadata of what goes into the same file, as a click decoder's
            (`maskfeat.interactive.decoder_file.packed`).

    Raises:
        ValueError: If a weight is no number, or the net is fused. Nothing is written.
    """
    if getattr(net, "unfused_digest", None):
        raise ValueError(
            "a fused network is for inference alone; save the network that it was made from"
        )
    _check_finite(net, "the network")
    weights = {
        name: cast(value, dtype).contiguous().cpu() for name, value in net.state_dict().items()
    }
    with whole_file(path) as file:
        metadata = {CONFIG_KEY: json.dumps(net.config), **class_entry(net)}
        metadata |= {CARD_KEY: card} if card else {}
        tensors, described = beside
        file.write(with_checksum(serialize, weights | dict(tensors), metadata | dict(described)))


def read_card(path: str | os.PathLike[str] = "maskfeat-b0") -> str:
    """The model card of a .safetensors or .onnx file, or of a network that comes with the package.

    Returns:
        The card, Markdown; empty if it has none.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no safetensors file.
    """
    path = find_model(path)
    if path.suffix == ".onnx":
        return OnnxEncoder(path).card
    try:
        with safe_open(path, framework="pt") as file:
            card: str = (file.metadata() or {}).get(CARD_KEY, "")
    except SafetensorError as error:
        raise ValueError(f"'{path}' is no whole safetensors file: {error}") from error
    return card


def _fill(net: FeaturePyramid, weights: dict[str, Tensor], path: Path) -> None:
    """Put the weights of a file into a network built by its settings."""
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        wanted = net.state_dict()
        unfit = [
            name
            for name, value in wanted.items()
            if name not in weights or weights[name].shape != value.shape
        ]
        example = next(iter([*unfit, *(name for name in weights if name not in wanted)]), None)
        raise ValueError(
            f"the weights in '{path}' do not fit its own config ({len(wanted) - len(unfit)} of "
            f"{len(wanted)} fit, for example not '{example}'); take another file, it was changed "
            "after maskfeat wrote it"
        ) from error
    _check_finite(net, str(path))
    checked_number(f"the scale of '{path}'", torch.as_tensor(net.scale).item(), above=0)


def cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in `dtype`, or as it is where that would make infinities of its numbers."""
    if not value.is_floating_point():
        return value
    cast = value.to(dtype)
    return cast if cast.isfinite().all() else value


def _check_finite(net: FeaturePyramid, origin: str) -> None:
    broken = [
        name
        for name, value in net.state_dict().items()
        if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        raise ValueError(
            f"expected finite weights, but '{broken[0]}' of {origin} holds infinite or undefined "
            "ones; take an earlier checkpoint, or train again with a lower learning rate"
        )


def _read(path: Path) -> tuple[Any, dict[str, Tensor], str | None]:
    """Config and weights of the network in a file, and its class if that is not the usual one."""
    return (_read_safetensors if path.suffix == ".safetensors" else _read_checkpoint)(path)


def _read_safetensors(path: Path) -> tuple[Any, dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            names = [name for name in file.keys() if not name.startswith(DECODER_PREFIX)]
            weights = {name: file.get_tensor(name) for name in names}
        check_tensors(path, metadata)
    except SafetensorError as error:
        raise ValueError(f"'{path}' is no whole safetensors file: {error}") from error
    if CONFIG_KEY not in metadata:
        raise ValueError(f"'{path}' holds no maskfeat network: its metadata has no {CONFIG_KEY!r}")
    try:
        config = json.loads(metadata[CONFIG_KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the settings in '{path}' are no JSON: {error}") from error
    return config, checked_weights(weights, f"'{path}'"), metadata.get(CLASS_KEY)


def _read_checkpoint(path: Path) -> tuple[Any, dict[str, Tensor], str | None]:
    instead = (
        "give a whole checkpoint that `lightning fit` wrote (.ckpt), or a .safetensors file made "
        "by maskfeat"
    )
    checkpoint = load_archive(path, instead)
    if not isinstance(checkpoint, dict) or CONFIG_KEY not in checkpoint:
        raise ValueError(f"'{path}' holds no maskfeat network; it was not written by FeatureTask")
    prefix = f"{checkpoint.get(PREFIX_KEY)}."
    states = checked_weights(checkpoint.get("state_dict"), f"'{path}'")
    weights = {
        name[len(prefix) :]: value for name, value in states.items() if name.startswith(prefix)
    }
    named = checkpoint.get(CLASS_KEY)
    return checkpoint[CONFIG_KEY], weights, None if named is None else str(named)
