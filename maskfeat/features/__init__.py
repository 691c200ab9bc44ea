"""Batches become feature pyramids."""
