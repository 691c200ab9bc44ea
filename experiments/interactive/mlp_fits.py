"""Fits of an `Mlp`, and the arguments of the scripts that fit one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from click_samples import add_object_arguments
from rich.progress import track
from torch import Tensor, nn

from maskfeat.segment.mlp import CLIP, Mlp

BATCH, RATE = 8192, 5e-3


def fit(
    names: Sequence[str],
    values: Tensor,
    wanted: Tensor,
    *,
    weights: Tensor | None = None,
    width: int = 24,
    steps: int,
    seed: int,
    origin: str,
) -> Mlp:
    """Cross-entropy, AdamW, one cycle.

    Args:
        names: Names of the inputs.
        values: Inputs, (F, N).
        wanted: 0 to 1, (N,).
        weights: Of each in the loss, (N,).
        width: Units of both hidden layers.
        steps: Of `BATCH` samples.
        seed: Of the start and the samples of each step.
        origin: What is fitted to.
    """
    torch.manual_seed(seed)
    mean, std = values.mean(dim=1), values.std(dim=1) + 1e-3
    inputs = ((values - mean[:, None]) / std[:, None]).clamp(-CLIP, CLIP).T.contiguous()
    net = nn.Sequential(
        nn.Linear(len(values), width),
        nn.Tanh(),
        nn.Linear(width, width),
        nn.Tanh(),
        nn.Linear(width, 1),
    )
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    last_losses = []
    for step in track(range(steps), f"fitting {len(wanted)} samples"):
        chosen = torch.randint(len(wanted), (min(BATCH, len(wanted)),))
        loss = nn.functional.binary_cross_entropy_with_logits(
            net(inputs[chosen])[:, 0],
            wanted[chosen],
            None if weights is None else weights[chosen],
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= steps * 0.9:
            last_losses.append(loss.item())
    print(f"cross-entropy {np.mean(last_losses):.4f}")
    found = [values.detach().numpy() for values in net.parameters()]
    return Mlp(
        tuple(names), mean.numpy(), std.numpy(), tuple(found[::2]), tuple(found[1::2]), origin
    )


def fit_parser(doc: str, num_images: int) -> argparse.ArgumentParser:
    """The arguments of all fits of an `Mlp`; the first line of `doc` is the help."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    add_object_arguments(parser, num_images)
    parser.add_argument("--iterations", type=int, default=1, help="of sessions and fits")
    parser.add_argument("--steps", type=int, default=3000, help="of each fit")
    parser.add_argument("--seed", type=int, default=0)
    networks = Path("maskfeat/interactive/clicks.safetensors")
    parser.add_argument("--start", type=Path, default=networks, help="networks to play")
    parser.add_argument("--out", type=Path, default=networks)
    return parser
