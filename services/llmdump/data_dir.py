"""Where everything lives: one data directory, private to its owner.

<data>/segments/w0-00000001.cbor         the truth: segment files, named writer-number.format
<data>/segments/w0-00000001.cbor.zst     the same, sealed
<data>/segments/deleted.jsonl            what retention has deleted, a line a file
<data>/pinned/<exchange>.cbor            copies of pinned exchanges, which retention leaves alone (see `pins`)
<data>/index.sqlite                      derived from the segments, may be deleted
<data>/index.sqlite.rebuild              the next one, while `llmdump rebuild` makes it
<data>/otlp-1a2b3c4d.json                how far `llmdump export --follow` has come
<data>/admin_token                       bearer token of the api, made at first start
<data>/read_token                        another one, that may only read
<data>/overrides.json                    settings that were changed over HTTP (see `overrides`)
<data>/run/<role>-<slot>.json            one file a living process, locked while it lives (see `presence`)
<data>/run/writer-0.sock                 where a writer takes records
<data>/run/w0.durable                    how far the newest segment of a writer may be read (see `durable`)
<data>/run/proxy-0.sock                  where a proxy hands its port over to the next
<data>/spill/<instance>-0-00000001.spill  records that wait for a writer, when a proxy's memory is full
"""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Final

# sun_path holds 108 bytes on Linux and 104 on macOS, the closing NUL included (unix(7)).
SOCKET_PATH_BYTES_MAX: Final = 103
_PORTABLE: Final = "run:"
_LONGEST_SOCKET_NAME: Final = "writer-000.sock"


class DataDir:
    """The paths below one data directory. Making it creates nothing; `create` does."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.segments = self.root / "segments"
        self.pinned = self.root / "pinned"
        self.run = self.root / "run"
        self.spill = self.root / "spill"
        self.index = self.root / "index.sqlite"
        self.admin_token = self.root / "admin_token"
        self.read_token = self.root / "read_token"
        self.overrides = self.root / "overrides.json"

    def create(self) -> "DataDir":
        """Make the directories, mode 0700, and return self. Blocking. Raises OSError."""
        for directory in (self.root, self.segments, self.pinned, self.run, self.spill, self.sockets):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.sockets.stat().st_uid != os.getuid():  # it may lie where everybody can write
            raise PermissionError(f"{self.sockets} belongs to somebody else; remove it, or set TMPDIR")
        return self

    @property
    def sockets(self) -> Path:
        """Where sockets are: `run`, or for a data directory with a long path a private one with a short path."""
        if len(os.fsencode(self.run / _LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES_MAX:
            return self.run
        short = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"llmdump-{os.getuid()}-{short}"

    def writer_endpoint(self, slot: int) -> str:
        """The ZeroMQ endpoint of the writer in this slot."""
        return f"{self._own}writer-{slot}.sock"

    def handover_socket(self, slot: int) -> Path:
        """The unix socket at which the proxy in this slot hands over its listening socket."""
        return self.sockets / f"proxy-{slot}.sock"

    def portable(self, endpoint: str) -> str:
        """An endpoint as it is written down: without the place of the data directory, which may be moved."""
        return _PORTABLE + endpoint.removeprefix(self._own) if endpoint.startswith(self._own) else endpoint

    def endpoint(self, portable: str) -> str:
        """The endpoint that was written down so."""
        return self._own + portable.removeprefix(_PORTABLE) if portable.startswith(_PORTABLE) else portable

    def spilled(self) -> set[str]:
        """The proxy instances that have records in spill files, to be sent by a living proxy. Blocking. Raises OSError."""
        return {path.name.partition("-")[0] for path in self.spill.glob("*.spill")}

    @property
    def _own(self) -> str:
        return f"ipc://{self.sockets}/"
