"""Where the active segment meets the disk: flushes, closing, failing, probing. Blocking; every method may raise OSError."""

import contextlib
import errno
import os
import time
from pathlib import Path
from typing import Final

from llmdump import durable, log
from llmdump.admin import count_swallowed
from llmdump.durable import Mark
from llmdump.lines import Converter
from llmdump.metrics import SHORT_S, Histogram
from llmdump.segment import Name
from llmdump.settings import Settings
from llmdump_writer.appender import Appender, cut, is_cut, write_all
from llmdump_writer.buffer import Buffer
from llmdump_writer.catalog import Catalog, Closed
from llmdump_writer.watermark import LowDiskError, Watermark

PROBE_BYTES: Final = 1024 * 1024
"""Room there must be before a writer that could not store tries again: a flush or two."""


class Store:
    """The segments of one writer, of which one at a time is active."""

    def __init__(self, catalog: Catalog, settings: Settings, writer: str, next_number: int) -> None:
        self.catalog = catalog
        self.watermark = Watermark(catalog.directory, settings.capture_min_free_bytes)
        self.sync_time = Histogram(SHORT_S)
        self.written_bytes = 0
        self.unsynced_records = 0
        """Records that were acknowledged before a sync that then failed."""
        self.converter = Converter()
        self._settings = settings
        self._writer = writer
        self._next_number = next_number
        self._appenders: dict[str, Appender] = {}
        self._uncut: dict[Path, int] = {}
        """Files with records that were given up, and what is to be kept of them."""
        self._mark = Mark(catalog.directory, writer)
        self._release_what_was_recovered()

    def _release_what_was_recovered(self) -> None:
        """Let readers go to the end of the older segments. If the disk refuses, they wait for the first write."""
        try:
            self._mark.set(self._next_number, {})
        except OSError:
            count_swallowed("durable_mark")

    def begin(self) -> Buffer:
        """A new segment, in memory only."""
        number = self._next_number
        self._next_number += 1
        return Buffer(self._writer, number, self._settings.capture_format, self.converter, time.time())

    def write(self, buffer: Buffer) -> None:
        """Write what waits in `buffer`, with `fsync: flush` durably; deletes old segments first where caps ask for it."""
        self._make_room(buffer)
        self.watermark.check(sum(map(len, buffer.waiting.values())))
        self._write(buffer)

    def _make_room(self, buffer: Buffer) -> None:
        self.catalog.make_room(sum(size + len(buffer.waiting[one]) for one, size in buffer.sizes.items()))

    def _write(self, buffer: Buffer) -> None:
        if not self._appenders:
            self._mark.set(buffer.number, {})
        for one, waiting in buffer.waiting.items():
            appender = self._appender(buffer.names[one])
            appender.append(waiting)
            if self._settings.fsync == "flush":
                appender.sync()
        self._mark.set(buffer.number, {one: size + len(buffer.waiting[one]) for one, size in buffer.sizes.items()})
        self.written_bytes += sum(map(len, buffer.waiting.values()))
        buffer.written()

    def close(self, buffer: Buffer) -> list[Name]:
        """Write the footer and close; the names of the closed files. What waits must have been written before.

        A footer that cannot be written is left out: everything before it is durable, and a reader does without. It is so
        small that the watermark is not asked.
        """
        buffer.end()
        self._make_room(buffer)
        try:
            self._write(buffer)
            self.sync(buffer)
        except OSError as err:
            log.warning("segment_without_footer", file=next(iter(buffer.names.values())).segment, error=error_name(err))
            self._abandon(buffer)
        self._close_files()
        return self._add_to_catalog(buffer)

    def leave(self) -> None:
        """Nothing is written any more: readers need no mark, unless there are files that could not be cut. Raises nothing."""
        if not self._uncut:
            with contextlib.suppress(OSError):
                self._mark.remove()

    def sync(self, buffer: Buffer) -> None:
        """With `fsync: interval`, make durable what was written since the last time."""
        if self._settings.fsync == "interval":
            for appender in self._appenders.values():
                appender.sync()
            buffer.synced = dict(buffer.stored)

    def fail(self, buffer: Buffer) -> None:
        """After a failed `write` or `sync`: give up what waits in `buffer` and the segment with it. Raises nothing.

        Where the disk refuses even to cut the file back, `probe` does it before anything is stored or said again:
        what is sent once more must not stand in an older file (docs/wire.md, rule 2).
        """
        if not any(buffer.sizes.values()):
            self._leave_no_hole(buffer)
        self._abandon(buffer)
        self._close_files()
        for one, keep_bytes in buffer.sizes.items():
            path = self.catalog.directory / buffer.names[one].file
            if not is_cut(path, keep_bytes):
                self._uncut[path] = keep_bytes
        files = self._add_to_catalog(buffer)
        if files:
            log.warning("segment_suspect", file=files[0].segment, kept_bytes=sum(buffer.sizes.values()))

    def _leave_no_hole(self, buffer: Buffer) -> None:
        """Nothing of the segment is kept: use its number again, unless a reader may know it (see `recovery`)."""
        try:
            known = bool(self._appenders) and any(durable.limit(self.catalog.directory, one) for one in buffer.names.values())
        except OSError:
            known = True
        if known:
            self.catalog.note_empty(next(iter(buffer.names.values())))
        else:
            self._next_number = buffer.number

    def _add_to_catalog(self, buffer: Buffer) -> list[Name]:
        files = {buffer.names[one]: size for one, size in buffer.sizes.items() if size}
        self.catalog.add(buffer.number, Closed(files, time.time(), buffer.stored))
        return list(files)

    def probe(self) -> None:
        """Cut back what could not be, then find out whether the disk takes data: write a file, sync it, remove it."""
        for path, keep_bytes in list(self._uncut.items()):
            cut(path, keep_bytes)
            del self._uncut[path]
        self.watermark.look(PROBE_BYTES)
        path = self.catalog.directory / f"{self._writer}.probe.tmp"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            write_all(fd, bytes(self.catalog.take_spare_bytes(PROBE_BYTES)))
            if self._settings.fsync != "off":
                os.fsync(fd)
        finally:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            self.catalog.make_room(0)

    def _appender(self, name: Name) -> Appender:
        found = self._appenders.get(name.format)
        if found is None:
            path: Path = self.catalog.directory / name.file
            found = Appender(path, self.sync_time)
            self._appenders[name.format] = found
        return found

    def _abandon(self, buffer: Buffer) -> None:
        synced = [appender.abandon(buffer.sizes[one]) for one, appender in self._appenders.items()]
        if self._settings.fsync == "interval" and not all(synced):
            for instance, (above, last, count) in buffer.unsynced.items():
                self.unsynced_records += count
                log.error("acknowledged_but_not_synced", instance=instance, above=above, to=last, records=count)

    def _close_files(self) -> None:
        for appender in self._appenders.values():
            appender.close()
        self._appenders.clear()


def error_name(err: OSError) -> str:
    """As in ENOSPC; `min_free` where it is the watermark that refuses."""
    if isinstance(err, LowDiskError):
        return "min_free"
    return errno.errorcode.get(err.errno or 0, "unknown")
