"""An index with many rows, made through the indexer's own classes: sessions, models, clients, texts as real traffic has.

    python bench/index_rows.py PATH [--rows N] [--days N]

Rows come in the order in which exchanges begin, as from one proxy, in transactions of `BATCH`. There are no segment files
behind them. The same numbers give the same rows.
"""

import argparse
import bisect
import itertools
import random
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from llmdump.assembly import Exchange
from llmdump_indexer.index import Changes, Index
from llmdump_indexer.read import Candidate, Read
from llmdump_indexer.store import TraceRow

BATCH = 2000
ENDS_MS = 1_767_225_600_000
DAY_MS = 86_400_000
SESSIONS_AT_ONCE = 400
# (model, provider, api, path, $ per million input and output tokens, tokens/s)
MODELS = (
    ("claude-sonnet-4-5", "anthropic", "anthropic.messages", "/v1/messages?beta=true", 3.0, 15.0, 70),
    ("claude-opus-4-5", "anthropic", "anthropic.messages", "/v1/messages?beta=true", 5.0, 25.0, 50),
    ("gpt-5", "openai", "openai.responses", "/v1/responses", 1.25, 10.0, 80),
    ("gpt-5-mini", "openai", "openai.chat", "/v1/chat/completions", 0.25, 2.0, 150),
    ("gpt-4o", "openai", "openai.chat", "/v1/chat/completions", 2.5, 10.0, 90),
    ("gemini-2.5-pro", "google", "gemini.stream", "/v1beta/models/gemini-2.5-pro:streamGenerateContent", 1.25, 10.0, 90),
    ("gemini-2.5-flash", "google", "gemini.generate", "/v1beta/models/gemini-2.5-flash:generateContent", 0.3, 2.5, 200),
    ("qwen3:32b", "ollama", "ollama.chat", "/api/chat", None, None, 25),
    ("text-embedding-3-small", "openai", "openai.embeddings", "/v1/embeddings", 0.02, 0.0, None),
    ("deepseek-chat", "deepseek", "openai.chat", "/deepseek/v1/chat/completions", 0.28, 0.42, 40),
    ("command-r-plus", "cohere", "cohere.chat_v2", "/v2/chat", 2.5, 10.0, 45),
    ("mistral-large-latest", "mistral", "openai.chat", "/mistral/v1/chat/completions", 2.0, 6.0, 60),
)
CLIENTS = ("claude-code", "codex-cli", "openai-sdk-python", "curl", "gemini-cli", "opencode", "cline", "anthropic-sdk-ts")
ERRORS = ((429, "rate_limit_error"), (400, "invalid_request_error"), (500, "api_error"), (529, "overloaded_error"))
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "la",
    "me",
    "ni",
    "po",
    "ru",
    "sa",
    "te",
    "vi",
    "zo",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
)


class Chance(random.Random):
    """Choices as traffic makes them: a few things often, many seldom."""

    def few(self, things: list[str] | tuple, weights: dict = {}) -> str:  # noqa: B006 - a memory of sums
        """One of them, the n-th in proportion to 1/n."""
        sums = weights.get(len(things)) or weights.setdefault(
            len(things), list(itertools.accumulate(1 / rank for rank in range(1, len(things) + 1)))
        )
        return things[bisect.bisect(sums, self.random() * sums[-1])]


class Session:
    """A conversation that goes on."""

    def __init__(self, chance: Chance, projects: list[str], keys: list[str]) -> None:
        self.model = chance.few(MODELS)
        self.client = chance.few(CLIENTS)
        self.project = chance.few(projects) if chance.random() < 0.6 else None
        self.key = chance.few(keys)
        self.hint = str(chance.getrandbits(64)) if chance.random() < 0.3 else None
        self.turns_left = min(200, int(chance.paretovariate(0.9)))
        self.prefixes: tuple[str, ...] = ()
        self.tokens = chance.randrange(200, 20_000)


