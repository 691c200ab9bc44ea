"""maskfeat inside other annotation tools: CVAT, Label Studio, X-AnyLabeling, napari.

Each module is the interface to one tool; `prompted_image` is what they share.
"""
