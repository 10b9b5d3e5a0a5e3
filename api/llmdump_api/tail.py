"""`llmdump tail`: the live tail on a terminal, or as lines of JSON.

It follows the segment files itself, by the same code as the api (`live`), so it needs no token and no process but a writer.
"""

import asyncio
import base64
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import click
import orjson
import uvloop

from llmdump import interrupt, presence, process
from llmdump.data_dir import DataDir
from llmdump_api import live_asked
from llmdump_api.index import Index, IndexUnreadableError
from llmdump_api.live import Live, LiveError
from llmdump_api.live_asked import Asked
from llmdump_api.live_viewer import Told
from llmdump_api.params import BadParamError
from llmdump_api.printed import printable

WAIT_FOR_ROW_S: Final = 2.0
"""How long the line of an exchange that has ended waits for its tokens and its cost."""


class Lines:
    """Events as lines for people."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour
        self._ended: dict[str, tuple[dict[str, Any], float]] = {}

    def of(self, told: Iterable[Told], now: float) -> list[str]:
        """The lines that these events make; `now` in s, of a clock that only rises."""
        lines = [line for event in told for line in self._line(event.kind, orjson.loads(event.data), now)]
        late = [id_ for id_, (_, until) in self._ended.items() if until < now]
        return lines + [self._over(self._ended.pop(id_)[0]) for id_ in late]

    def rest(self) -> list[str]:
        """Of those that still waited for their rows."""
        return [self._over(row) for row, _ in self._ended.values()]

    def _line(self, kind: str, data: dict[str, Any], now: float) -> list[str]:
        if kind == "end":
            self._ended[data["id"]] = data, now + WAIT_FOR_ROW_S
        if kind == "row" and data["id"] in self._ended:
            del self._ended[data["id"]]
            return [self._over(data)]
        if kind == "open" and "end_reason" not in data:
            return [self._style(f"{_clock(data['ts_start'])}  …   {_what(data)}  {data['id']}", dim=True)]
        if kind == "lost":
            return [self._style(f"-- missed {data['events']} events: {data['reason']}", fg="yellow")]
        return []

    def _over(self, row: dict[str, Any]) -> str:
        status = row.get("status")
        is_well = row.get("end_reason") == "complete" and (status or 0) < 400 and not row.get("error_type")
        head = self._style(f"{status or '-':<3}", fg="green" if is_well else "red")
        parts = [_what(row), *_figures(row), *([] if is_well else [self._style(_why(row), fg="red")])]
        return f"{_clock(row.get('ts_end') or row['ts_start'])}  {head} {'  '.join(parts)}  {self._style(row['id'], dim=True)}"

    def _style(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._colour else text


def _clock(when: str) -> str:
    """The local time of day."""
    return f"{datetime.fromisoformat(when).astimezone():%H:%M:%S.%f}"[:-3]


def _what(row: dict[str, Any]) -> str:
    parts = (f"{row.get('method') or '-'} {row.get('path') or '-'}", row.get("model"), row.get("client_kind"))
    return "  ".join(printable(part) for part in parts if part)


def _figures(row: dict[str, Any]) -> list[str]:
    parts = []
    if (took := row.get("duration_ms")) is not None:
        first = row.get("ttft_ms") or row.get("first_byte_ms")
        parts.append(f"{took / 1000:.2f} s" + (f", first {first / 1000:.2f} s" if first is not None else ""))
    if row.get("input_tokens") is not None or row.get("output_tokens") is not None:
        cached = f" ({row['cache_read_tokens']:,} cached)" if row.get("cache_read_tokens") else ""
        parts.append(f"{row.get('input_tokens') or 0:,}{cached} → {row.get('output_tokens') or 0:,} tokens")
    if row.get("cost_usd") is not None:
        parts.append(f"${row['cost_usd']:.4f}")
    return parts


def _why(row: dict[str, Any]) -> str:
    reason = row.get("end_reason")
    parts = (reason if reason != "complete" else "", row.get("error_type"), row.get("error_message"))
    return " ".join(printable(part)[:200] for part in parts if part)


def body_part(data: dict[str, Any], *, terminal: bool) -> bytes:
    """The bytes of a chunk; for a terminal without those that command it."""
    raw = data["text"].encode() if "text" in data else base64.b64decode(data["b64"])
    if not terminal:
        return raw
    return "\n".join(printable(line.rstrip("\r")) for line in raw.decode("utf-8", "replace").split("\n")).encode()


class Printer:
    """What is printed of a batch of events."""

    def __init__(self, *, wants_bytes: bool, wants_json: bool, terminal: bool, colour: bool) -> None:
        self._bytes = wants_bytes
        self._json = wants_json
        self._terminal = terminal
        self._lines = Lines(colour=colour)

    def of(self, told: list[Told], now: float) -> bytes:
        """The bytes to print now."""
        if self._json:
            return b"".join(b'{"event":"%b",%b\n' % (event.kind.encode(), event.data[1:]) for event in told)
        if self._bytes:
            chunks = (orjson.loads(event.data) for event in told if event.kind == "chunk")
            return b"".join(body_part(data, terminal=self._terminal) for data in chunks)
        return _joined(self._lines.of(told, now))

    def rest(self) -> bytes:
        """And at the end."""
        return b"" if self._json or self._bytes else _joined(self._lines.rest())


def _joined(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


async def follow(data: DataDir, asked: Asked, printer: Printer) -> bool:
    """Print until the exchange is over, or until SIGINT; False if there is no such exchange. Raises LiveError, OSError."""
    loop, index = asyncio.get_running_loop(), Index(data.index)
    live = Live(data.segments, index)
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: loop.create_task(live.close()))
    try:
        viewer = await live.join(asked)
        if viewer is None:
            return False
        async with contextlib.aclosing(live.batches(viewer, viewer.connect())) as batches:
            async for batch in batches:
                _print(printer.of(batch, time.monotonic()))
        _print(printer.rest())
        return True
    finally:
        await live.close()
        index.close()


def _print(text: bytes) -> None:
    if text:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


@click.command()
@click.argument("root")
@click.argument("exchange", required=False)
@click.option("--filter", "words")
@click.option("--bytes", "wants_bytes", is_flag=True)
@click.option("--json", "wants_json", is_flag=True)
@interrupt.quietly()
def main(root: str, exchange: str | None, words: str | None, wants_bytes: bool, wants_json: bool) -> None:
    """What `llmdump tail` becomes."""
    data = DataDir(Path(root))
    if not data.segments.is_dir():
        process.fail(f"nothing was recorded in {data.root}: start `honcho start` there, or give --data-dir")
    if wants_bytes and exchange is None:
        process.fail("--bytes is of one exchange: `llmdump tail` shows ids, `llmdump tail ID --bytes` its bytes", 2)
    if not presence.living(data.run, "writer"):
        click.echo(f"llmdump: no writer runs in {data.root}, so nothing new will come; start it: `llmdump-writer`", err=True)
    terminal = sys.stdout.isatty()
    colour = terminal and not os.environ.get("NO_COLOR")  # no-color.org: set to anything
    printer = Printer(wants_bytes=wants_bytes, wants_json=wants_json, terminal=terminal, colour=colour)
    chunks = "none" if not wants_bytes else "all" if wants_json else "response"
    given = {"filter": words, "id": exchange, "chunks": chunks}
    try:
        asked = live_asked.parse({name: value for name, value in given.items() if value is not None})
        if not uvloop.run(follow(data, asked, printer)):
            process.fail(f"no exchange has the id {exchange}: `llmdump tail` shows ids")
    except BadParamError as err:
        process.fail(
            f"{'--' if err.param == 'filter' else ''}{err.param}: {err.more.get('pointed', err)}", process.EXIT_SETTINGS
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (LiveError, IndexUnreadableError, OSError) as err:
        process.fail(f"cannot follow {data.root}: {err}; `llmdump status` says what runs")


if __name__ == "__main__":
    main()
