"""`maskfeat export`: a checkpoint becomes a small file, or graphs. What is slow to import waits."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from maskfeat.features.model_file import find_model
from maskfeat.files import check_writable

_LOG = logging.getLogger("maskfeat")


_ENDINGS = {"safetensors": ".safetensors", "onnx": ".onnx"}


def export(
    checkpoint: str,
    out: str | None = None,
    format: Literal["safetensors", "onnx"] | None = None,
    card: str | None = None,
    full: bool = False,
) -> None:
    """Write the network of a checkpoint to one file with its config, no pickle.

    The averaged weights are taken, where there are any. A checkpoint of a click decoder gives its
    features and the decoder. `maskfeat.load(out)`, `maskfeat segment --model out` and
    `maskfeat annotate --model out` read it.

    The format safetensors is one small file. The format ONNX (`pip install 'maskfeat[onnx]'`) is a
    graph that other runtimes can run, without PyTorch: OUT.onnx takes images, uint8, (B, H, W, 3),
    of any size, and gives the pyramid. A click decoder comes beside it in two graphs: OUT.look.onnx
    reads the image, OUT.click.onnx the clicks.

    Args:
        checkpoint: A checkpoint of `lightning fit` (.ckpt), a .safetensors file, or the name of a
            network that comes with the package.
        out: The file to write, ending in .safetensors or .onnx; the default is the name of the
            checkpoint, in this folder. One that is there already is replaced, but only when the
            new one is whole.
        format: safetensors or onnx; the default is what `out` ends in.
        card: A Markdown file that says what people should know of the network (data, terms,
            command, scores); it is kept inside, for `maskfeat.read_card`.
        full: Weights in 32 bits instead of 16: twice the size, and exact. ONNX always has them.
    """
    if format not in (None, *_ENDINGS):
        raise ValueError(f"format must be one of {', '.join(_ENDINGS)}, got '{format}'")
    ending = _ENDINGS[format or "safetensors"]
    path = Path(Path(checkpoint).name).with_suffix(ending) if out is None else Path(out)
    wanted = list(_ENDINGS.values()) if format is None else [ending]
    if path.suffix not in wanted:
        raise ValueError(f"out must end in {' or '.join(wanted)}, got '{out}'")
    if card is not None and not Path(card).is_file():
        raise FileNotFoundError(f"no card at '{card}'; give a Markdown file, or leave --card out")
    source = find_model(checkpoint)
    if source.suffix == ".onnx":
        raise ValueError(f"'{source}' is a graph; give the checkpoint that it was made of")
    if path.exists() and path.samefile(source):
        raise ValueError(f"'{path}' is the checkpoint itself; give another file by --out")
    check_writable(path.parent)
    text = Path(card).read_text(encoding="utf-8") if card is not None else ""
    files = (_write_onnx if path.suffix == ".onnx" else _write_safetensors)(
        source, path, text, full
    )
    for file in files:
        _LOG.info("%s: %.1f MB", file, file.stat().st_size / 1e6)


def _write_safetensors(source: Path, path: Path, card: str, full: bool) -> list[Path]:
    import torch

    from maskfeat.features.weights import load, save
    from maskfeat.interactive.decoder_file import load_decoder, packed

    net, decoder = load(source), load_decoder(source)
    dtype = torch.float32 if full else torch.float16
    save(net, path, dtype, card, ({}, {}) if decoder is None else packed(decoder, dtype))
    return [path]


def _write_onnx(source: Path, path: Path, card: str, full: bool) -> list[Path]:
    from maskfeat.features.onnx_encoder import write_encoder
    from maskfeat.features.weights import load
    from maskfeat.interactive.decoder_file import load_decoder, remove_decoder, write_decoder
    from maskfeat.onnx_file import origin_of

    net, decoder = load(source), load_decoder(source)
    if decoder is None:
        remove_decoder(path)
        halves = []
    else:  # first, as it may not be possible
        halves = write_decoder(decoder, path, origin_of(net))
    write_encoder(net, path, card)
    return [path, *halves]
