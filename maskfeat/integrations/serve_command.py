"""`maskfeat serve`: masks for other annotation tools."""

from __future__ import annotations

import importlib
import logging

from maskfeat.app.annotate_command import run_server

# The ports that the tools' own documentation has.
_PORTS = {"label_studio": 9090, "x_anylabeling": 8000}


def serve(
    tool: str,
    model: str = "maskfeat-b0",
    host: str = "127.0.0.1",
    port: int | None = None,
    token: str | None = None,
    max_megapixels: float = 1.0,
) -> None:
    """Give masks to another annotation tool, over its own protocol.

    - maskfeat serve label_studio: a machine learning backend for Label Studio (needs pip install
      'maskfeat[label-studio]'). Set LABEL_STUDIO_URL and LABEL_STUDIO_API_KEY for images that it
      keeps.
    - maskfeat serve x_anylabeling: a remote model server for X-AnyLabeling.

    CVAT calls maskfeat itself (maskfeat.integrations.cvat), and napari has a widget. The guide
    "In other tools" says how each is set up.

    Args:
        tool: label_studio or x_anylabeling.
        model: A checkpoint of `lightning fit` (.ckpt) or a .safetensors file; or the word lab.
        host: Address to listen on: other than 127.0.0.1 only in a network you trust, with a token.
        port: Port to listen on, or the next one that is free. If not given, 9090 for label_studio
            and 8000 for x_anylabeling.
        token: What the tool must send: in X-AnyLabeling its api_key, in Label Studio the password
            of its basic authentication.
        max_megapixels: Larger images are reduced to this size, millions of pixels.
    """
    from maskfeat.app.server import is_loopback

    if tool not in _PORTS:
        raise ValueError(f"tool must be {' or '.join(_PORTS)}, got {tool!r}")
    port = _PORTS[tool] if port is None else port
    if not 0 <= port < 2**16:
        raise ValueError(f"port must lie in 0 to 65,535, got {port}")
    if token == "":  # as a variable of the shell that is not set gives it
        raise ValueError("token must not be empty; leave it out for none")
    if not max_megapixels > 0:
        raise ValueError(f"max_megapixels must be above 0, got {max_megapixels}")
    try:
        create_app = importlib.import_module(f"maskfeat.integrations.{tool}").create_app
    except ModuleNotFoundError as error:
        raise ValueError(
            f"serve {tool} needs {error.name}; run pip install 'maskfeat[label-studio]'"
        ) from error
    from maskfeat.integrations.prompted_image import PromptedImages
    from maskfeat.segment.inputs import model_of

    def announce(bound: int) -> None:
        if not is_loopback(host) and token is None:
            logging.getLogger("maskfeat").warning(
                "everyone who can reach %s can send requests; --token sets a password", host
            )
        print(f"{tool} can be given http://{host}:{bound}  (Ctrl+C ends it)", flush=True)

    app = create_app(PromptedImages(model_of(model), max_megapixels), token)
    run_server(app, host, port, announce)
