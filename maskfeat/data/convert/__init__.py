"""Data sets of others become training shards of ours: `maskfeat shards convert`."""

from maskfeat.data.convert.run import convert_inputs
from maskfeat.data.convert.sample import Settings
from maskfeat.data.convert.sources import FORMATS, find_inputs

__all__ = ["FORMATS", "Settings", "convert_inputs", "find_inputs"]
