"""What one image costs on this machine, in seconds of one core (CPU time, so load matters little).

Used by cost.py. What experiments/input_speed has left in its result.json is taken from there.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cost import GENUINE_BYTES, NUM_IMAGES, Network
from torch.utils.flop_counter import FlopCounterMode

from maskfeat.data.augment import ExampleMaker
from maskfeat.data.convert import Settings, convert_inputs, find_inputs
from maskfeat.data.heldout import ShardImages
from maskfeat.data.settings import Augmentation, ExampleSettings
from maskfeat.data.shards.indexed import IndexedShards
from maskfeat.evaluate.protocol import score_partition
from maskfeat.features.pyramid import FeaturePyramid

INPUT_SPEED = Path(__file__).parents[1] / "input_speed"


def measure_all(
    backbones: Sequence[str], crops: Sequence[int], num_images: int = 6
) -> tuple[list[Network], dict[str, Any]]:
    """All measurements of cost.py.

    Args:
        backbones: Of the networks, each at each crop.
        crops: Height and width, pixels.
        num_images: Images of 1500 x 2250 to draw, convert and read.
    """
    torch.set_num_threads(1)
    measured: dict[str, Any] = {"processor": _processor(), "images": num_images}
    measured |= measure_input(num_images)
    networks = []
    for backbone in backbones:
        for crop in crops:
            network, core_s = measure_network(backbone, crop)
            networks.append(network)
            measured[f"{network.name} step, core-s per image"] = core_s
            if network.gpu_s is not None:
                measured[f"{network.name} step, GPU-s per image"] = network.gpu_s
    if torch.cuda.is_available():
        measured["GPU"] = torch.cuda.get_device_name()
    return networks, measured


def measure_input(num_images: int) -> dict[str, float]:
    """Examples from genuine-size and from 512 px shards, converting, evaluating."""
    sys.path.insert(0, str(INPUT_SPEED))
    from tars import make_tars

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        genuine = make_tars(folder / "genuine", num_images, None, num_tars=1)
        inputs = find_inputs([str(path) for path in genuine], "sa1b")
        small = folder / "512"
        convert_s = _cpu_s(lambda: convert_inputs(inputs, small, Settings(512), num_workers=0))
        tars = sorted(small.glob("*.tar"))
        found = {
            "convert core-s": convert_s / num_images,
            "bytes per image, genuine": GENUINE_BYTES / NUM_IMAGES,
            "bytes per image, 512": sum(path.stat().st_size for path in tars) / num_images,
            "input core-s, genuine": example_s(genuine, short_side=1024),
            "input core-s, 512": example_s(tars, short_side=None),
            "evaluate core-s": evaluate_s(tars),
        }
    found |= from_input_speed(INPUT_SPEED / "result.json")
    return found


def from_input_speed(path: Path) -> dict[str, float]:
    """Core-seconds of our routes at 512 px and bytes of a sample, as that experiment left them."""
    if not path.exists():
        return {}
    record = json.loads(path.read_text())
    kinds = {"original tars": "genuine", "re-sharded tars": "512"}
    found = {
        f"input core-s, {kinds[row['route']]}": float(row["seconds"])
        for row in record["routes"]
        if row["crop"] == 512 and row["route"] in kinds
    }
    found["bytes per image, 512"] = 1000 * record["samples"]["re-sharded"]["kilobytes"]
    return found


def example_s(tars: Sequence[Path], short_side: int | None) -> float:
    """Median seconds of one core for one example as conf/sa1b.yaml cuts it."""
    shards = IndexedShards([str(path) for path in tars])
    make = ExampleMaker(
        ExampleSettings(512, short_side, num_points=1024, max_masks=256), Augmentation()
    )
    rng = np.random.default_rng(0)
    make(shards[0], rng)
    times = [
        _cpu_s(lambda number=number: make(shards[number], rng))  # type: ignore[misc]
        for _ in range(3)
        for number in range(len(shards))
    ]
    return statistics.median(times)


def evaluate_s(tars: Sequence[Path]) -> float:
    """Seconds of one core to evaluate one image: features, and partitions of 25 and 100."""
    net = FeaturePyramid("efficientvit_b1", width=96).eval()
    images = ShardImages([str(path) for path in tars], 2)

    def evaluate() -> None:
        for number in range(len(images)):
            image = images[number]
            features = net.features(image.image)
            if image.partitions:
                score_partition(features, image, [25, 100])

    return _cpu_s(evaluate) / len(images)


def measure_network(backbone: str, crop: int) -> tuple[Network, float]:
    """Count operations; time forward and backward on a core and, where there is one, a GPU.

    Returns:
        The network, and its seconds of one core for one image.
    """
    width = 64 if backbone.endswith("b0") else 96
    with torch.device("meta"):
        counted = FeaturePyramid(backbone, width=width)
        with FlopCounterMode(display=False) as counter:
            counted(torch.empty(1, 3, crop, crop))
    parameters = sum(parameter.numel() for parameter in counted.parameters())

    net = FeaturePyramid(backbone, width=width).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, crop, crop).to(memory_format=torch.channels_last)

    def step() -> None:
        sum(level.square().mean() for level in net(images)).backward()

    step()
    core_s = _cpu_s(step) / len(images)
    gpu_s = _gpu_s(net, crop) if torch.cuda.is_available() else None
    name = f"{backbone.removeprefix('efficientvit_')}, {crop} px"
    return Network(name, float(counter.get_total_flops()), float(parameters), gpu_s), core_s


def _gpu_s(net: FeaturePyramid, crop: int, batch_size: int = 16, num_steps: int = 20) -> float:
    """Seconds of a GPU for one image, forward and backward in bf16."""
    net = net.cuda()
    images = torch.randn(batch_size, 3, crop, crop, device="cuda")
    images = images.to(memory_format=torch.channels_last)
    start = 0.0
    for number in range(num_steps + 5):
        if number == 5:
            torch.cuda.synchronize()
            start = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16):
            pyramid = net(images)
        sum(level.float().square().mean() for level in pyramid).backward()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / num_steps / batch_size


def _cpu_s(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