class Traffic:
    """Exchanges one after another."""

    def __init__(self, rows: int, days: int) -> None:
        self.chance = Chance(1)
        self.words = ["".join(self.chance.choices(SYLLABLES, k=self.chance.randrange(1, 5))) for _ in range(20_000)]
        self.projects = [f"project-{index}" for index in range(60)]
        self.keys = [f"{self.chance.getrandbits(64):016x}" for _ in range(40)]
        self.sessions = [self._session() for _ in range(SESSIONS_AT_ONCE)]
        self.step_us = days * DAY_MS * 1000 // rows
        self.now_us = (ENDS_MS - days * DAY_MS) * 1000

    def _session(self) -> Session:
        return Session(self.chance, self.projects, self.keys)

    def _words(self, mean: float) -> str:
        return " ".join(self.chance.few(self.words) for _ in range(1 + int(self.chance.expovariate(1 / mean))))

    def row(self, number: int) -> TraceRow:
        """The next one."""
        chance = self.chance
        self.now_us += int(chance.expovariate(1 / self.step_us))
        at = chance.randrange(SESSIONS_AT_ONCE)
        session = self.sessions[at]
        session.turns_left -= 1
        if session.turns_left <= 0:
            self.sessions[at] = self._session()
        return TraceRow(number, *self._exchange(number, session))

    def _exchange(self, number: int, session: Session) -> tuple[Exchange, Read]:
        chance = self.chance
        name, provider, api, path, usd_in, usd_out, rate = session.model
        failed = chance.random() < 0.03
        status, error = chance.few(ERRORS) if failed else (200, None)
        cut = not failed and chance.random() < 0.02
        output = 0 if failed or rate is None else int(chance.expovariate(1 / 400)) + 1
        cached = session.tokens * 3 // 4 if session.prefixes else 0
        ttft_us = None if failed or rate is None else int(chance.lognormvariate(13, 0.6))
        took_us = int(chance.lognormvariate(12, 0.5)) + (ttft_us or 0) + (output * 1_000_000 // rate if rate else 0)
        identity = uuid.UUID(int=(self.now_us // 1000 << 80) | (0x7 << 76) | (0x8 << 60) << 2 | number)
        exchange = Exchange(
            id=str(identity), instance=f"{number // 200_000:016x}", started_us=self.now_us, first_record=number * 9,
            last_record=number * 9 + 8, ts_end=(self.now_us + took_us) // 1000, client="10.0.0.7:51000", method="POST",
            path=path, route_path=path.partition("?")[0], upstream="https://upstream.example", backend=provider,
            status=status, end_reason="client_closed" if cut else "complete", disconnected=cut, model=name,
            stream=rate is not None, key_hash=session.key, req_bytes=session.tokens * 4, resp_bytes=output * 180 + 300,
            resp_chunks=output // 3 + 1, first_byte_us=(ttft_us or took_us) - 900, duration_us=took_us,
            own_first_us=int(chance.expovariate(1 / 150)), own_worst_us=int(chance.expovariate(1 / 250)), own_sum_us=900,
        )  # fmt: skip
        candidates: tuple[Candidate, ...] = ()
        if rate is not None:
            wanted = [Candidate(prefix, "prefix") for prefix in reversed(session.prefixes)]
            candidates = (*wanted[:200], *([Candidate(f"s:{session.hint}", "session")] if session.hint else []))
            added = tuple(f"{chance.getrandbits(64):016x}" for _ in range(2 if session.prefixes else 1))
            session.prefixes = (*session.prefixes, *added)
        cost = None if usd_in is None else int((session.tokens - cached * 0.9) * usd_in * 1000 + output * usd_out * 1000)
        read = Read(
            provider=provider, api=api, framing="sse", model=name, model_asked=name, stream=rate is not None,
            prompt_tokens=session.tokens, completion_tokens=output, total_tokens=session.tokens + output,
            cached_tokens=cached, input_tokens=session.tokens, input_uncached_tokens=session.tokens - cached,
            cache_read_tokens=cached, output_tokens=output, cost_nano_usd=cost, ttft_us=ttft_us,
            output_tokens_per_second=rate * chance.uniform(0.7, 1.2) if rate else None, event_count=output,
            gap_p50_us=9000, gap_p99_us=30000, gap_worst_us=90000, complete=not (failed or cut),
            finish_reason=None if failed or cut else chance.few(("end_turn", "tool_use", "stop", "length")), error_type=error,
            cut_by="client" if cut else None, response_id=f"resp_{number}", client_kind=session.client, client_version="1.0.0",
            client_project=session.project, session_hint=session.hint, candidates=candidates,
            keys=(*session.prefixes[-1:], f"r:resp_{number}", *([f"s:{session.hint}"] if session.hint else [])),
            prompt_new=self._words(30), answer_new="" if failed else self._words(50),
        )  # fmt: skip
        session.tokens += output + chance.randrange(20, 900)
        return exchange, read


def batches(rows: int, days: int) -> Iterator[list[TraceRow]]:
    """All rows, `BATCH` at a time."""
    traffic = Traffic(rows, days)
    for first in range(1, rows + 1, BATCH):
        yield [traffic.row(number) for number in range(first, min(first + BATCH, rows + 1))]


def make(path: Path, rows: int, days: int = 30) -> float:
    """Make the index; the seconds that the index took, without those of making rows."""
    took_s = 0.0
    with Index(path) as index:
        for batch in batches(rows, days):
            begin_s = time.perf_counter()
            index.save(Changes(batch, [], [], [], [], [], []))
            took_s += time.perf_counter() - begin_s
            print(f"\r{batch[-1].number:,} rows, {batch[-1].number / took_s:,.0f}/s", end="", file=sys.stderr, flush=True)
    print(f", {path.stat().st_size / rows:,.0f} bytes a row", file=sys.stderr)
    return took_s


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=30)
    given = parser.parse_args()
    make(given.path, given.rows, given.days)
