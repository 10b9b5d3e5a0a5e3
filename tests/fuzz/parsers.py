"""Every parser of strangers' bytes, fuzzed with atheris: no exception, and any split gives the same.

python tests/fuzz/parsers.py SECONDS            each parser in a process of its own
python tests/fuzz/parsers.py SECONDS NAME       one; an input that failed is left in the working directory
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

try:
    import atheris
except ModuleNotFoundError:
    sys.exit("atheris has no wheel for this machine or Python; on Linux: make clean fuzz PYTHON=python3.13")

with atheris.instrument_imports(include=["llmdump"]):
    from llmdump.content_coding import Decoder
    from llmdump.reading.canonical import decode
    from llmdump.reading.eventstream import EventStream
    from llmdump.reading.exchange import Event, Request
    from llmdump.reading.framing import Body
    from llmdump.reading.hints import hints_of
    from llmdump.reading.json_pieces import JsonPieces
    from llmdump.reading.multipart import Form
    from llmdump.reading.ndjson import Ndjson
    from llmdump.reading.project import project_of
    from llmdump.reading.reader import Reader
    from llmdump.reading.sessions import conversation
    from llmdump.reading.sse import Sse
    from llmdump.reading.websocket import WebSocketDirection

EVENT_BYTES_MAX: Final = 64
LABELS: Final = (
    "",
    "text/event-stream",
    "application/json",
    "application/x-ndjson",
    "application/vnd.amazon.eventstream",
    "text/plain",
)
CODINGS: Final = ((), ("gzip",), ("deflate",), ("br",), ("zstd",), ("gzip", "br"))
PATHS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1beta/models/g:generateContent",
    "/v1beta/interactions",
    "/model/m/converse",
    "/model/m/invoke-with-response-stream",
    "/v1/chat",
    "/v2/chat",
    "/api/chat",
    "/completion",
    "/v1/audio/transcriptions",
    "/unheard/of",
)


def of_events(parser: Callable[[], Any], start: bytes = b"") -> Callable[[list[bytes]], Any]:
    """Reads pieces with a new parser: its events and its problem. `start`: what it may count on."""

    def read(pieces: list[bytes]) -> Any:
        inner = parser()
        events = [event for piece in [start, *pieces] for event in inner.feed(piece, 1)]
        return events + inner.finish(1), inner.problem, getattr(inner, "framing", "")

    return read


def read_form(pieces: list[bytes]) -> Any:
    """The parts of a multipart form."""
    form = Form("multipart/form-data; boundary=b")
    for piece in pieces:
        form.feed(piece)
    return form.finish(), form.problem


def read_websocket(pieces: list[bytes]) -> Any:
    """The messages of one direction, with compression."""
    direction = WebSocketDirection(EVENT_BYTES_MAX, inflates=True)
    events = [event for piece in pieces for event in direction.feed(piece, 1)]
    direction.finish()
    return events, direction.problem, direction.close_code


def read_coded(pieces: list[bytes]) -> Any:
    """What a stack of codings decodes to; the first byte chooses it."""
    first, rest = (pieces[0][:1], [pieces[0][1:], *pieces[1:]]) if pieces[0] else (b"\0", pieces)
    decoder = Decoder(CODINGS[first[0] % len(CODINGS)], 10_000)
    # How much comes out at the limit may differ: brotli rounds up. So may the piece in which a limit is met.
    decoded = b"".join(decoder.feed(piece) for piece in rest)
    return (decoded[:10_000], decoder.problem) if decoder.problem != "limit" else "limit"


def read_request(pieces: list[bytes]) -> Any:
    """What is made of a request's JSON body: hints, project, history."""
    document = decode(b"".join(pieces))
    asked = conversation(None, document, hints_of([], document))
    return asked.keys, asked.candidates, project_of(document)


def read_answer(pieces: list[bytes]) -> Any:
    """The reading of an answer whose events are lines; the first byte chooses its API, the first line is the request."""
    data = b"".join(pieces)
    request, *events = data[1:].split(b"\n")
    path = PATHS[(data[:1] or b"\0")[0] % len(PATHS)]
    reader = Reader(Request("POST", path, body=request), 200, [])
    for event in events:
        reader.event(Event(event))
    return reader.finish(True, "sse")


PARSERS: Final[dict[str, Callable[[list[bytes]], Any]]] = {
    "sse": of_events(lambda: Sse(EVENT_BYTES_MAX)),
    "ndjson": of_events(lambda: Ndjson(EVENT_BYTES_MAX)),
    "json_pieces": of_events(lambda: JsonPieces(EVENT_BYTES_MAX), b"["),
    "eventstream": of_events(lambda: EventStream(EVENT_BYTES_MAX)),
    "multipart": read_form,
    "websocket": read_websocket,
    "content_coding": read_coded,
    "request": read_request,
    "reading": read_answer,
    **{
        f"body-{at}": of_events(lambda label=label: Body(label, event_bytes_max=EVENT_BYTES_MAX))
        for at, label in enumerate(LABELS)
    },
}


def fuzz(name: str, seconds: str) -> None:
    """Never returns: libFuzzer ends the process."""
    read = PARSERS[name]

    def once(data: bytes) -> None:
        cut, body = (data[0] + 1 if data else 1), data[1:]
        # The first piece is never empty, for a parser may be chosen by its first byte.
        cuts = [body[at : at + cut] for at in range(0, len(body), cut)] or [b""]
        assert read([body]) == read(cuts), (name, cut, body)

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=2000", "-verbosity=0"], once)
    atheris.Fuzz()


def main() -> int:
    """0 if no parser failed."""
    seconds, *names = sys.argv[1:]
    if names:
        fuzz(names[0], seconds)
    failed = [name for name in PARSERS if subprocess.run([sys.executable, __file__, seconds, name], check=False).returncode]
    print(f"{len(PARSERS)} parsers fuzzed for {seconds} s each; failed: {', '.join(failed) or 'none'}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
