"""The simulated backend's server: OpenAI, Anthropic, Gemini and Ollama by path, WebSocket echoes, and /sim/….

The answers are made in the providers' modules; this one reads requests and writes replies at a pace. The pace and the
number of text pieces can be set by each request, as a header or a query parameter:

    x-sim-gap-ms    pause before each part of a stream but the first, milliseconds (default 20)
    x-sim-pieces    pieces of text to stream (default one a word)
    x-sim-tag       up to 24 hex digits from which all ids and times in the answer follow, so that a request asked twice is
                    answered with the same bytes (default random ids, and the time)

`serving` is for tests and the demo; `python -m llmdump.demo.backend --listen 127.0.0.1:7869` runs it alone.
"""

import asyncio
import contextlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import click
from aiohttp import WSMsgType, web

from llmdump import address
from llmdump.demo import anthropic, gemini, ollama, openai, sim
from llmdump.demo.reply import Ask, RefusedError, Reply, compact, pieces

LISTEN: Final = "127.0.0.1:7869"
"""Where the default route `/demo/*` leads."""
GAP_MS: Final = 20.0
GAP_MS_MAX: Final = 60_000.0
TAGGED_AT: Final = 1_767_225_600
"""The time that a tagged answer bears: 2026-01-01."""
_TAG: Final = re.compile("[0-9a-f]{1,24}")
BODY_BYTES_MAX: Final = 256 * 1024 * 1024
# google-genai says v1 or v1beta, by its release and its user's wish.
_GEMINI: Final = "/{version:v1|v1beta|v1alpha}/models/{model}"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application() -> web.Application:
    """The backend as an aiohttp application."""
    app = web.Application(client_max_size=BODY_BYTES_MAX)
    app.add_routes(
        [
            web.post("/v1/chat/completions", _answering(openai.chat)),
            web.post("/v1/responses", _answering(openai.responses)),
            web.post("/v1/embeddings", _answering(openai.embeddings)),
            web.get("/v1/models", _answering(openai.models)),
            web.get("/v1/models/{model}", _answering(openai.model)),
            web.post("/v1/messages", _answering(anthropic.messages)),
            web.post("/v1/messages/count_tokens", _answering(anthropic.count_tokens)),
            web.post(f"{_GEMINI}:generateContent", _answering(gemini.generate)),
            web.post(f"{_GEMINI}:streamGenerateContent", _gemini_stream),
            web.post(f"{_GEMINI}:countTokens", _answering(gemini.count_tokens)),
            web.post("/api/chat", _answering(ollama.chat)),
            web.post("/api/generate", _answering(ollama.generate)),
            web.get("/api/tags", _answering(ollama.tags)),
            web.get("/ws/echo", _websocket_echo),
            web.get("/v1/realtime", _realtime),
            *sim.ROUTES,
        ]
    )
    return app


@contextlib.asynccontextmanager
async def serving(listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    """The backend running in this loop; gives its base URL, `http://127.0.0.1:port`. Raises OSError."""
    sock = address.listen(listen)
    # Bodies are taken as they come: a Content-Encoding is the client's affair, and /sim/echo tells the bytes it got.
    runner = web.AppRunner(application(), access_log=None, handle_signals=False, shutdown_timeout=0.5, auto_decompress=False)
    await runner.setup()
    try:
        await web.SockSite(runner, sock).start()
        yield f"http://{address.bound(sock)}"
    finally:
        await runner.cleanup()


async def run(listen: str = LISTEN) -> None:
    """Serve until cancelled. Raises OSError."""
    async with serving(listen) as url:
        click.echo(f"simulated backend: {url}", err=True)
        await asyncio.Event().wait()


def _answering(answer: Callable[[Ask], Reply]) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await _write(request, answer(await _ask(request)))
        except RefusedError as err:
            error = {"message": str(err), "type": "invalid_request_error", "param": None, "code": None}
            return web.Response(status=400, body=compact({"type": "error", "error": error}), content_type="application/json")

    return handle


async def _ask(request: web.Request) -> Ask:
    body: Any = {}
    if request.method == "POST":
        try:
            body = json.loads(await request.read())
        except ValueError as err:
            raise RefusedError(f"the body is not JSON: {err}") from err
    if not isinstance(body, dict):
        raise RefusedError("the body is not a JSON object")
    wanted, tag = _given(request, "x-sim-pieces"), _given(request, "x-sim-tag")
    return Ask(
        body=body,
        tag=secrets.token_hex(12) if tag is None else _tag(tag),
        now=int(time.time()) if tag is None else TAGGED_AT,
        model=request.match_info.get("model", ""),
        pieces=int(wanted) if wanted is not None and wanted.isdecimal() else None,
    )


def _tag(text: str) -> str:
    if not _TAG.fullmatch(text):
        raise RefusedError("x-sim-tag is 1 to 24 hex digits, lower case")
    return text.zfill(24)


def _given(request: web.Request, name: str) -> str | None:
    return request.headers.get(name, request.query.get(name))


def _gap_ms(request: web.Request) -> float:
    try:
        return min(max(float(_given(request, "x-sim-gap-ms") or GAP_MS), 0.0), GAP_MS_MAX)
    except ValueError as err:
        raise RefusedError("x-sim-gap-ms is a number of milliseconds") from err


async def _write(request: web.Request, reply: Reply) -> web.StreamResponse:
    gap_ms = _gap_ms(request)
    headers = {"Content-Type": reply.content_type, **dict(reply.headers)}
    if not reply.streamed:
        return web.Response(status=reply.status, body=reply.parts[0], headers=headers)
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.enable_chunked_encoding()
    await response.prepare(request)
    for at, part in enumerate(reply.parts):
        await sim.pause(gap_ms if at else 0)
        await response.write(part)
    await response.write_eof()
    return response


async def _gemini_stream(request: web.Request) -> web.StreamResponse:
    as_sse = request.query.get("alt") == "sse"
    return await _answering(gemini.stream_sse if as_sse else gemini.stream_array)(request)


async def _websocket_echo(request: web.Request) -> web.StreamResponse:
    """Each text or binary message comes back as it was."""
    socket = web.WebSocketResponse(max_msg_size=BODY_BYTES_MAX)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def _realtime(request: web.Request) -> web.StreamResponse:
    """A session in outline: `session.created`, and for each `response.create` a short text answer."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    model = request.query.get("model", openai.MODELS[0])
    await socket.send_json({"type": "session.created", "event_id": "event_1", "session": {"model": model}})
    async for message in socket:
        if message.type is WSMsgType.TEXT and _event_type(message.data) == "response.create":
            await _realtime_answer(socket, _gap_ms(request))
    return socket


def _event_type(text: str) -> str:
    try:
        event = json.loads(text)
    except ValueError:
        return ""
    return str(event.get("type", "")) if isinstance(event, dict) else ""


async def _realtime_answer(socket: web.WebSocketResponse, gap_ms: float) -> None:
    await socket.send_json({"type": "response.created", "response": {"status": "in_progress"}})
    for word in pieces(Ask({}, "", 0), ""):
        await sim.pause(gap_ms)
        await socket.send_json({"type": "response.output_text.delta", "delta": word})
    await socket.send_json({"type": "response.done", "response": {"status": "completed"}})


@click.command()
@click.option("--listen", default=LISTEN, show_default=True, help="host:port; port 0 takes a free one.")
def main(listen: str) -> None:
    """Run a simulated LLM backend: OpenAI, Anthropic, Gemini, Ollama, WebSocket echo."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(listen))


if __name__ == "__main__":
    main()
