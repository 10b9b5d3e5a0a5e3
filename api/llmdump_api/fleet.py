"""The other processes: whether all four roles work, and everybody's metrics on one page.

Who lives is known from their cards (see `llmdump.presence`); each is asked over HTTP at the address on its card, all at
the same time, for at most `ASK_TIMEOUT_S`.
"""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from llmdump import presence
from llmdump.admin import count_swallowed
from llmdump.presence import Card, Presence

ROLES: Final = ("proxy", "writer", "indexer", "api")
ASK_TIMEOUT_S: Final = 2.0
PAGE_BYTES_MAX: Final = 8 * 1024 * 1024


class Fleet:
    """All living processes of one data directory."""

    def __init__(self, run: Path, own: Presence, http: aiohttp.ClientSession) -> None:
        self._run = run
        self._own = own
        self._http = http

    def living(self) -> list[Card]:
        """The cards of all that live. Blocking, milliseconds at most."""
        return presence.living(self._run)

    async def readiness(self) -> tuple[bool, dict[str, Any]]:
        """Whether every role has a process that runs and says it works, and what is missing."""
        cards = await asyncio.to_thread(self.living)
        states = await asyncio.gather(*(self._state(card) for card in cards))
        processes = [{"process": card.name, "pid": card.pid, "state": state} for card, state in zip(cards, states, strict=True)]
        missing = [_missing(role, cards, states) for role in ROLES if not _works(role, cards, states)]
        return not missing, {"status": "not ready" if missing else "ready", "missing": missing, "processes": processes}

    async def metrics(self, own_page: bytes) -> bytes:
        """Every process's metrics, each sample with a label `process`. Those who do not answer are counted."""
        cards = [card for card in await asyncio.to_thread(self.living) if card.name != self._own.card.name]
        pages = await asyncio.gather(*(self._page(card) for card in cards))
        named = [(card.name, page) for card, page in zip(cards, pages, strict=True) if page is not None]
        return await asyncio.to_thread(merge, [*named, (self._own.card.name, own_page)])

    async def _state(self, card: Card) -> str:
        """`running` for one that works, else what it says or does."""
        if card.state != "running" or card.name == self._own.card.name:
            return card.state
        try:
            async with self._http.get(f"{card.admin}/healthz") as answer:
                return "running" if answer.status == 200 else "failing"
        except (aiohttp.ClientError, TimeoutError, ValueError):
            return "silent"

    async def _page(self, card: Card) -> bytes | None:
        if not card.admin:
            return None  # it has only just begun
        try:
            async with self._http.get(f"{card.admin}/metrics?scope=own") as answer:
                page = await answer.content.read(PAGE_BYTES_MAX) if answer.status == 200 else b""
                while page and not answer.content.at_eof() and len(page) < PAGE_BYTES_MAX:
                    page += await answer.content.read(PAGE_BYTES_MAX - len(page))
        except (aiohttp.ClientError, TimeoutError, ValueError):
            page = b""
        if not page:
            count_swallowed("metrics_not_fetched")
        return page or None


def _works(role: str, cards: list[Card], states: list[str]) -> bool:
    """One that runs is enough, but none may be failing or silent."""
    of_role = [state for card, state in zip(cards, states, strict=True) if card.role == role]
    return "running" in of_role and not {"failing", "silent"} & set(of_role)


def _missing(role: str, cards: list[Card], states: list[str]) -> dict[str, str]:
    of_role = [f"{card.name} is {state}" for card, state in zip(cards, states, strict=True) if card.role == role]
    return {"role": role, "reason": ", ".join(of_role) or "no process", "start": f"llmdump-{role}"}


class _Merged(Collector):
    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Family]:
        yield from self._families


def merge(pages: Iterable[tuple[str, bytes]]) -> bytes:
    """Pages in Prometheus text format as one, each sample labelled with its process. Pure. A page that is no such text
    is left out and counted."""
    families: dict[str, Family] = {}
    for process, page in pages:
        try:
            found = list(text_string_to_metric_families(page.decode("utf-8")))
        except (ValueError, KeyError, IndexError):
            count_swallowed("metrics_not_parsed")
            continue
        for family in found:
            merged = families.setdefault(family.name, Family(family.name, family.documentation, family.type))
            for sample in family.samples:
                merged.add_sample(sample.name, {**sample.labels, "process": process}, sample.value)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Merged(families.values()))
    return generate_latest(registry)
