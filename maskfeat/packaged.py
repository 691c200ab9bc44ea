"""Configs and drawn scenes that come with the package, and the command that copies configs."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

_PACKAGE = Path(__file__).parent
_SCENES = "data_shards"


def packaged_folder(name: str) -> Path:
    """Find a folder that travels with the package, "conf" or "data_shards".

    It lies inside the package once installed, beside it in a checkout of the repository.
    """
    installed = _PACKAGE / name
    return installed if installed.is_dir() else _PACKAGE.parent / name


def config_names() -> list[str]:
    """Names of the packaged configs, sorted: "base", "bsds500" and so on."""
    return sorted(path.stem for path in packaged_folder("conf").glob("*.yaml"))


def resolve_config(value: str) -> str:
    """Replace the bare name of a packaged config, as a value of --config, by its path.

    Other values (a file, settings themselves), and names of files in the working folder, are
    returned unchanged.
    """
    is_name = re.fullmatch(r"\w+", value) is not None
    if is_name and not Path(value).exists() and value in config_names():
        return str(packaged_folder("conf") / f"{value}.yaml")
    return value


def resolve_data_root(value: str) -> str:
    """Replace the folder "data_shards" by the packaged scenes, where no such folder exists."""
    if value.rstrip("/") == _SCENES and not Path(_SCENES).exists():
        return str(packaged_folder(_SCENES))
    return value


def uses_packaged_scenes(data_root: str) -> bool:
    """Whether `resolve_data_root` put the packaged scenes in place of a missing folder."""
    return data_root == str(packaged_folder(_SCENES)) and not Path(_SCENES).exists()


def configs(folder: str | None = None) -> None:
    """List the packaged configs, or copy them to a folder.

    `lightning fit --config NAME` takes a packaged config by its name. To change one, copy it:
    `maskfeat configs conf`, edit, then `lightning fit --config conf/NAME.yaml`.

    Args:
        folder: Where to copy them; made if it is not there. Files that are there already stay as
            they are. Without a folder the names are listed.

    Raises:
        NotADirectoryError: If a file of this name is in the way.
    """
    if folder is None:
        for name in config_names():
            text = (packaged_folder("conf") / f"{name}.yaml").read_text(encoding="utf-8")
            print(f"{name:16} {text.splitlines()[0].removeprefix('# ')}")
        return
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"cannot copy configs to '{folder}': it is a file, not a folder")
    target.mkdir(parents=True, exist_ok=True)
    for name in config_names():
        path = target / f"{name}.yaml"
        try:
            with path.open("xb") as copy, (packaged_folder("conf") / path.name).open("rb") as file:
                shutil.copyfileobj(file, copy)
        except FileExistsError:
            print(f"kept   {path} (already there)")
        else:
            print(f"copied {path}")
