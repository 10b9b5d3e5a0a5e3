"""The routes. Each is documented in docs/api.md, and a test compares."""

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Final

import apsw
import msgspec
from aiohttp import web

from llmdump import overrides, pins, positions, segment
from llmdump.admin import count_swallowed, process_samples
from llmdump.certificate import Statement
from llmdump.data_dir import DataDir
from llmdump.indexed import Ledger
from llmdump.metrics import CONTENT_TYPE, Page, Sample
from llmdump.pins import Room
from llmdump.presence import Presence
from llmdump.reading import from_records
from llmdump.reading.prices import PriceTable
from llmdump.record import Record
from llmdump.retention import Note, Notes
from llmdump.settings import Settings
from llmdump_api import filtering, find, found, healthz, ledger, openapi, params, query, search, sessions, sums, trace
from llmdump_api.body import Body
from llmdump_api.config import Config
from llmdump_api.diff import Diffs
from llmdump_api.exports import Exports
from llmdump_api.fleet import ROLES, Fleet
from llmdump_api.gate import Gate, Handler, answer, error, make_harmless
from llmdump_api.healthz import Retention
from llmdump_api.index import Index, IndexUnreadableError, Stored
from llmdump_api.live import Live
from llmdump_api.query import Condition
from llmdump_api.recorded import Exchanges
from llmdump_api.replay import Replays
from llmdump_api.views import Views
from llmdump_api.watching import Watching

KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
"""An exchange of at most so many bytes is read once, and held; a larger one is read twice."""
_TS_START: Final = query.COLUMNS.index("ts_start")


