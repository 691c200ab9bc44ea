"""Who reads what, and when; how a run goes on."""
