"""Features become segments; nothing here knows of training."""
