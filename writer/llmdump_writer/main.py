"""llmdump-writer: takes records from proxies and makes them durable in segment files.

    main thread (asyncio)      signals, /metrics, /healthz
    thread `capture`           socket, batches, files (link, capture, store)
    thread `sealer`            compresses closed segments

Several writers run side by side: the slot in `<data>/run` gives each its name, its endpoint and its own files.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import Any, Final, NoReturn

from llmdump import admin, keys, log
from llmdump.metrics import Sample, by_label
from llmdump.process import Process, fail
from llmdump.process import main as process_main
from llmdump_writer.capture import Capture
from llmdump_writer.catalog import Catalog
from llmdump_writer.link import Link
from llmdump_writer.recovery import recover
from llmdump_writer.rotation import Limits
from llmdump_writer.sealer import Sealer
from llmdump_writer.store import Store

PROXIES_LEAVE_S: Final = 2.8
"""Of the four seconds that all have, what proxies may take before the writer closes."""
SEALER_LEAVES_S: Final = 0.4


def main() -> NoReturn:
    """The console script."""
    process_main("writer", "Takes records from the proxies and makes them durable in segment files.", serve)


async def serve(process: Process) -> None:
    """Work as a writer until told to stop; nothing that was acknowledged is only in memory, at any time."""
    writer_keys = keys.of_writer(process.settings)
    endpoint = _endpoint(process, curve=writer_keys is not None)
    writer = Writer(process)
    link = Link(writer.capture, endpoint, writer_keys)

    def samples() -> Iterator[Sample]:
        yield Sample("llmdump_writer_connections_refused_total", link.refused)
        yield from writer.samples()

    pages = await admin.serve(process.settings.writer_admin_listen, process.presence, samples, writer.health)
    writer.sealer.start()
    capturing = asyncio.create_task(asyncio.to_thread(link.run), name="capture")
    process.started(listen=endpoint)
    stopping = asyncio.create_task(process.stopping.wait())
    await asyncio.wait({capturing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not capturing.done():
        await process.others_have_left("proxy", PROXIES_LEAVE_S)
        link.stop()
    stopping.cancel()
    await capturing
    writer.sealer.stop(SEALER_LEAVES_S)
    pages.close()


def _endpoint(process: Process, *, curve: bool) -> str:
    """Where this writer takes records. Leaves with a line on stderr where it may not."""
    slot, fixed = process.presence.card.slot, process.settings.writer_endpoints
    if fixed and slot >= len(fixed):
        fail(f"writer_endpoints names {len(fixed)} writers and they run already: add an endpoint or start fewer writers")
    endpoint = fixed[slot] if fixed else process.data.writer_endpoint(slot)
    reason = keys.refusal(endpoint, curve=curve)
    if reason:
        fail(reason)
    return endpoint


class Writer:
    """The parts of one writer, and what they tell."""

    def __init__(self, process: Process) -> None:
        """Recover what is on disk. Blocking. Raises OSError."""
        settings, directory = process.settings, process.data.segments
        name = f"w{process.presence.card.slot}"
        found = recover(directory, name, synced=settings.fsync == "flush")
        self._torn_bytes = found.torn_bytes
        self.catalog = Catalog(process.data, Limits.of(settings), found.closed)
        self.store = Store(self.catalog, settings, name, found.next_number)
        self.sealer = Sealer(self.catalog)
        seal = self.sealer.seal if settings.capture_seal else _leave_plain
        self.capture = Capture(settings, name, self.store, found.held, time.monotonic, seal)
        seal(found.unsealed)
        log.debug("recovered", instances=len(found.held), files=len(found.closed), torn_bytes=found.torn_bytes)

    def samples(self) -> Iterator[Sample]:
        """The metrics of the writer."""
        counts, catalog = self.capture.counts, self.catalog
        yield Sample("llmdump_records_written_total", counts.records)
        yield Sample("llmdump_records_written_bytes_total", self.store.written_bytes)
        yield Sample("llmdump_records_duplicate_total", counts.duplicates)
        yield Sample("llmdump_writer_lag_seconds", self.capture.lag_s())
        yield from by_label("llmdump_writer_flushes_total", dict(counts.flushes))
        yield Sample("llmdump_writer_fsync_seconds", self.store.sync_time)
        yield from by_label("llmdump_writer_write_errors_total", dict(counts.errors))
        yield Sample("llmdump_records_unsynced_total", self.store.unsynced_records)
        yield Sample("llmdump_writer_resyncs_total", counts.resyncs)
        yield from by_label("llmdump_writer_rotations_total", dict(counts.rotations))
        yield Sample("llmdump_writer_segments_sealed_total", self.sealer.sealed)
        yield from by_label("llmdump_writer_segments_deleted_total", dict(catalog.deleted))
        yield Sample("llmdump_writer_segments_deleted_bytes_total", catalog.deleted_bytes)
        yield Sample("llmdump_writer_segments_deleted_unindexed_total", catalog.deleted_unindexed)
        yield Sample("llmdump_writer_torn_bytes_total", self._torn_bytes)
        yield Sample("llmdump_writer_storage_bytes", catalog.total_bytes)
        if self.store.watermark.free_bytes is not None:
            yield Sample("llmdump_writer_disk_free_bytes", self.store.watermark.free_bytes)

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Failing while the disk refuses writes."""
        failing = self.capture.failing
        return not failing, {"disk_error": failing, "reason": self.capture.reason} if failing else {}


def _leave_plain(_: object) -> None:
    """Nothing is sealed."""


if __name__ == "__main__":
    main()
