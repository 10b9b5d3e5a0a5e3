"""`llmdump stats` and `llmdump sessions` as lines. Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from llmdump_api.looking.screen import Column, bar, bars, chosen, count, dollars, fitted, line, moment, safe, span_ms

STATS: Final = (
    Column("", 24), Column("REQUESTS", 9, right=True), Column("ERRORS", 7, right=True, rank=2),
    Column("IN", 7, right=True, rank=4), Column("OUT", 7, right=True, rank=4), Column("COST", 9, right=True, rank=5),
    Column("TTFT p50", 9, right=True, rank=3),
    Column("p95", 7, right=True, rank=6), Column("p99", 7, right=True, rank=6), Column("TOOK p50", 9, right=True, rank=3),
    Column("p95", 7, right=True, rank=7), Column("p99", 7, right=True, rank=7), Column("TOK/S", 6, right=True, rank=4),
    Column("SHARE", 8),
)  # fmt: skip
SESSIONS: Final = (
    Column("LAST", 19), Column("SESSION", 12), Column("TURNS", 6, right=True), Column("MODELS", 30, rank=1),
    Column("CLIENT", 14, rank=3), Column("IN", 7, right=True, rank=4), Column("OUT", 7, right=True, rank=4),
    Column("COST", 9, right=True, rank=2), Column("ERRORS", 6, right=True, rank=5), Column("PROJECT", 10),
)  # fmt: skip
_INDENT_MAX: Final = 20

Paint = Callable[[str, str], str]


def stats(answer: dict[str, Any], every: list[str | None], by: str, width: int, paint: Paint) -> Iterator[str]:
    """The groups with their figures, then their requests over time; `every`: when each bucket begins."""
    series = answer["series"]
    yield paint(f"{moment(answer['since'])} to {moment(answer['until'])}, by {_step(answer['step_s'])}", "dim")
    kept = chosen(STATS, width)
    yield paint(line(STATS, kept, [by or "all", *(column.title for column in STATS[1:])], width), "dim")
    most = max((one["total"]["requests"] for one in series), default=0)
    for one in series:
        yield line(STATS, kept, _cells(one, most), width)
    yield ""
    yield paint(f"requests by {_step(answer['step_s'])}", "dim")
    for one in series:
        by_bucket = {bucket["ts"]: bucket["requests"] for bucket in one["buckets"]}
        shown = bars([by_bucket.get(ts, 0) for ts in every])
        yield f"{fitted(safe(one['value']) or 'all', STATS[0].width)}  {shown}".rstrip()


def _step(step_s: int) -> str:
    return {60: "minute", 3600: "hour"}.get(step_s, "day")


def _cells(one: dict[str, Any], most: int) -> list[str]:
    total = one["total"]
    ttft, took, pace = (total.get(name) or {} for name in ("ttft_ms", "duration_ms", "output_tokens_per_second"))
    return [
        safe(one["value"]) or "all",
        f"{total['requests']:,}",
        f"{total['errors']:,}",
        count(total["input_tokens"]),
        count(total["output_tokens"]),
        dollars(_priced(total, total["requests"])),
        *(span_ms(ttft.get(share)) for share in ("p50", "p95", "p99")),
        *(span_ms(took.get(share)) for share in ("p50", "p95", "p99")),
        f"{pace['p50']:.0f}" if pace else "",
        bar(total["requests"], most, STATS[-1].width),
    ]


def _priced(one: dict[str, Any], exchanges: int) -> float | None:
    """The cost, unless the price list has none of these."""
    return None if one["unpriced"] == exchanges else one["cost_usd"]


def sessions(found: Iterable[dict[str, Any]], width: int, paint: Paint) -> Iterator[str]:
    """A session a line."""
    kept = chosen(SESSIONS, width)
    yield paint(line(SESSIONS, kept, [column.title for column in SESSIONS], width), "dim")
    for one in found:
        yield line(SESSIONS, kept, _session(one), width)


def _session(one: dict[str, Any]) -> list[str]:
    return [
        moment(one["last_ts"]),
        one["session_root_id"][-12:],
        str(one["n_turns"]),
        safe(", ".join(one["models"])),
        safe(one["client_kind"] or ""),
        count(one["input_tokens"]),
        count(one["output_tokens"]),
        dollars(_priced(one, one["n_turns"])),
        str(one["err_count"] or ""),
        safe(one["client_project"] or ""),
    ]


def tree(session: dict[str, Any], turns: Iterator[dict[str, Any]], width: int, paint: Paint) -> Iterator[str]:
    """A session's turns, each below the one it goes on from."""
    yield from sessions([session], width, paint)
    yield ""
    for turn in turns:
        indent = "  " * min(turn["depth"] or 0, _INDENT_MAX)
        facts = [turn["id"][-12:], str(turn["status"] or "-"), safe(turn["model"] or ""), span_ms(turn["duration_ms"])]
        head = f"{moment(turn['ts_start'])}  {indent}{'└ ' if turn['parent_id'] else ''}" + "  ".join(
            part for part in facts if part
        )
        failed = turn["error_type"] or (turn["status"] or 0) >= 400
        yield paint(head, "error") if failed else head
        for mark, said in ((">", turn["prompt"]), ("<", turn["answer"])):
            if said:
                yield paint(f"{' ' * 21}{indent}{mark} {safe(' '.join(said.split()))}"[:width], "dim")
