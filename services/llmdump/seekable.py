"""Sealed segment files: zstd frames and a seek table, so that any range is read without the rest.

The layout is zstd's own seekable format (facebook/zstd, contrib/seekable_format), which every zstd tool decompresses
as one stream: independent frames, then one skippable frame holding the table:

    5e 2a 4d 18  <u32 length>                       skippable frame, little-endian throughout
      per frame: <u32 compressed> <u32 plain>       sizes in bytes
      <u32 frames> <u8 0> b1 ea 92 8f               footer: count, descriptor (no checksums), magic
"""

from pathlib import Path


class SealedFile:
    """A sealed file, read by offsets of its plain content."""

    size: int

    def __init__(self, path: Path) -> None:
        raise FileNotFoundError(path)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of the plain content, fewer at its end. Blocking."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        raise NotImplementedError
