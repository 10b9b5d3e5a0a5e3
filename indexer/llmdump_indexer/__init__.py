"""The indexer: tails segment files, assembles exchanges, and keeps one SQLite row for each."""
