"""What SA-1B costs: hours and disk on 1, 8 and 64 GPUs, and what binds.

    python experiments/scale/cost.py --out experiments/scale

Measured on this machine: seconds of one core to make a training example (from genuine-size images
and from re-sharded ones), to convert an image and to evaluate one; forward and backward of each
network, on a GPU where there is one. Counted: operations of each network. Everything else stands
in `Assumptions`, and is no measurement. Without a GPU the time on one is operations divided by
(peak x utilization), which are both assumed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

NUM_IMAGES = 11_185_362  # in 1,000 tars
GENUINE_BYTES = 11e12
NUM_GPUS = (1, 8, 64)


@dataclass(frozen=True)
class Assumptions:
    """What was not measured. Change it to what your cluster has.

    Attributes:
        peak_flops: Dense bf16 operations per second of a GPU, as its maker states (H100 SXM).
        utilization: Share of the peak that training reaches. Networks of few channels at high
            resolution wait for memory, so this is low; measure it and put it here.
        backward_factor: Operations of forward and backward, in those of forward.
        batch_size: Images in a batch of one GPU.
        cores_per_gpu: Cores that read and decode for one GPU, as fast as the one measured here.
        gpus_per_node: GPUs that share a node's network.
        node_read_bytes: What a node reads from the storage in a second.
        store_read_bytes: What the storage gives to all nodes together in a second.
        node_link_bytes: What a node sends to other nodes in a second, for the gradients.
    """

    peak_flops: float = 989e12
    utilization: float = 0.05
    backward_factor: float = 3.0
    batch_size: int = 16
    cores_per_gpu: int = 16
    gpus_per_node: int = 8
    node_read_bytes: float = 2e9
    store_read_bytes: float = 10e9
    node_link_bytes: float = 25e9


@dataclass(frozen=True)
class Network:
    """A network at one size of crop.

    Attributes:
        name: Backbone and crop.
        forward_flops: Operations of one image, forward (a multiply-add is two).
        parameters: Their number.
        gpu_s: Measured seconds of one image on a GPU, forward and backward; None: not measured.
    """

    name: str
    forward_flops: float
    parameters: float
    gpu_s: float | None = None


@dataclass(frozen=True)
class Source:
    """Where images come from.

    Attributes:
        name: What kind of shards.
        core_s: Seconds of one core for one example.
        bytes_per_image: In the shards, masks included.
    """

    name: str
    core_s: float
    bytes_per_image: float


def rates(network: Network, source: Source, num_gpus: int, a: Assumptions) -> dict[str, float]:
    """Images per second of all GPUs that each part could keep up with if the others were free.

    Args:
        network: What is trained.
        source: What it is trained on.
        num_gpus: GPUs, whole nodes where more than one node.
        a: All else.

    Returns:
        "gpu", "input" (cores), "storage" and "network" (gradients; they travel while backward
        runs, so they bind only where they take longer than a whole step).
    """
    num_nodes = -(-num_gpus // a.gpus_per_node)
    gpu_s = network.gpu_s
    if gpu_s is None:
        gpu_s = a.backward_factor * network.forward_flops / (a.peak_flops * a.utilization)
    read = min(num_nodes * a.node_read_bytes, a.store_read_bytes)
    found = {
        "gpu": num_gpus / gpu_s,
        "input": num_gpus * a.cores_per_gpu / source.core_s,
        "storage": read / source.bytes_per_image,
    }
    if num_nodes > 1:  # a ring passes each gradient, 4 bytes, twice (less one share) by each node
        sent = 2 * (num_nodes - 1) / num_nodes * 4 * network.parameters
        found["network"] = num_gpus * a.batch_size * a.node_link_bytes / sent
    return found


def hours(network: Network, source: Source, num_gpus: int, a: Assumptions) -> tuple[float, str]:
    """Hours of one pass over SA-1B, and what binds."""
    found = rates(network, source, num_gpus, a)
    binding = min(found, key=found.__getitem__)
    return NUM_IMAGES / found[binding] / 3600, binding


def result(
    networks: Sequence[Network],
    sources: Sequence[Source],
    measured: dict[str, Any],
    a: Assumptions,
) -> dict[str, Any]:
    """All that is written to cost.json."""
    rows = []
    for network in networks:
        for source in sources:
            row: dict[str, Any] = {"network": network.name, "source": source.name}
            for num in NUM_GPUS:
                time, binding = hours(network, source, num, a)
                row[f"hours on {num}"], row[f"binds on {num}"] = time, binding
            found = rates(network, source, 1, a)
            row["cores per GPU to keep up"] = found["gpu"] * source.core_s
            row["GPUs at which the storage binds"] = (
                a.store_read_bytes / source.bytes_per_image / min(found["gpu"], found["input"])
            )
            rows.append(row)
    disk = {source.name: source.bytes_per_image * NUM_IMAGES / 1e12 for source in sources}
    return {
        "assumed": asdict(a),
        "measured": measured,
        "counted": [asdict(network) for network in networks],
        "disk_tb": {"as published (11 GB x 1,000)": GENUINE_BYTES / 1e12, **disk},
        "convert_core_hours": measured["convert core-s"] * NUM_IMAGES / 3600,
        "evaluate_512_images_core_s": 512 * measured["evaluate core-s"],
        "rows": rows,
    }


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    heads = ["network", "from", *(f"h on {n}" for n in NUM_GPUS), "cores per GPU to keep up"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---" + "|--:" * (len(heads) - 2) + "|"]
    for row in found["rows"]:
        cells = [f"{row[f'hours on {n}']:.1f} ({row[f'binds on {n}']})" for n in NUM_GPUS]
        cells.append(f"{row['cores per GPU to keep up']:.1f}")
        lines.append(f"| {row['network']} | {row['source']} | " + " | ".join(cells) + " |")
    lines += ["", "| what | figure | |", "|---|--:|---|"]
    for name, value in found["measured"].items():
        text = f"{value:.4g}" if isinstance(value, float) else str(value)
        lines.append(f"| {name} | {text} | measured here |")
    for name, value in found["assumed"].items():
        lines.append(f"| {name} | {value:.4g} | **assumed** |")
    for name, value in found["disk_tb"].items():
        lines.append(f"| disk, {name} | {value:.2f} TB | scaled |")
    lines.append(f"| converting all | {found['convert_core_hours']:.0f} core hours | scaled |")
    evaluating = found["evaluate_512_images_core_s"]
    lines.append(f"| evaluating 512 images | {evaluating:.0f} core seconds | scaled |")
    return "\n".join(lines) + "\n"


def draw(
    networks: Sequence[Network], sources: Sequence[Source], a: Assumptions, path: Path
) -> None:
    """How far the images per second grow with the GPUs, where matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: matplotlib is not installed (extra bench)")
        return
    figure = Figure(figsize=(5.2 * len(sources), 4), layout="constrained")
    numbers = [1, 2, 4, 8, 16, 32, 64, 128, 256]
    for axes, source in zip(figure.subplots(1, len(sources), sharey=True), sources, strict=True):
        for color, network in enumerate(networks):
            each = [rates(network, source, num, a) for num in numbers]
            style = {"color": f"C{color}"}
            axes.plot(numbers, [min(one.values()) for one in each], "o-", **style)
            axes.plot(
                numbers, [one["gpu"] for one in each], ":", label=f"{network.name}, GPU", **style
            )
        limits = [rates(networks[0], source, num, a) for num in numbers]
        axes.plot(numbers, [one["input"] for one in limits], "k--", lw=1, label="cores")
        axes.plot(numbers, [one["storage"] for one in limits], "k-.", lw=1, label="storage")
        axes.set(xscale="log", yscale="log", xlabel="GPUs", title=source.name)
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("images per second (dots: what is reached)")
    figure.axes[-1].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure, reckon, and write cost.json, cost.md and cost.png."""
    from measure import measure_all

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for cost.json, .md, .png")
    parser.add_argument(
        "--measured",
        type=Path,
        help="take the measurements from an earlier cost.json instead of measuring anew",
    )
    parser.add_argument(
        "--backbones", nargs="+", default=["efficientvit_b0", "efficientvit_b1", "efficientvit_b3"]
    )
    parser.add_argument("--crops", nargs="+", type=int, default=[256, 512])
    for name, value in asdict(Assumptions()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help="assumed")
    options = parser.parse_args()
    a = Assumptions(**{name: getattr(options, name) for name in asdict(Assumptions())})
    if options.measured:
        earlier = json.loads(options.measured.read_text())
        networks = [Network(**one) for one in earlier["counted"]]
        measured = earlier["measured"]
    else:
        networks, measured = measure_all(options.backbones, options.crops)
    sources = [
        Source(
            "genuine size", measured["input core-s, genuine"], measured["bytes per image, genuine"]
        ),
        Source("512 px shards", measured["input core-s, 512"], measured["bytes per image, 512"]),
    ]
    found = result(networks, sources, measured, a)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "cost.json").write_text(json.dumps(found, indent=1) + "\n")
    (options.out / "cost.md").write_text(table(found))
    draw(networks, sources, a, options.out / "cost.png")
    print(table(found))


if __name__ == "__main__":
    main()
