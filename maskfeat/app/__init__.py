"""What users open: commands that make files of segments."""
