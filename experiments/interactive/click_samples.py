"""Sessions of simulated users, as samples to fit the networks of clicks."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import maskfeat
from maskfeat.batch import ClickTarget
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.clicking import pick_target, run_session
from maskfeat.evaluate.simulated_users import next_click, random_click
from maskfeat.features.lab import LabEncoder
from maskfeat.interactive.image import ImageState
from maskfeat.interactive.networks import ClickNet, ClickNetworks
from maskfeat.interactive.segmenter import InteractiveSegmenter

PHOTOS = "../shared/data"
PLAYED = [
    *(f"maskfeat-b0={PHOTOS}/{name}/train-*.tar" for name in ("bsds500", "ccp", "coco128")),
    *(f"lab={PHOTOS}/{name}/train-*.tar" for name in ("bsds500", "coco128")),
    *(
        f"runs/bsds500.safetensors={PHOTOS}/{name}/train-*.tar"
        for name in ("bsds500", "ccp", "coco128")
    ),
    "runs/base/checkpoints/last.ckpt=data_shards/train-*.tar",
    "lab=data_shards/train-*.tar",
]
# States of a session that become samples, by number of clicks.
STATES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 26, 34, 45, 60)
RANDOM_STATES = (1, 3, 6, 12, 20)
SUPERPIXELS_PER_SESSION, PIXELS_PER_STATE = 400, 500
# Background far from the object weighs less in small objects: shares are of object + this.
LEAST_AREA = 0.05
# Of the image, at least and at most, for objects that the usual targets are without.
SMALL_SHARES = (0.0005, 0.005)

Samples = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # (F, N), (N,), (N,)


class State(NamedTuple):
    """A moment of a session, for `ClickNet.forward`: of clicks on background, then on object.

    Attributes:
        rows: Places of the clicks in `Session.clicked`, (N,) and (M,).
        contexts: Of these clicks, (N, C) and (M, C).
        features: Of the superpixels of the session, (F, A).
    """

    rows: list[Tensor]
    contexts: list[Tensor]
    click_features: Tensor


class Session(NamedTuple):
    """A session as examples for the network of superpixels.

    Attributes:
        superpixels: Some superpixels of the image, (A,).
        clicked: All that were clicked, each once, rising, (N,).
        distances: From each of these to each of those, (W, N, A).
        fraction: Share of object in each superpixel, (A,).
        weights: Of each superpixel in the loss, (A,).
        states: Moments of the session.
    """

    superpixels: np.ndarray
    clicked: np.ndarray
    distances: Tensor
    fraction: Tensor
    weights: Tensor
    states: list[State]

    def logits(self, net: ClickNet, state: State) -> Tensor:
        """Logit of the superpixels in a state, (A,)."""
        return net(
            [self.distances[:, rows] for rows in state.rows], state.contexts, state.click_features
        )


def add_object_arguments(parser: argparse.ArgumentParser, num_images: int) -> None:
    """Arguments that choose the objects, see `targets_of`; `num_images` is a default."""
    parser.add_argument(
        "--play",
        nargs="+",
        default=PLAYED,
        help="MODEL=SHARDS: a name, a path, or lab for plain color, and the images to play on",
    )
    parser.add_argument("--num_images", type=int, default=num_images, help="of each of these")
    parser.add_argument("--objects", type=int, default=1, help="of each image")
    parser.add_argument(
        "--small_every", type=int, default=0, help="a small object, too, in one of this many images"
    )


def targets_of(
    played: Sequence[str], num_images: int, objects: int = 1, small_every: int = 0
) -> list[tuple[Any, ClickTarget]]:
    """Objects of images, each with what gives the features it is clicked on.

    Args:
        played: MODEL=SHARDS, a name, a path, or lab for plain color, and the images.
        num_images: Of each of these.
        objects: Largest number of objects of each image; each covers 0.5 to 60 % of it.
        small_every: One of 0.05 to 0.5 % of the image besides, in one of this many images; 0: none.
    """
    found = []
    for model, _, shards in (text.partition("=") for text in played):
        encoder = LabEncoder(sigma=1.0) if model == "lab" else maskfeat.load(model)
        for number, image in enumerate(ShardImages(shards, num_images)):
            targets = [pick_target(image, turn) for turn in range(objects)]
            if small_every and number % small_every == 0:
                targets.append(pick_target(image, shares=SMALL_SHARES))
            found += [(encoder, target) for target in targets if target is not None]
    return found


def random_clicks(target: np.ndarray, count: int, rng: np.random.Generator) -> Any:
    """Different pixels of the object and of the background, the first on the object."""
    signs = rng.random(count) < 0.5
    signs[0] = True
    places = []
    for is_object in (True, False):
        pixels = np.flatnonzero(target.ravel() == int(is_object))
        chosen = rng.choice(pixels, min(len(pixels), int((signs == is_object).sum())), False)
        places.append(chosen)
    signs = np.repeat([True, False], [len(p) for p in places])
    order = np.append(0, 1 + rng.permutation(len(signs) - 1))
    pixels = np.concatenate(places)[order]
    return np.stack(np.divmod(pixels, target.shape[1]), axis=1), signs[order]


def session_of_superpixels(
    image_state: ImageState, target: np.ndarray, clicks_yx: np.ndarray, rng: np.random.Generator
) -> Session:
    """Some superpixels of an image, and what all clicks of a session are to them; no states."""
    labels, count = image_state.graph.labels, image_state.graph.num_superpixels
    is_counted = target >= 0
    pixels = np.bincount(labels[is_counted], minlength=count)
    objects = np.bincount(labels[target == 1], minlength=count)
    share = pixels / pixels.sum()
    fraction = objects / np.maximum(pixels, 1)
    on, off = share * fraction, share * (1 - fraction)
    probability = 0.5 * on / on.sum() + 0.5 * off / off.sum()
    chosen = rng.choice(count, SUPERPIXELS_PER_SESSION, p=probability)
    weights = (share / np.maximum(probability, 1e-12))[chosen] / (on.sum() + LEAST_AREA)
    clicked = np.unique(labels[tuple(clicks_yx.T)]).astype(np.int64)
    distances = image_state.cutter.evidence.distances_at(clicked, chosen)
    tensors = (
        torch.from_numpy(v.astype(np.float32)) for v in (distances, fraction[chosen], weights)
    )
    return Session(chosen, clicked, *tensors, [])


def state_of_superpixels(image_state: ImageState, session: Session, clicks: Any) -> State:
    """What is known after some clicks, on the object and on the background."""
    evidence, labels = image_state.cutter.evidence, image_state.graph.labels
    inside, outside = (np.unique(labels[tuple(c.T)]).astype(np.int64) for c in clicks)
    click_features = evidence.click_features(inside, outside)[:, session.superpixels]
    rows, contexts = [], []
    for own, other in ((outside, inside), (inside, outside)):
        rows.append(torch.from_numpy(np.searchsorted(session.clicked, own)))
        contexts.append(torch.from_numpy(evidence.contexts(own, other)))
    return State(rows, contexts, torch.from_numpy(np.ascontiguousarray(click_features)))


def pixel_samples(
    image_state: ImageState, target: np.ndarray, clicks: Any, rng: np.random.Generator
) -> Any:
    """Features of some uncertain pixels, whether they are object, and their weight."""
    labels, width = image_state.graph.labels, target.shape[1]
    cut = image_state.cutter.cut(*(labels[tuple(c.T)] for c in clicks))
    pixels = [c @ (width, 1) for c in clicks]
    places, click_features = image_state.refiner.click_features(
        cut.is_object[labels], cut.logits, *pixels
    )
    chosen = rng.choice(len(places), min(PIXELS_PER_STATE, len(places)), replace=False)
    chosen = chosen[target.ravel()[places[chosen]] >= 0]
    is_object = (target.ravel()[places[chosen]] == 1).astype(np.float64)
    return click_features[:, chosen], is_object, np.ones(len(chosen))


def simulate(
    target: ClickTarget,
    encoder: Any,
    networks: ClickNetworks,
    clicks: int,
    number: int,
    rng: np.random.Generator,
) -> tuple[list[Session], Samples]:
    """Samples of one session; every second user clicks at random."""
    segmenter = InteractiveSegmenter(encoder, networks=networks)
    user = (random_click, next_click)[number % 2]
    *_, last = run_session(segmenter, target, clicks, user=user, seed=number)
    session = samples_of(segmenter, target.target, last.clicks_yx, last.is_positive, STATES, rng)
    # Users do not click at errors alone.
    drawn = random_clicks(target.target, max(RANDOM_STATES), rng)
    anywhere = samples_of(segmenter, target.target, *drawn, RANDOM_STATES, rng)
    return session[0] + anywhere[0], session[1] + anywhere[1]


def samples_of(
    segmenter: InteractiveSegmenter,
    target: np.ndarray,
    clicks_yx: np.ndarray,
    is_positive: np.ndarray,
    states: Sequence[int],
    rng: np.random.Generator,
) -> tuple[list[Session], Samples]:
    """Samples of superpixels and of pixels, after some numbers of clicks."""
    image_state = segmenter.image_state
    session = session_of_superpixels(image_state, target, clicks_yx, rng)
    of_pixels = []
    for count in states:
        if count > len(clicks_yx):
            break
        signs = is_positive[:count]
        clicks = clicks_yx[:count][signs], clicks_yx[:count][~signs]
        session.states.append(state_of_superpixels(image_state, session, clicks))
        of_pixels.append(pixel_samples(image_state, target, clicks, rng))
    return [session], of_pixels
