"""`maskfeat tune`: a model goes on learning from your own masks. Slow imports wait for the work."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskfeat import __version__
from maskfeat.data.convert.sources import find_inputs
from maskfeat.features.model_file import find_model
from maskfeat.files import check_writable, file_digest, whole_file
from maskfeat.folder_lock import held_folder
from maskfeat.packaged import packaged_folder, resolve_data_root

if TYPE_CHECKING:
    from maskfeat.batch import HeldOutImage

CONFIGS = ["clicks", "own"]  # of the fit, the latter over the former
_LOG = logging.getLogger("maskfeat")
_NOTE = "made_of.json"  # in the folder of the state: its settings and images


def tune(
    masks: list[str],
    out: str = "own.safetensors",
    model: str = "maskfeat-b0",
    epochs: int = 8,
    held_out: float = 0.2,
    mix: str = "data_shards",
    seed: int = 0,
    format: str = "auto",
    images_dir: str | None = None,
) -> None:
    """Tune a model to your own images: it needs fewer clicks on others of their kind.

    The click decoder of the model is trained on with simulated users, who click the masks of your
    images. Every fourth image of a step is of `mix`, so that what the model knew is kept. The
    features stay as they are, and with them segments and trees. experiments/tune has what was
    gained on the sets that were tried.

    Some images are held out, chosen by the seed: training ends when they gain no more, and on them
    the model is compared before and after: the IoU of the best segment of the tree for each mask,
    and the clicks that a simulated user needs. As they also stop training, the table is a little
    kind. If the tuned model is no better there, `out` holds
    the one it began from. Ends in one file for --model of segment and annotate, and
    `maskfeat.InteractiveSegmenter`; the table stands in its card, too (`maskfeat.read_card`).

    What was stopped goes on by the same command; until it is done, its state lies in OUT.tuning.

    Args:
        masks: Folders and files of masks with their images, in any format that `maskfeat shards
            convert` reads: what annotate or segment wrote, COCO, YOLO, VOC, LabelMe, GeoJSON, label
            maps.
        out: The file to write, ending in .safetensors.
        model: What to start from: a .safetensors file or checkpoint with a click decoder.
        epochs: At most this many times 24 images; one takes half a minute of one core.
        held_out: Share of the images to hold out, between 0 and 1, at least one image.
        mix: Folder of shards (train-*.tar) of other images to train on beside; the default is the
            drawn images that come with the package.
        seed: Of the images held out, the order of the others, and the simulated users.
        format: That of the masks; auto finds it out.
        images_dir: Folder of the images, if they lie in no usual place.
    """
    path = Path(out)
    if path.suffix != ".safetensors":
        raise ValueError(f"out must end in .safetensors, got '{out}'")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if not 0 < held_out < 1:
        raise ValueError(f"held_out must lie between 0 and 1, got {held_out}")
    if not masks:
        raise ValueError("masks must name at least one folder of annotated images, got none")
    start, mixed = find_model(model), Path(resolve_data_root(mix))
    if not any(mixed.glob("train-*.tar")):
        raise FileNotFoundError(f"no train-*.tar in '{mixed}'; name a folder of shards by --mix")
    if path.exists() and path.samefile(start):
        raise ValueError(f"'{path}' is the model to start from; give another file by --out")
    inputs = find_inputs(masks, format, images_dir)
    check_writable(path.parent)
    from maskfeat.app.own_shards import split_samples, write_shards
    from maskfeat.data.heldout import ShardImages
    from maskfeat.evaluate.own_images import check_clickable

    samples = split_samples(inputs, held_out, seed)
    made_of = [__version__, file_digest(start), samples.digest, epochs, seed, str(mixed.resolve())]
    state = path.with_suffix(".tuning")
    with held_folder(state, "maskfeat tune", beside=True):
        _begin(state, made_of)
        num_train, names = write_shards(samples, state / "own")
        _LOG.info("%d images to train on; held out: %s", num_train, ", ".join(names))
        images = ShardImages(str(state / "own/val-*.tar"))
        check_clickable(images)
        tuned = train_decoder(state, start, epochs, seed, mixed)
        report = _keep_the_better(start, tuned, images, state, path)
        _empty(state)
        shutil.rmtree(state)
    print(report)


def _begin(state: Path, made_of: list[Any]) -> None:
    """Empty the folder of the state, unless it is that of the same run.

    Raises:
        ValueError: If it holds what is not ours.
    """
    state.mkdir(exist_ok=True)
    note = state / _NOTE
    if not note.exists():
        # Of a note that was never finished, a part may lie there.
        if not all(path.name.startswith(f".{_NOTE}") for path in state.iterdir()):
            raise ValueError(f"'{state}' holds no run of tune; remove it, or choose another --out")
    else:
        with contextlib.suppress(ValueError):  # it is damaged
            if json.loads(note.read_bytes()) == made_of:
                return
    _empty(state)
    with whole_file(note) as file:
        file.write(json.dumps(made_of).encode())


def _empty(state: Path) -> None:
    """Remove all but the note, without which the rest would count as somebody else's."""
    for path in state.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _NOTE:
            path.unlink()


