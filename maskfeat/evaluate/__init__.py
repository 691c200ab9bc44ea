"""Segments become numbers and images."""
