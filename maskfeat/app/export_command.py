"""`maskfeat export`: a checkpoint becomes one small file. What is slow to import waits."""

from __future__ import annotations

import logging
from pathlib import Path

from maskfeat.features.model_file import find_model
from maskfeat.files import check_writable


def export(checkpoint: str, out: str, card: str | None = None, full: bool = False) -> None:
    """Write the network of a checkpoint to one .safetensors file with its config, no pickle.

    The averaged weights are taken, where there are any. A checkpoint of a click decoder gives its
    features and the decoder in one file. `maskfeat.load(out)`, `maskfeat segment --model out` and
    `maskfeat annotate --model out` read it.

    Args:
        checkpoint: A checkpoint of `lightning fit` (.ckpt), or a .safetensors file.
        out: The file to write, ending in .safetensors. One that is there already is replaced, but
            only when the new one is whole.
        card: A Markdown file that says what people should know of the network (data, terms,
            command, scores); it is kept inside, for `maskfeat.read_card`.
        full: Weights in 32 bits instead of 16: twice the size, and exact.
    """
    if Path(out).suffix != ".safetensors":
        raise ValueError(f"out must end in .safetensors, got '{out}'")
    if card is not None and not Path(card).is_file():
        raise FileNotFoundError(f"no card at '{card}'; give a Markdown file, or leave --card out")
    find_model(checkpoint)
    check_writable(Path(out).parent)
    import torch

    from maskfeat.features.weights import load, save
    from maskfeat.interactive.decoder_file import load_decoder, packed

    text = Path(card).read_text(encoding="utf-8") if card is not None else ""
    net, decoder = load(checkpoint), load_decoder(checkpoint)
    dtype = torch.float32 if full else torch.float16
    save(net, out, dtype, text, ({}, {}) if decoder is None else packed(decoder, dtype))
    size = Path(out).stat().st_size / 1e6
    logging.getLogger("maskfeat").info("%s: %s, %.1f MB", out, net.config["backbone"], size)