def train_decoder(state: Path, start: Path, epochs: int, seed: int, mixed: Path) -> Path:
    """Train a click decoder by conf/own.yaml, or go on.

    Args:
        state: Folder with the shards own/train-*.tar and own/val-*.tar; checkpoints go there.
        start: The model to start from, with a click decoder.
        epochs: At most.
        seed: Of everything.
        mixed: Folder of the other shards.

    Returns:
        The checkpoint that was best on the held-out images.
    """
    import torch

    from maskfeat.cli import quiet_libraries
    from maskfeat.lightning_cli import MaskfeatCLI

    quiet_libraries()
    checkpoints = state / "checkpoints"
    # Three of your images to one of others, as long as there are both.
    settings = {
        "seed_everything": seed,
        "data_root": state,
        "trainer.max_epochs": epochs,
        "trainer.default_root_dir": state,
        "trainer.logger": "false",
        "trainer.enable_model_summary": "false",
        "model.net": start,
        "model.start_from": start,
        "data.train": json.dumps({"own": 3, str(mixed.resolve()): 1}),
        "data.prepared_dir": state / "prepared",
        "data.seed": seed,
    }
    has_fast_bf16 = torch.cuda.is_available() or torch.cpu._is_amx_tile_supported()
    settings |= {} if has_fast_bf16 else {"trainer.precision": "32-true"}
    settings |= {"ckpt_path": "last"} if any(checkpoints.glob("last*.ckpt")) else {}
    words = [f"--{name}={value}" for name, value in settings.items()]
    # By their paths: a folder of the user may be called "own".
    configs = [f"--config={packaged_folder('conf') / name}.yaml" for name in CONFIGS]
    MaskfeatCLI(["fit", *configs, *words])
    return next(checkpoints.glob("best*.ckpt"))


def _keep_the_better(
    start: Path, tuned: Path, images: Sequence[HeldOutImage], state: Path, out: Path
) -> str:
    """Compare on the held-out images, write the better model, and say what is in it."""
    import torch
    from rich.console import Console
    from rich.progress import track

    from maskfeat.evaluate.own_images import score_on, table
    from maskfeat.features.weights import load, read_card, save
    from maskfeat.interactive.decoder_file import load_decoder, packed

    net, scores, decoders = load(start), [], []
    for title, file in (("before", start), ("after", tuned)):
        decoder = load_decoder(file)
        assert decoder is not None
        decoders.append(packed(decoder, torch.float16))
        candidate = state / f"{title}.safetensors"
        save(net, candidate, beside=decoders[-1])
        bar = partial(track, description=f"clicking, {title}", console=Console(stderr=True))
        scores.append(score_on(candidate, images, tracked=bar))
    before, after = scores
    is_better = after.serves_better(before)
    counted = f"{len(images)} held-out {'image' if len(images) == 1 else 'images'}"
    report = f"{table(before, after)}\n\n{counted}, {before.num_objects} objects. "
    report += "They also stop training, so the table is a little kind. "
    report += (
        f"'{out}' is the tuned model."
        if is_better
        else f"The tuned model is no better, so '{out}' is the one that it began from."
    )
    card = read_card(start) if start.suffix == ".safetensors" else ""
    save(net, out, card=f"{card}\n\n## Tuned\n\n{report}\n".lstrip(), beside=decoders[is_better])
    return report
