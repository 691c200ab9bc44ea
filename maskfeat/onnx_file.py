"""ONNX files: graphs with what maskfeat must know of them, run by onnxruntime (an extra)."""

from __future__ import annotations

import importlib
import os
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskfeat.files import whole_file

OPSET = 18  # which onnxruntime runs since 2023
# Of the weights that a graph was made of, so that graphs of two models are not mixed.
ORIGIN_KEY = "maskfeat_origin"


def write_graph(
    path: str | os.PathLike[str],
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    open_axes: Sequence[int],
    metadata: Mapping[str, str],
) -> None:
    """Write what a module computes to an ONNX file, whole or not at all.

    Args:
        path: Where to.
        module: In evaluation mode.
        inputs: Examples by the names of the arguments of its `forward`.
        outputs: Names of its results.
        open_axes: Axes of every input whose length may differ from that of the example.
        metadata: What else the file holds.

    Raises:
        ModuleNotFoundError: If the packages of the extra are not there.
    """
    _needed("onnx"), _needed("onnxscript")
    lengths = {axis: torch.export.Dim.DYNAMIC for axis in open_axes}
    with warnings.catch_warnings():
        # Of the exporter's own parts, which users cannot act on.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        program: Any = torch.onnx.export(
            module,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple(lengths for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    for key, value in metadata.items():
        graph.metadata_props.add(key=key, value=value)
    with whole_file(path) as file:
        file.write(graph.SerializeToString())


class Graph:
    """An ONNX file made by `write_graph`, ready to be run on the CPU.

    Args:
        path: The file. It is data: no library and no other file is loaded at its wish.

    Attributes:
        metadata: As written.

    Raises:
        ModuleNotFoundError: If onnxruntime is not there.
        ValueError: If the file is damaged or was not made by maskfeat.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        runtime = _needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors, which are raised too
        try:
            # By content: a graph in memory cannot name files that hold its weights.
            self._session = runtime.InferenceSession(
                Path(path).read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except OSError:
            raise
        except Exception as error:  # the classes of onnxruntime have no base of their own
            raise ValueError(
                f"'{path}' is no ONNX file that onnxruntime can run; export it again"
            ) from error
        self.metadata: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        if ORIGIN_KEY not in self.metadata:
            raise ValueError(
                f"'{path}' was not made by maskfeat; write one by maskfeat export MODEL FILE.onnx"
            )

    def run(self, **inputs: Tensor) -> list[Tensor]:
        """The results for inputs on the CPU."""
        arrays = {name: value.numpy() for name, value in inputs.items()}
        return [torch.from_numpy(found) for found in self._session.run(None, arrays)]


def origin_of(net: nn.Module) -> str:
    """What tells a network from others: a checksum of its weights."""
    found = 0
    for name, value in sorted(net.state_dict().items()):
        found = zlib.crc32(value.detach().cpu().contiguous().numpy().tobytes(), found)
        found = zlib.crc32(name.encode(), found)
    return f"{found:08x}"


def _needed(name: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"files in the format ONNX need the package {name}; install it by "
            "pip install 'maskfeat[onnx]'"
        ) from error
