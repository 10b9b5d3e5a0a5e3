"""The api: reads the index and the segment files, never writes either."""
