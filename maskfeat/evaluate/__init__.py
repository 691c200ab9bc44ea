"""Segments become numbers and pictures."""
