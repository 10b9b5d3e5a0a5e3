"""The four legs of an exchange that `llmdump export --format cbor` wrote, as the records they were made of. Pure.

What the legs have twice (the request body on its way on, the answer on its way to the client) is taken once. What was not
exported is not there again: transfer framing (`x_f`), the compression of WebSocket frames.
"""

import uuid
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

from llmdump import heads
from llmdump.captures.entry import Entry
from llmdump.importing import parts
from llmdump.importing.parts import Made, Part, UnusableError
from llmdump.record import BACKEND_TO_PROXY, CLIENT_TO_PROXY, PROXY_TO_BACKEND, PROXY_TO_CLIENT

ASKED: Final = ("x_peer", "x_key", "x_rule", "x_bad", "x_client")
"""What a request head says beside its bytes."""


def exchange(where: str, entries: Sequence[Entry]) -> Made:
    """The exchange. Raises UnusableError, and KeyError, TypeError, ValueError for what was never ours."""
    legs = {way: [entry for entry in entries if entry.direction == way] for way in range(4)}
    asked = next((entry for entry in legs[CLIENT_TO_PROXY] if "x_head" in entry.meta), None)
    if asked is None:
        raise UnusableError("its request is not there")
    common = {key: value for key, value in (("sid", asked.meta.get("x_sid")), ("be", asked.meta.get("x_be"))) if value}
    made = [Part(asked.ts, CLIENT_TO_PROXY, "head", asked.meta["x_head"], _given(asked, *ASKED))]
    made += _body(asked, asked.data, CLIENT_TO_PROXY)
    for sent in (entry for entry in legs[PROXY_TO_BACKEND] if "x_head_bytes" in entry.meta):
        head = sent.data[: sent.meta["x_head_bytes"]]
        made.append(Part(sent.ts, PROXY_TO_BACKEND, "forward", head, _given(sent, "x_up", "x_addr", "x_dial", "x_new")))
    made += _answer(legs)
    made += _frames(entries, made)
    made += [_end(entry) for entry in legs[PROXY_TO_CLIENT] if "x_end" in entry.meta]
    return Made(where, str(uuid.UUID(asked.meta["rid"])), common, made)


def _given(entry: Entry, *names: str) -> dict[str, Any]:
    return {name: entry.meta[name] for name in names if name in entry.meta}


def _answer(legs: dict[int, list[Entry]]) -> Iterator[Part]:
    for entry in legs[PROXY_TO_CLIENT]:
        if "x_head" in entry.meta:
            yield Part(entry.ts, PROXY_TO_CLIENT, "answer", entry.meta["x_head"] + entry.data, {"sc": entry.meta["sc"]})
    chunks = []
    for entry in legs[BACKEND_TO_PROXY]:
        meta = entry.meta
        for at, head in meta.get("x_interim") or ():
            yield Part(at, BACKEND_TO_PROXY, "interim", head, {"sc": int(head.split(b" ")[1])})
        status = {"sc": meta.get("sc"), "ttfb": meta.get("x_ttfb")}
        if "x_head" in meta:
            yield Part(entry.ts, BACKEND_TO_PROXY, "head", meta["x_head"], status)
        elif "x_head_bytes" in meta:
            size = meta["x_head_bytes"]
            yield Part(entry.ts, BACKEND_TO_PROXY, "head", entry.data[:size], status)
            yield from _body(entry, entry.data[size:], BACKEND_TO_PROXY)
        elif "ci" in meta:
            chunks.append(Part(entry.ts, BACKEND_TO_PROXY, "chunk", entry.data, _chunk(meta["ci"], meta, meta.get("x_more"))))
    yield from chunks


def _chunk(index: int, meta: dict[str, Any], more: Any) -> dict[str, Any]:
    return {"ci": index, **({"x_z": True} if meta.get("x_whole") else {}), **(more or {})}


def _body(entry: Entry, data: bytes, direction: int) -> Iterator[Part]:
    """The reads of a body that stands in one entry."""
    meta, whole = entry.meta, bool(entry.meta.get("x_whole"))
    reads = meta.get("x_reads")
    if reads is None:
        yield from parts.body(direction, data, meta.get("x_from", entry.ts), whole=whole)
        return
    ends = [0]
    for read in reads:
        ends.append(ends[-1] + read[1])
    for index, (read, (begin, end)) in enumerate(zip(reads, pairwise(ends), strict=True), 1):
        more = read[2] if len(read) > 2 else {}
        last = {"x_whole": whole and index == len(reads)}
        yield Part(meta["x_from"] + read[0] / 1e6, direction, "chunk", data[begin:end], _chunk(index, last, more))


def _frames(entries: Sequence[Entry], made: list[Part]) -> Iterator[Part]:
    """What went through after an upgrade, on the side of the proxy where it came in."""
    frames = [entry for entry in entries if entry.meta.get("event") == "frame" and entry.direction in {0, 3}]
    if not frames:
        return
    answer = next((part for part in made if part.kind == "head" and part.direction == BACKEND_TO_PROXY), None)
    if answer is not None and heads.parse(answer.data).first("upgrade").lower() == "websocket":
        lines = answer.data.split(b"\r\n")
        plain = b"\r\n".join(line for line in lines if not line.lower().startswith(b"sec-websocket-extensions:"))
        made[made.index(answer)] = answer._replace(data=plain)
        yield from parts.frames(
            (entry.ts, entry.direction, entry.meta.get("ws_message_type") == "text", entry.data) for entry in frames
        )
        return
    counts = {CLIENT_TO_PROXY: 0, BACKEND_TO_PROXY: 0}
    for entry in frames:
        counts[entry.direction] += 1
        yield Part(entry.ts, entry.direction, "pipe", entry.data, {"ci": counts[entry.direction]})


def _end(entry: Entry) -> Part:
    sizes = {"se": True, "tc": entry.meta.get("x_tc"), "tb": entry.meta.get("x_tb"), "x_req": entry.meta.get("x_req")}
    why = {"x_end": entry.meta["x_end"], "x_err": entry.meta.get("x_err", ""), "x_lost": entry.meta.get("x_lost", 0)}
    return Part(entry.ts, PROXY_TO_CLIENT, "end", b"", {**sizes, **why, "x_own": entry.meta.get("x_own")})
