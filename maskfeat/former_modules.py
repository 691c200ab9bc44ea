"""Modules that moved, by the paths they had in 0.2: imports, class paths in configs.

The click task, its data and its callbacks are not of 0.2: configs written since name them.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False  # importing typing, or importlib.abc, costs every command a tenth of a second
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

# Path within the package -> path of today.
FORMER = {
    "app.annotate_server": "app.server",
    "app.own_page": "app.server",
    "app.partition_bytes": "app.image_at_work",
    "app.result_origin": "app.segment_task",
    "data.annotations.counts": "data.annotations.rle",
    "data.annotations.image_files": "data.folder",
    "data.annotations.reduce": "data.annotations.painting",
    "data.convert.ade20k": "data.convert.layouts",
    "data.convert.bsds500": "data.convert.layouts",
    "data.convert.coco_ids": "data.convert.coco_json",
    "data.convert.nesting": "data.convert.stats",
    "data.convert.polygons": "data.convert.coco",
    "data.convert.progress": "data.convert.pool",
    "data.convert.runs": "data.annotations.painting",
    "data.convert.sheet": "data.convert.report",
    "data.convert.tars": "data.convert.layouts",
    "data.order.examples": "data.order.loaders",
    "data.order.mixture": "data.order.schedule",
    "data.order.readers": "data.order.streaming",
    "data.prediction_set": "data.datamodule",
    "data.synth.splits": "data.synth.shapes",
    "evaluate.baselines": "features.color",
    "evaluate.clicks_with_radius": "evaluate.clicking",
    "evaluate.metrics.contours": "evaluate.metrics.boundaries",
    "evaluate.predictions": "running.predictions",
    "features.accumulation": "features.optimization",
    "features.growth": "features.optimization",
    "features.lab": "features.color",
    "features.network": "features.stored_config",
    "features.unreadable": "features.stored_config",
    "interactive.click_callbacks": "interactive.training.task",
    "interactive.click_data": "interactive.training.data",
    "interactive.click_radius": "interactive.prompts",
    "interactive.click_task": "interactive.training.task",
    "interactive.prompt_maps": "interactive.decoder_unary",
    "interactive.windows": "interactive.prompts",
    "labeling.acquisition": "labeling.learner",
    "labeling.kept_labels": "labeling.export",
    "labeling.prepared": "labeling.image_store",
    "labeling.proposal": "labeling.learner",
    "running.failed_start": "running.run_folder",
    "running.run_summary": "running.tensorboard",
    "running.save_together": "running.signals",
    "running.scalar_layout": "running.tensorboard",
    "running.stop_together": "running.signals",
    "segment.agglomeration": "segment.tree",
    "segment.mlp": "segment.merge_classifier",
    "segment.resizing": "segment.inputs",
}


class FormerModules:
    """Finds a module by its former path, gives the module of today, and warns."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that has moved, None for any other."""
        package, _, within = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "maskfeat" and within in FORMER else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module of today, imported by its own name."""
        from maskfeat.deprecation import warn_renamed

        new = f"maskfeat.{FORMER[spec.name.partition('.')[2]]}"
        warn_renamed(spec.name, new)
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back; it was executed under its own name."""
        former = module.__spec__
        assert former is not None
        module.__spec__ = former.loader_state


def install() -> None:
    """Let former paths be imported."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, FormerModules())
