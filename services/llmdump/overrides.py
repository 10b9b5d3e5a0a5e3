"""`<data>/overrides.json`: the few settings that are changed over HTTP while all runs. The api writes it, writers read it.

    {"capture_total_max_bytes": 10000000000, "capture_max_age_s": 2592000.0, "warn_at_percent": 80}

A key that is there goes before the setting of that name; one that is not leaves it. Writers look at the file every
second, so the answer to a change is the same before and after a restart. A file that cannot be read, or is none of ours,
changes nothing and is counted: deleting it goes back to the settings.
"""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from llmdump import log
from llmdump.admin import count_swallowed

FILE_BYTES_MAX = 4096


class Overrides(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is changed; None: not."""

    capture_total_max_bytes: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    capture_max_age_s: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    warn_at_percent: Annotated[int, Meta(ge=1, le=100)] | None = None
    """Of the cap, from where on /healthz warns."""


NONE = Overrides()


def load(path: Path) -> Overrides:
    """What the file says; nothing where it does not say. Blocking."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(FILE_BYTES_MAX + 1), type=Overrides)
    except FileNotFoundError:
        return NONE
    except (OSError, msgspec.MsgspecError) as err:
        count_swallowed("overrides_not_read")
        log.error("overrides_not_read", file=path.name, error=err)
        return NONE


def save(path: Path, overrides: Overrides) -> None:
    """Replace the file, durably and at once. Blocking. Raises OSError."""
    fd, aside = tempfile.mkstemp(prefix=".overrides-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(overrides) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


class Watched:
    """The file, looked at again and again; read only when it is another one. Not for several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self.overrides = NONE

    def changed(self) -> bool:
        """Whether the file is not the one of the last look; then `overrides` is what it says. Blocking."""
        try:
            stat = self._path.stat()
            seen = (stat.st_ino, stat.st_mtime_ns)
        except OSError:
            seen = None
        if seen == self._seen:
            return False
        self._seen, self.overrides = seen, load(self._path)
        return True
