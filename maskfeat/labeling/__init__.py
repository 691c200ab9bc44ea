"""Labeling a set of images with a human in the loop: feature extractors, classifier, loop."""
