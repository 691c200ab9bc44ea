"""What surrounds a run: its folder, signals, failures, curves, and the files of predictions."""
