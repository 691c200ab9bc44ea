"""Images and masks become batches."""
