"""The views of `llmdump inspect` as lines of text. Pure; nothing in a line can command a terminal.

Lines have marks for colours (`ERROR`, `WARNING` …) only through `paint`, which whoever prints them gives in.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from llmdump.captures.entry import Entry, as_text, escaped, expanded, short_of, text
from llmdump.captures.v2 import Header
from llmdump.inspecting.issues import Issue
from llmdump.inspecting.pairing import Paired
from llmdump.inspecting.sums import Found, Summary

RULE: Final = "=" * 70
PREVIEW_LINES_MAX: Final = 5
SLOW_S: Final = 10.0
NOTICED_S: Final = 1.0
_ID_CHARS: Final = 8
_SESSION_CHARS: Final = 16
_NOT_VERBOSE: Final = frozenset({"be", "sid", "asid", "bsid", "bseq"})

Paint = Callable[[str, str], str]
"""A text in the colour of a role: error, warning, good, dim, head."""


def summary(headers: list[Header], files: int, sums: Summary, *, filtered: bool) -> Iterator[str]:
    """What there is in all."""
    told = sums.told()
    yield RULE
    yield "WIRE CAPTURE SUMMARY"
    yield RULE
    if files > 1:
        yield f"Files: {files}"
    if headers:
        names = escaped(headers[0].session_id) + (f" … {escaped(headers[-1].session_id)}" if len(headers) > 1 else "")
        yield f"Session ID: {names}"
        yield f"Created At: {headers[0].created_at}"
    if len(headers) > 1:
        yield f"Segments: {len(headers)}"
    yield f"Total Entries: {sums.entries}" + (f", {sums.passed} of them pass the filters" if filtered else "")
    yield "Direction Counts:"
    yield from (f"  {name}: {count}" for name, count in told["directions"].items())
    yield f"Total Bytes: {told['total_bytes']:,}"
    if told["duration_s"] is not None:
        yield f"Duration: {told['duration_s']:.2f}s"


def section(title: str) -> Iterator[str]:
    """A heading."""
    yield ""
    yield RULE
    yield title
    yield RULE


def backends(counts: list[tuple[str, int]]) -> Iterator[str]:
    """Names with counts."""
    yield "Backends:"
    yield from (f"  {escaped(name)}: {count}" for name, count in counts)


def statuses(told: dict[str, Any]) -> Iterator[str]:
    """Statuses of exchanges, then each backend's share of 429."""
    yield from section("HTTP STATUS SUMMARY (by exchange)")
    for one in told["statuses"]:
        yield f"  {one['status']}: {one['count']} ({one['percent']:.1f}%)"
    if told["backends"]:
        yield "By backend:"
    for one in told["backends"]:
        yield f"  {escaped(one['backend'])}: 429 {one['limited']}/{one['answers']} ({one['percent']:.1f}%)"


def gap(gap_s: float | None) -> str:
    """The time since the line before."""
    if gap_s is None:
        return ""
    if gap_s > SLOW_S:
        return f"!!! +{gap_s:.1f}s SLOW !!!"
    return f" (+{gap_s:.1f}s)" if gap_s > NOTICED_S else f" (+{gap_s * 1000:.0f}ms)"


def size(count: int) -> str:
    """Bytes in few characters."""
    return f"{count / 1024:.1f}KB" if count > 1024 else f"{count}B"


def timeline(paired: Paired, gap_s: float | None, where: str, paint: Paint) -> str:
    """A line of the timeline."""
    entry = paired.entry
    ids = [
        f"{name}={escaped(value[:_ID_CHARS])}"
        for name, value in (("a", entry.session), ("b", text(entry.meta.get("bsid"))))
        if value
    ]
    parts = [
        f"[{where}{entry.seq}]",
        short_of(entry.direction),
        _clock(entry.ts),
        _painted_gap(gap_s, paint),
        size(len(entry.data)),
    ]
    parts += [f"be={escaped(paired.backend)}"] if paired.backend else []
    return "  ".join([*parts, *ids])


def _painted_gap(gap_s: float | None, paint: Paint) -> str:
    shown = gap(gap_s)
    return paint(shown, "error") if gap_s is not None and gap_s > SLOW_S else shown


def _clock(ts: float) -> str:
    millis = round(ts * 1000)
    return f"{_local(millis // 1000, '%H:%M:%S')}.{millis % 1000:03d}"


