"""What surrounds a training run: its folder, signals, failures, and curves."""
