"""Exports of text: traces a line each, our wire lines, a HAR log. Each is a generator of bytes, an exchange at a time.

    jsonl        the `trace` of /api/traces/{id}, newest first; last {"llmdump_export": {exchanges, gone, next_cursor}}
    wire-jsonl   a JSONL segment (see `llmdump.jsonl`), oldest first, with records under the numbers that they have; the
                 last line is its `segment_end`, with `x_next_cursor`
    har          {"log": {version, creator, entries: [ … newest first … ], "_export": {exchanges, gone, next_cursor}}}

What ends without its last line is not all of it.
"""

import time
from collections.abc import Iterator

import orjson

from llmdump import footer
from llmdump.lines import Converter
from llmdump.record import NO_EXCHANGE, PROXY_TO_CLIENT, Record
from llmdump.version import __version__
from llmdump_api import har, trace
from llmdump_api.export.selection import Exchange, Selection


def traces(selection: Selection) -> Iterator[bytes]:
    """Lines of the form `jsonl`. Raises what reading the selection raises."""
    for exchange in selection.newest_first():
        yield trace_line(exchange)
    yield orjson.dumps({"llmdump_export": selection.told.shown()}, option=orjson.OPT_APPEND_NEWLINE)


def trace_line(exchange: Exchange) -> bytes:
    """The line of one exchange. Raises OSError, ValueError."""
    built = trace.build(exchange.row, exchange.ts_start_ms, exchange.records(), [])
    return orjson.dumps(built, option=orjson.OPT_APPEND_NEWLINE)


def wire(selection: Selection) -> Iterator[bytes]:
    """Lines of the form `wire-jsonl`. Raises what reading the selection raises."""
    converter, count, spans = Converter(), 0, footer.Spans()
    yield converter.begin_file(time.time(), {"x_export": True})
    for exchange in selection.oldest_first():
        for one in exchange.records():
            count += 1
            first, last, of_it = spans.get(one.instance, (one.number, one.number, 0))
            spans[one.instance] = min(first, one.number), max(last, one.number), of_it + 1
            yield from converter.lines(one)
        converter.forget([exchange.row["id"]])
    told = selection.told.shown()
    meta = {"x_records": count, "x_instances": {name: list(span) for name, span in spans.items()}}
    meta |= {f"x_{name}": value for name, value in told.items()}
    yield from converter.lines(Record(time.time(), PROXY_TO_CLIENT, 0, "0" * 16, NO_EXCHANGE, footer.KIND, b"", meta))


def har_log(selection: Selection) -> Iterator[bytes]:
    """A log of the form `har`. Raises what reading the selection raises."""
    yield b'{"log":{"version":"1.2","creator":%b,"entries":[' % orjson.dumps(har.creator(__version__))
    between = b"\n"
    for exchange in selection.newest_first():
        yield between + orjson.dumps(har.entry(exchange.row, exchange.records()))
        between = b",\n"
    yield b'\n],"_export":%b}}\n' % orjson.dumps(selection.told.shown())
