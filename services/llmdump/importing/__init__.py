"""Captures of other tools, and our own, put into an archive: readers of files, and the segments that are made of them."""
