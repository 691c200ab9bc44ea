"""Where samples lie: tars on disk and at urls."""
