"""Texts of --help and their layout. Nothing slow is imported here."""

from __future__ import annotations

import argparse

import jsonargparse

COMMANDS = """\
usage: maskfeat COMMAND [options]

Learn a feature space from masks, evaluate and use it. `lightning` is the same program.

training:
  maskfeat fit            train a network, and evaluate it as it learns; with --config clicks a
                          click decoder on the features of one
  maskfeat validate       evaluate a checkpoint on the held-out images of data.val
  maskfeat test           evaluate a checkpoint on those of data.test
  maskfeat predict        write features, label maps and overlays
  maskfeat configs        list the configs that come with the package, or copy them to a folder

with a network, your own or the one that comes with the package:
  maskfeat segment        cut images or folders of images into segments
  maskfeat annotate       cut objects out of images by clicks, or label a folder by classes,
                          on a local web page
  maskfeat tune           tune it to your own masks: fewer clicks on images of their kind
  maskfeat convert        write the masks of both as COCO, YOLO, VOC, LabelMe or GeoJSON, or
                          read these
  maskfeat serve          give masks to Label Studio or X-AnyLabeling
  maskfeat export         write the network of a checkpoint to one small file, to ship or share

data:
  maskfeat shards synth   draw scenes with exact nested masks and write them as shards
  maskfeat shards index   index tars, so that members in any order can be read at random
  maskfeat shards convert make small training shards of SA-1B, COCO, BSDS500, ADE20K or folders
  maskfeat shards segment make shards with nested masks of images, tars of images or urls of tars
  maskfeat shards verify  check the shards of both
  maskfeat shards stats   count masks, areas and nesting in shards, and draw samples

maskfeat COMMAND --help lists its options; maskfeat --version prints the version."""

# What the help of each command of Lightning begins with.
DESCRIPTIONS = {
    "fit": "Train a network, and evaluate it as it learns.",
    "validate": "Evaluate a checkpoint on the held-out images of data.val.",
    "test": "Evaluate a checkpoint on the held-out images of data.test.",
    "predict": "Write features, label maps and images of the images in data.predict.",
}
_MOST_LISTED = 40  # classes; of torch.nn.Module there are more than a thousand


class ShortLists(jsonargparse.DefaultHelpFormatter):
    """A formatter of help that does not list a thousand classes."""

    def _get_help_string(self, action: argparse.Action) -> str:
        message: str = super()._get_help_string(action)
        before, _, listed = message.partition(", known subclasses: ")
        count = listed.count(",") + 1
        if count <= _MOST_LISTED:
            return message
        return f"{before}, any class by its path; --{action.dest}.help CLASS lists its options)"


class AsItStands(ShortLists, argparse.RawDescriptionHelpFormatter):
    """A formatter of help that breaks no lines of the description anew."""
