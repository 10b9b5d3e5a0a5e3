"""Capture files of any program: their entries, and which of these belong together."""