class Api:
    """The handlers and what they ask."""

    def __init__(
        self, data: DataDir, own: Presence, index: Index, fleet: Fleet, gate: Gate, settings: Settings, table: PriceTable
    ) -> None:
        self._data = data
        self._settings = settings
        self._pin_room = Room(settings.pinned_max_bytes, settings.capture_min_free_bytes)
        self._own = own
        self._index = index
        self._fleet = fleet
        self._gate = gate
        self._notes = Notes(data.segments)
        self._notes_lock = threading.Lock()
        self._table = table
        self._live = Live(data.segments, index)
        self._statements: list[Statement] = []  # as of the last scrape
        self._page = Page(lambda: [*process_samples(own.card.role, own.card.version), *self._samples()])

    def application(self) -> web.Application:
        """The aiohttp application."""

        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._gate.through(request, handler)

        app = web.Application(middlewares=[gate])
        app.on_response_prepare.append(make_harmless)
        app.router.add_get("/", self.root)
        app.router.add_get("/healthz", self.healthz)
        app.router.add_get("/readyz", self.readyz)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/openapi.json", self.openapi)
        app.router.add_get("/api/ledger", self.ledger)
        app.router.add_get("/api/facets", self.facets)
        app.router.add_get("/api/stats", self.stats)
        app.router.add_get("/api/sessions", self.sessions)
        app.router.add_get("/api/sessions/{id}", self.session)
        app.router.add_get("/api/traces", self.traces)
        app.router.add_get("/api/traces/{id}", self.trace)
        app.router.add_get("/api/traces/{id}/request", partial(self.body, side="request"))
        app.router.add_get("/api/traces/{id}/response", partial(self.body, side="response"))
        app.router.add_put("/api/traces/{id}/pin", self.pin)
        app.router.add_delete("/api/traces/{id}/pin", self.unpin)
        exchanges = Exchanges(self._data, self._index, self._row, self._gone)
        views = Views(exchanges, self._own.card.version)
        app.router.add_get("/api/traces/{id}/replay", Replays(exchanges).replay, allow_head=False)
        app.router.add_get("/api/traces/{id}/chunks", views.chunks, allow_head=False)
        app.router.add_get("/api/traces/{id}/har", views.har)
        app.router.add_get("/api/traces/{id}/curl", views.curl)
        app.router.add_get("/api/diff", Diffs(exchanges, self._index, self._table).diff)
        app.router.add_get("/api/live", Watching(self._live).live, allow_head=False)
        app.on_shutdown.append(self._live.close)
        config = Config(self._data, self._settings, exchanges)
        app.router.add_get("/api/media/{id}/{n}", config.medium)
        app.router.add_get("/api/config/media", config.media)
        app.router.add_get("/api/config/plugins", config.plugins)
        app.router.add_get("/api/config/retention", config.retention)
        app.router.add_put("/api/config/retention", config.change_retention)
        app.router.add_get("/api/plugins/types", config.plugin_types)
        app.router.add_get("/api/export", Exports(self._data).export, allow_head=False)
        return app

    async def root(self, _: web.Request) -> web.Response:
        """Where things are."""
        return answer(
            {
                "name": "llmdump",
                "version": self._own.card.version,
                "api": "/api/traces",
                "healthz": "/healthz",
                "readyz": "/readyz",
                "metrics": "/metrics",
                "openapi": "/openapi.json",
            }
        )

    async def openapi(self, _: web.Request) -> web.Response:
        """The description of all of this."""
        return answer(openapi.document(self._own.card.version))

    async def healthz(self, _: web.Request) -> web.Response:
        """This process answers; and the counters that api-log has there."""
        card = self._own.card
        try:
            counters = await self._index.ask(healthz.counters, healthz.unknown_counters())
        except IndexUnreadableError:
            counters = healthz.unknown_counters()
        by_writer = await self._index.run(partial(healthz.stored_bytes, self._data.segments))
        retention = Retention.of(self._settings, await self._index.run(partial(overrides.load, self._data.overrides)))
        writes = any(living.role == "writer" for living in await self._index.run(self._fleet.living))
        counters |= {"total_bytes": sum(by_writer.values())}
        told = {
            **healthz.uptime(card.started_at), "counters": counters, "viewer": {"enabled": False, "source": "disabled"},
            "storage": healthz.storage(by_writer, retention, writes=writes),
        }  # fmt: skip
        return answer({"status": "ok", **msgspec.to_builtins(card), **told})

    async def readyz(self, _: web.Request) -> web.Response:
        """All four roles work, or which do not."""
        ready, details = await self._fleet.readiness()
        return answer(details, 200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        """Metrics of this process and, without `scope=own`, of all others."""
        try:
            self._statements, _ = await self._judged()
        except IndexUnreadableError:
            count_swallowed("ledger_not_read")
            self._statements = []
        page = self._page.render()
        if request.query.get("scope") != "own":
            page = await self._fleet.metrics(page)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE})

    async def ledger(self, _: web.Request) -> web.Response:
        """The certificate, as the index has it."""
        return answer(ledger.answer(*await self._judged()))

    async def _judged(self) -> tuple[list[Statement], dict[str, Ledger]]:
        cards = await self._index.run(self._fleet.living)
        spilled = await self._index.run(self._data.spilled)
        ledgers, segments = await self._index.ledgers()
        return ledger.statements(ledgers, segments, cards, await self._index.run(self._deleted), spilled), ledgers

    def _deleted(self) -> list[Note]:
        """What retention has deleted, as far as that can be read. Blocking."""
        with self._notes_lock:
            try:
                self._notes.read()
                return self._notes.deleted()
            except OSError:
                count_swallowed("deletion_notes_not_read")
                return []

    async def traces(self, request: web.Request) -> web.Response:
        """A page of rows, newest first; with `q`, of those in which the words are."""
        asked = query.parse(request.query)
        asked.conditions.extend(_conditions(request))
        if asked.words is None:
            page = await self._index.ask(lambda db: find.page(db, asked), find.Found([], None))
            return answer(query.page([query.row_object(row) for row in page.rows], page.next_cursor))
        match = search.expression(asked.words)
        hits = await self._index.ask(lambda db: search.page(db, asked, match), search.Hits([], None))
        return answer(query.page([search.shown(hit) for hit in hits.hits], hits.next_cursor))

    async def facets(self, request: web.Request) -> web.Response:
        """The values that there are to filter by, with their sums."""
        asked, conditions = sums.facets(request.query), _conditions(request)
        if conditions:
            return answer(await self._index.ask(lambda db: found.facet_answer(db, asked, conditions), sums.no_facets(asked)))
        return answer(await self._index.ask(lambda db: sums.facet_answer(db, asked), sums.no_facets(asked)))

    async def stats(self, request: web.Request) -> web.Response:
        """Time series."""
        asked, conditions = sums.series(request.query, int(time.time())), _conditions(request)
        if conditions:
            return answer(await self._index.ask(lambda db: found.series_answer(db, asked, conditions), sums.no_series(asked)))
        return answer(await self._index.ask(lambda db: sums.series_answer(db, asked), sums.no_series(asked)))

    async def sessions(self, request: web.Request) -> web.Response:
        """A page of sessions, the last that went on first."""
        asked, conditions = sessions.parse(request.query), _conditions(request)
        none: dict[str, Any] = {"sessions": [], "next_cursor": None}
        return answer(await self._index.ask(lambda db: sessions.page(db, asked, conditions), none))

    async def session(self, request: web.Request) -> web.Response:
        """One session as a tree."""
        root = params.uuid("id", request.match_info["id"])
        cursor, limit = sessions.parse_tree(request.query)
        tree = await self._index.ask(lambda db: sessions.tree(db, root, cursor, limit), None)
        return error(404, "not_found", "no session has this root") if tree is None else answer(tree)

    async def trace(self, request: web.Request) -> web.Response:
        """One exchange, put together."""
        row = await self._row(request)
        if row is None:
            return _no_trace()
        shown = query.row_object(row)
        stored = await self._index.stored(shown["id"])
        built, told = await self._index.run(partial(self._build, shown, row[_TS_START], stored))
        return answer({"row": shown, "trace": built, **told})

    async def body(self, request: web.Request, side: str) -> web.StreamResponse:
        """The raw body of one side."""
        row = await self._row(request)
        if row is None:
            return _no_trace()
        exchange = str(row[0])
        stored = await self._index.stored(exchange)
        try:
            body, first = await self._index.run(partial(self._begin_body, exchange, stored, side))
        except FileNotFoundError:
            return await self._index.run(partial(self._gone, stored))
        except (OSError, ValueError) as err:
            return error(500, "segment_unreadable", str(err))
        return await self._stream(request, body, first, f"{exchange}.{side}")

    def _begin_body(self, exchange: str, stored: Stored, side: str) -> tuple[Body, bytes]:
        """A body and its first bytes, of the segments, else of the pinned copy. Blocking."""
        if stored.pieces and not self._gone_segments(stored):
            with contextlib.suppress(FileNotFoundError):
                body = Body((item.record for item in positions.read(self._data.segments, stored.pieces)), side)
                return body, body.batch()
        body = Body(pins.read(self._data, exchange), side)
        return body, body.batch()

    def _gone_segments(self, stored: Stored) -> list[str]:
        """Those that the index knows to be gone, and those that are. Blocking."""
        pieces = {piece.segment for piece in stored.pieces}
        return sorted({*stored.gone, *(one for one in pieces if not segment.is_there(self._data.segments, one))})

    def _gone(self, stored: Stored) -> web.Response:
        """Why there is no body. Blocking."""
        gone = self._gone_segments(stored)
        noted = {note.segment for note in self._deleted()}
        if gone and all(name.partition(".")[0] in noted for name in gone):
            return error(410, "deleted_by_retention", "a cap deleted the segment files that held this body", segments=gone)
        return error(410, "gone", "the segment files that held this body were deleted", segments=gone)

    async def pin(self, request: web.Request) -> web.Response:
        """Keep an exchange whatever retention deletes."""
        exchange = _exchange_id(request)
        try:
            made = await self._index.run(partial(pins.pin, self._data, exchange, self._pin_room))
        except apsw.Error as err:
            raise IndexUnreadableError(f"cannot read {self._data.index.name}: {err}") from err
        told = {"id": exchange, "pinned": True, "bytes": made.bytes, "records": made.records}
        return answer(told, 201 if made.new else 200)

    async def unpin(self, request: web.Request) -> web.Response:
        """And no longer."""
        exchange = _exchange_id(request)
        was_pinned = await self._index.run(partial(pins.unpin, self._data, exchange))
        return answer({"id": exchange, "pinned": False, "was_pinned": was_pinned})

    async def _stream(self, request: web.Request, body: Body, batch: bytes, name: str) -> web.StreamResponse:
        """Send a body on; if it cannot be read to its end, the connection is cut, so that nobody takes it for whole."""
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Disposition": f'attachment; filename="{name}"',
                "X-Llmdump-Content-Type": body.content_type,
            }
        )
        await response.prepare(request)
        try:
            while batch:
                await response.write(batch)
                batch = await self._index.run(body.batch)
        except (OSError, ValueError):
            if request.transport is not None:
                request.transport.abort()
            raise
        await response.write_eof()
        return response

    async def _row(self, request: web.Request) -> tuple[Any, ...] | None:
        rows = await self._index.rows(*query.sql_one(_exchange_id(request)))
        return rows[0] if rows else None

    def _build(self, row: dict[str, Any], ts_start_ms: int, stored: Stored) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """The trace, None where nothing of it is left, and what its bodies say. Blocking."""
        missing = list(stored.gone)
        records: Iterable[Record] = self._present(stored, missing)
        if is_kept := _size_bytes(stored) <= KEPT_BYTES_MAX:
            records = [*records]
        built = trace.build(row, ts_start_ms, records, missing) if stored.pieces else None
        if missing or not stored.pieces:
            with contextlib.suppress(FileNotFoundError):
                built = trace.build(row, ts_start_ms, pins.read(self._data, row["id"]), [])
                return built, self._told(row, stored, pins.read(self._data, row["id"]))
        if built is None:
            return None, {"reading": None, "normalised": None}
        return built, self._told(row, stored, records if is_kept else self._present(stored, []))

    def _told(self, row: dict[str, Any], stored: Stored, records: Iterable[Record]) -> dict[str, Any]:
        """What the bodies say. Blocking."""
        told = from_records.read(records, stored.started_us, ended=row["end_reason"] == "complete", table=self._table).reading
        reading = {**told.reading, "usage_raw": told.usage_raw, "reasoning_text": told.reasoning_text}
        return {"reading": reading, "normalised": told.normalised}

    def _present(self, stored: Stored, missing: list[str]) -> Iterator[Record]:
        """The records that can be read; segments that cannot are added to `missing`."""
        for piece in stored.pieces:
            try:
                for item in positions.read(self._data.segments, [piece]):
                    yield item.record
            except (OSError, ValueError):
                missing.append(piece.segment)

    def _samples(self) -> Iterator[Sample]:
        yield from self._gate.samples()
        yield from self._live.samples()
        yield from ledger.samples(self._statements)
        roles = [card.role for card in self._fleet.living()]
        yield from (Sample("llmdump_api_processes", roles.count(role), (role,)) for role in ROLES)


def _size_bytes(stored: Stored) -> int:
    return sum(size for piece in stored.pieces for _, size in positions.unpack(piece.runs))


def _conditions(request: web.Request) -> list[Condition]:
    """What the filter asks for; nothing without one. Raises BadParamError."""
    text = request.query.get("filter")
    return [] if text is None else filtering.conditions(text, round(time.time() * 1000))


def _no_trace() -> web.Response:
    return error(404, "not_found", "no exchange has this id")


def _exchange_id(request: web.Request) -> str:
    return params.uuid("id", request.match_info["id"])