def _local(seconds: float, form: str) -> str:
    try:
        return time.strftime(form, time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds}"


def moment(ts: float) -> str:
    """A time of an entry, in local time."""
    micros = round(ts * 1e6)
    return f"{_local(micros // 1_000_000, '%Y-%m-%d %H:%M:%S')}.{micros % 1_000_000:06d}"


def issues(found: Found, files: int, paint: Paint) -> Iterator[str]:
    """What went wrong, by kind."""
    yield from section("DETECTED ISSUES")
    if not found.counts:
        yield paint("No issues detected!", "good")
    for kind, count, kept in found.kinds():
        yield f"{kind.upper()} ({count} occurrences):"
        yield from (_issue(issue, files, paint) for issue in kept)
        if count > len(kept):
            yield f"  … and {count - len(kept)} more"
    yield from notes(found)


def notes(found: Found) -> Iterator[str]:
    """What is worth a word and no issue."""
    if found.retries:
        yield f"Note: {_count(found.retries, 'retry', 'retries')}"
    if found.unfinished:
        yield f"Note: {_count(found.unfinished, 'exchange', 'exchanges')} had not ended where the files end"


def _count(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def _issue(issue: Issue, files: int, paint: Paint) -> str:
    mark = paint("[!!!]", "error") if issue.severity == "error" else paint("[ ! ]", "warning")
    where = f"{issue.at.file}: " if files > 1 or issue.at.seq < 0 else ""
    place = f"Entry [{issue.at.seq}]: " if issue.at.seq >= 0 else ""
    return f"  {mark} {escaped(where)}{place}{escaped(issue.text)}"


def conversations(told: list[dict[str, Any]], left_out: int) -> Iterator[str]:
    """Sessions, a line each."""
    yield from section(f"SESSIONS ({len(told)})")
    for one in told:
        yield (
            f"  {_session(one['session'])}  backend={escaped(one['backend']) or '-'}  {one['entries']} entries  "
            f"{one['duration_s']:.2f}s  [{one['first']}]-[{one['last']}]"
        )
    if left_out:
        yield f"  … and {left_out:,} exchanges of further sessions"


def _session(name: str) -> str:
    return "(none)" if not name else escaped(name if len(name) <= _SESSION_CHARS else name[:_SESSION_CHARS] + "...")


def pairs(counts: list[tuple[tuple[str, str], int]]) -> Iterator[str]:
    """Pairs of session ids."""
    yield from section(f"B2BUA PAIRS ({len(counts)})")
    yield from (f"  ({escaped(a)}, {escaped(b)}): {count} entries" for (a, b), count in counts)


def steps(number: int, told: list[dict[str, Any]], paint: Paint) -> Iterator[str]:
    """One request through the proxy."""
    yield from section(f"REQUEST {number}")
    if not told:
        yield f"Request {number} not found"
    for one in told:
        slow = " " + paint("!!! SLOW !!!", "error") if one["slow"] else ""
        yield f"[{short_of(one['direction'])}] [{one['seq']}] {escaped(one['what'])} (t={one['t_s']:.3f}s){slow}"


def stream(number: int, told: dict[str, Any]) -> Iterator[str]:
    """How one stream came."""
    yield ""
    yield f"--- STREAM #{number} (entry [{told['entry']}], backend {escaped(told['backend']) or '-'}) ---"
    if not told["chunks"]:
        yield "No backend response chunks"
        return
    yield f"TTFT: {_seconds(told['ttft_s'])}"
    yield f"Total duration: {_seconds(told['duration_s'])}"
    yield f"Chunks: {told['chunks']}, {told['bytes']:,} bytes"
    if told["average_s"] is not None:
        yield f"Average inter-chunk time: {told['average_s']:.3f}s"
    if told["slow_chunks"]:
        yield f"Slow chunks (> 5 s): {', '.join('[{entry}] {gap_s:.1f}s'.format(**one) for one in told['slow_chunks'])}"


def _seconds(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}s"


def analysis(number: int, told: dict[str, Any], paint: Paint) -> Iterator[str]:
    """One request and what came of it."""
    yield ""
    yield f"--- REQUEST #{number} ---"
    yield f"Model: {escaped(told['model']) if told['model'] else 'could not parse'}"
    if told["backends"]:
        yield f"Timing: TTFT={_seconds(told['ttft_s'])}, Duration={_seconds(told['duration_s'])}"
    models = [f"'{escaped(model)}'" for model in sorted(told["backend_models"])]
    yield f"Backend models: {{{', '.join(models)}}}" if models else "Backend models: N/A"
    yield f"Backend content: {_said(told['backend_content'])}"
    yield f"Client received: {_received(told)}"
    if told["retries"]:
        yield f"Retries: {told['retries']}"
    if told["issues"]:
        yield "ISSUES:"
    yield from (f"  {paint('[!]', 'warning')} {escaped(issue)}" for issue in told["issues"])


def _said(told: dict[str, Any] | None) -> str:
    calls = told["tool_calls"] if told else []
    names = f" ({', '.join(escaped(name) for name in dict.fromkeys(calls))})" if calls else ""
    return f"{told['chars'] if told else 0} chars" + (f", {len(calls)} tool_calls{names}" if calls else "")


def _received(told: dict[str, Any]) -> str:
    client = told["client_content"]
    if client is None or not (client["chars"] or client["tool_calls"] or client["finish_reason"]):
        sizes = told["client_chunk_sizes"]
        if not sizes or (client is not None and client["done"]):
            return "(no data, only [DONE])" if client is not None and client["done"] else "(no data)"
    calls = f", {len(client['tool_calls'])} tool_calls" if client and client["tool_calls"] else ""
    reason = f", {escaped(str(client['finish_reason']))}" if client and client["finish_reason"] else ""
    return f"{client['chars'] if client else 0} chars{calls}{reason} {told['client_chunk_sizes']}"


def entry_lines(paired: Paired, where: str, *, verbose: bool, as_hex: bool, bytes_max: int, paint: Paint) -> Iterator[str]:
    """One entry: what it is, and its bytes."""
    entry = paired.entry
    yield paint(_entry_line(paired, where), "head")
    if verbose:
        yield from _verbose(entry)
    data = entry.data[: max(0, bytes_max)]
    yield from (f"    {line}" for line in (hexdump(data) if as_hex else _preview(data)))
    if len(entry.data) > len(data):
        yield paint(f"    … {len(entry.data) - len(data):,} more bytes", "dim")


def _entry_line(paired: Paired, where: str) -> str:
    entry = paired.entry
    meta = entry.meta
    flags = [
        name
        for name, is_set in (("stream_start", meta.get("ss")), ("stream_end", meta.get("se")), ("eos", meta.get("eos")))
        if is_set is True
    ]
    ids = [f"a={escaped(entry.session[:_ID_CHARS])}"] if entry.session else []
    ids += [f"b={escaped(text(meta.get('bsid'))[:_ID_CHARS])}"] if text(meta.get("bsid")) else []
    parts = [f"[{where}{entry.seq}] {short_of(entry.direction)}", f"{len(entry.data):,} bytes", f"ts={moment(entry.ts)}"]
    parts += [f"kind={entry.kind}"] if entry.kind else []
    parts += [f"backend={escaped(paired.backend)}"] if paired.backend else []
    parts += [f"session={','.join(ids)}"] if ids else []
    parts += [",".join(flags)] if flags else []
    parts += [f"FLAGGED: {escaped(entry.flag)}"] if entry.flag else []
    return " | ".join(parts)


def _verbose(entry: Entry) -> Iterator[str]:
    shown = {key: value for key, value in entry.meta.items() if key not in _NOT_VERBOSE}
    for key, value in expanded(shown).items():
        if isinstance(value, dict):
            yield f"    {escaped(key)}:"
            yield from (f"      {escaped(str(name))}: {escaped(str(inner))}" for name, inner in value.items())
        else:
            yield f"    {escaped(key)}: {escaped(str(value))}"


def _preview(data: bytes) -> list[str]:
    lines = as_text(data).removesuffix("\n").split("\n") if data else []
    return lines if len(lines) <= PREVIEW_LINES_MAX else [*lines[:PREVIEW_LINES_MAX], "…"]


def hexdump(data: bytes, offset: int = 0) -> Iterator[str]:
    """16 bytes a line: offset, bytes, what of it can be printed."""
    for at in range(0, len(data), 16):
        row = data[at : at + 16]
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        yield f"{offset + at:04x}  {row.hex(' '):<47}  |{shown}|"
