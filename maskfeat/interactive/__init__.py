"""Clicks become masks."""
