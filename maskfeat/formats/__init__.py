"""Masks in and out: the layouts that other programs read and write."""
