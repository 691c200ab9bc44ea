"""Modules by the paths they had in 0.1, and most of 0.2: imports, class paths in configs."""

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
    "app.label_server": "app.server",
    "app.result_origin": "app.segment_task",
    "data.annotations.counts": "data.annotations.rle",
    "data.annotations.image_files": "data.folder",
    "data.annotations.reduce": "data.annotations.painting",
    "data.cache": "data.shards.cache",
    "data.convert.parts": "data.convert.pool",
    "data.convert.runs": "data.annotations.painting",
    "data.counts": "data.annotations.rle",
    "data.examples": "data.order.loaders",
    "data.http_stream": "data.shards.http_stream",
    "data.image_identity": "data.annotations.image_identity",
    "data.index": "data.shards.index",
    "data.index_file": "data.shards.index_file",
    "data.limits": "data.annotations.limits",
    "data.loaders": "data.order.loaders",
    "data.mixture": "data.order.schedule",
    "data.order.examples": "data.order.loaders",
    "data.order.mixture": "data.order.schedule",
    "data.orders": "data.order.run_order",
    "data.picture": "data.annotations.image",
    "data.picture_files": "data.folder",
    "data.progress": "data.order.state",
    "data.readers": "data.order.readers",
    "data.reduce": "data.annotations.painting",
    "data.remote": "data.shards.remote",
    "data.rle": "data.annotations.rle",
    "data.sample": "data.annotations.sample",
    "data.schedule": "data.order.schedule",
    "data.sizes": "data.shards.count",
    "data.skips": "data.order.skips",
    "data.stream": "data.shards.stream",
    "data.synth.splits": "data.synth.shapes",
    "data.tar": "data.shards.tar",
    "data.training": "data.training_set",
    "data.workers": "data.order.workers",
    "data.write": "data.shards.write",
    "evaluate.baselines": "features.lab",
    "evaluate.net_summary": "running.net_summary",
    "evaluate.pictures": "evaluate.drawing",
    "evaluate.predictions": "running.predictions",
    "evaluate.rank_watch": "running.rank_watch",
    "evaluate.reaching": "evaluate.clicks_with_radius",
    "evaluate.robots": "evaluate.simulated_users",
    "evaluate.run_summary": "running.tensorboard",
    "evaluate.save_together": "running.signals",
    "evaluate.scalar_layout": "running.tensorboard",
    "evaluate.stop_together": "running.signals",
    "evaluate.throughput": "running.throughput",
    "failed_start": "running.run_folder",
    "failures": "running.failures",
    "hill": "labeling",
    "hill.answers": "labeling.learner",
    "hill.checks": "labeling.checks",
    "hill.classifier": "labeling.classifier",
    "hill.clicks": "labeling.click_log",
    "hill.evidence": "labeling.examples",
    "hill.export": "labeling.export",
    "hill.image_store": "labeling.image_store",
    "hill.kept_labels": "labeling.kept_labels",
    "hill.labeler": "labeling.labeler",
    "hill.learner": "labeling.learner",
    "hill.order": "labeling.learner",
    "hill.prepared": "labeling.prepared",
    "hill.sources": "labeling.descriptors",
    "interactive.click_radius": "interactive.prompts",
    "interactive.history": "interactive.click_by_click",
    "interactive.monotone": "segment.mlp",
    "interactive.prompt_cutter": "interactive.update",
    "interactive.small_net": "segment.mlp",
    "interactive.windows": "interactive.prompts",
    "labeling.acquisition": "labeling.learner",
    "labeling.proposal": "labeling.learner",
    "run_folder": "running.run_folder",
    "running.failed_start": "running.run_folder",
    "running.run_summary": "running.tensorboard",
    "running.save_together": "running.signals",
    "running.scalar_layout": "running.tensorboard",
    "running.stop_together": "running.signals",
    "segment.atoms": "segment.superpixels",
    "segment.coloring": "segment.seeded_watershed",
    "segment.expansion": "segment.potts",
    "segment.feature_cache": "features.cache",
    "segment.graphcut": "interactive.cut",
    "segment.hill": "segment.score_cut",
    "segment.history": "interactive.click_by_click",
    "segment.interactive": "interactive.segmenter",
    "segment.judge": "segment.merge_classifier",
    "segment.layers": "interactive.update",
    "segment.mark_cutter": "interactive.update",
    "segment.marks": "interactive.prompts",
    "segment.merging": "segment.agglomeration",
    "segment.monotone": "segment.mlp",
    "segment.reach": "interactive.prompts",
    "segment.remerging": "segment.merge_classifier",
    "segment.scene": "interactive.image",
    "segment.score_maps": "segment.inputs",
    "segment.small_net": "segment.mlp",
    "segment.windows": "interactive.prompts",
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
        sys.meta_path.insert(0, FormerModules())  # before the finder of files: "hill" has a path
