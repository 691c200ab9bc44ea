"""Scenes drawn by the project, with exact nested masks."""

from maskfeat.data.synth.scene import Scene, draw_scene, scene_sample, write_scenes

__all__ = ["Scene", "draw_scene", "scene_sample", "write_scenes"]
