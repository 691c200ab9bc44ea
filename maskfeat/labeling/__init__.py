"""Labeling a set of images with a human in the loop: score sources, classifier, loop."""
