"""What one sample says: an image and its masks."""
