"""How many clicks a model saves after it was tuned to 5, 10 or 20 images of a set.

    python experiments/tune/study.py --shards ../shared/data/dev_nuclei/test-*.tar --name nuclei

Some images of a set, the same in all runs, are clicked on before and after. From the others each
run draws its annotated images, by its seed, and `maskfeat tune` holds out one in five of these.
What is drawn is tuned as the command does it, without its last step: a tuned model counts here
even where the command would keep the one it began from. Every run is written as soon as it is done,
with all settings: the same command goes on where it was stopped, one of other settings adds rows.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import maskfeat
from maskfeat.app.own_shards import split_samples, write_shards
from maskfeat.app.tune_command import train_decoder
from maskfeat.data.convert.sources import Input, find_inputs
from maskfeat.data.heldout import ShardImages
from maskfeat.evaluate.own_images import score_on
from maskfeat.features.model_file import find_model
from maskfeat.features.weights import save
from maskfeat.files import file_digest
from maskfeat.interactive.decoder_file import load_decoder, packed
from maskfeat.packaged import packaged_folder


def pools(source: Input, num_scored: int) -> tuple[list[Any], list[Any]]:
    """Samples to be clicked on, always the same, and those to draw from."""
    records = list(source.list_records())
    order = np.random.default_rng(0).permutation(len(records))
    return [records[i] for i in order[:num_scored]], [records[i] for i in order[num_scored:]]


def only(source: Input, name: str, records: list[Any]) -> Input:
    """An input of some samples."""
    keys = " ".join(record.key for record in records)
    return replace(source, name=name, measure=keys, list_records=partial(list, records))


def settings_of(args: argparse.Namespace, number: int, seed: int) -> dict[str, Any]:
    """What decides the row of a run, and its folder."""
    return {
        "set": args.name,
        "images": number,
        "seed": seed,
        "epochs": args.epochs if number else 0,
        "num_scored": args.num_scored,
        "known_shards": args.known,
        "model": args.model,
        "weights": file_digest(find_model(args.model)),
    }


def is_done(settings: dict[str, Any], out: Path) -> bool:
    """Whether a file of results has a row of these settings."""
    lines = out.read_text().splitlines() if out.exists() else []
    return any(settings.items() <= json.loads(line).items() for line in lines)


def folder_of(settings: dict[str, Any], work: Path) -> Path:
    """Where a run works: another place for other settings."""
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    return work / f"{settings['set']}-{settings['images']}-{settings['seed']}-{digest}"


def tuned(source: Input, drawn: list[Any], state: Path, settings: dict[str, Any]) -> Path:
    """The file of a model that was tuned to the images drawn."""
    seed = settings["seed"]
    write_shards(split_samples([only(source, "drawn", drawn)], 0.2, seed), state / "own")
    start = find_model(settings["model"])
    found = train_decoder(state, start, settings["epochs"], seed, packaged_folder("data_shards"))
    decoder = load_decoder(found)
    assert decoder is not None
    path = state.with_suffix(".safetensors")
    save(maskfeat.load(start), path, beside=packed(decoder, torch.float16))
    shutil.rmtree(state)
    return path


def main() -> None:
    """Run what is missing, and write results.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", required=True, nargs="+", help="tars of the set")
    parser.add_argument("--name", required=True, help="of the set, in the results")
    parser.add_argument("--model", default="maskfeat-b0", help="to start from")
    parser.add_argument("--numbers", type=int, nargs="+", default=[5, 10, 20], help="of images")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--epochs", type=int, default=3, help="see `maskfeat tune --help`")
    parser.add_argument("--num_scored", type=int, default=15, help="images to click on, one each")
    parser.add_argument("--known", default="", help="shards of a set the model should still know")
    parser.add_argument("--work", type=Path, default=Path("runs/tune"))
    parser.add_argument("--out", type=Path, default=Path("experiments/tune/results.jsonl"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    (source,) = find_inputs(args.shards)
    scored, others = pools(source, args.num_scored)
    args.work.mkdir(parents=True, exist_ok=True)
    shards = args.work / f"{args.name}-scored-{args.num_scored}"
    write_shards(split_samples([only(source, "scored", scored)], 0.2, 0), shards)
    images = ShardImages(str(shards / "*.tar"))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    runs = [(0, 0), *((number, seed) for seed in args.seeds for number in args.numbers)]
    for number, seed in runs:
        settings = settings_of(args, number, seed)
        if is_done(settings, args.out):
            continue
        drawn = [others[i] for i in np.random.default_rng(seed + 1).permutation(len(others))]
        state = folder_of(settings, args.work)
        model = tuned(source, drawn[:number], state, settings) if number else args.model
        scores = asdict(score_on(model, images, args.num_scored))
        if args.known and seed == 0:
            known = score_on(model, ShardImages(args.known, args.num_scored), args.num_scored)
            scores["known"] = asdict(known)
        row = {**settings, "commit": commit, **scores}
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
