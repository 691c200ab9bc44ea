"""Settings of the data module, flat as tests like them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from maskfeat.data.annotations.limits import Limits
from maskfeat.data.datamodule import ShardDataModule
from maskfeat.data.settings import ExampleSettings, StreamSettings
from maskfeat.data.shards.remote import ShardSettings

DEFAULTS = {
    "examples": ExampleSettings(),
    "streaming": StreamSettings(),
    "shards": ShardSettings(),
    "limits": Limits(),
}
GROUP_OF = {one.name: group for group, known in DEFAULTS.items() for one in fields(known)}


def data_module(**flat: Any) -> ShardDataModule:
    """A data module whose settings are given without their groups."""
    settings: dict[str, Any] = {}
    for name, value in flat.items():
        group = GROUP_OF.get(name)
        if group is None:
            settings[name] = value
        else:
            before: Any = settings.get(group, DEFAULTS[group])
            settings[group] = replace(before, **{name: value})
    return ShardDataModule(**settings)
