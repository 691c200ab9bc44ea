"""Photographs and masks become batches."""
