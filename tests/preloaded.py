"""Imported once by the server of `forked_python`: what its processes need, the parser included."""

import contextlib
import gc
import io
from pathlib import Path

import skimage.color
import sklearn.cluster
import starlette.testclient
import timm
import torch
import torchvision
import uvicorn

import maskfeat.app.annotate_command
import maskfeat.app.segment_command
from maskfeat.cli import main

__all__ = ["maskfeat", "skimage", "sklearn", "starlette", "timm", "torchvision", "uvicorn"]

torch.set_num_threads(1)
config = Path(__file__).resolve().parents[1] / "conf/base.yaml"
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["fit", f"--config={config}", "--print_config"])  # what is looked up once stays known
gc.collect()
gc.freeze()  # else each process looks through all of this, and copies it
