"""Which processes of an instance live, and whether they work.

A process lives if it holds its card (see `presence`), and works if its /healthz says so.
"""

import http.client
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

from llmdump import presence
from llmdump.data_dir import DataDir
from llmdump.presence import Card

ROLES: Final = ("proxy", "writer", "indexer", "api")
"""In the order of the pipeline."""
TIMEOUT_S: Final = 3.0
_ANSWER_BYTES_MAX: Final = 65536
_ASKED_AT_ONCE_MAX: Final = 32
# A proxy from the environment would be asked for a loopback address; none is wanted.
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Health(NamedTuple):
    """What /healthz of one process said. `problem` is empty for a process that works."""

    card: Card
    problem: str
    details: dict[str, Any]


def look(data: DataDir) -> list[Health]:
    """The health of every living process, in the order of the pipeline. Blocking, at most `TIMEOUT_S`."""
    cards = presence.living(data.run)
    if not cards:
        return []
    with ThreadPoolExecutor(max_workers=min(len(cards), _ASKED_AT_ONCE_MAX)) as pool:
        return list(pool.map(ask, sorted(cards, key=_in_pipeline_order)))


def _in_pipeline_order(card: Card) -> tuple[int, int]:
    return (ROLES.index(card.role) if card.role in ROLES else len(ROLES), card.slot)


def ask(card: Card) -> Health:
    """One process's health. Blocking, at most `TIMEOUT_S`."""
    if card.state not in {"running", "retiring"}:
        return Health(card, card.state, {})
    try:
        with _OPENER.open(f"{card.admin or 'http://' + card.listen}/healthz", timeout=TIMEOUT_S) as answer:
            return Health(card, "", _details(answer.read(_ANSWER_BYTES_MAX)))
    except urllib.error.HTTPError as err:
        with err:
            details = _details(err.read(_ANSWER_BYTES_MAX))
            return Health(card, f"/healthz says {err.code}{_because(details)}", details)
    except (OSError, ValueError, http.client.HTTPException) as err:
        return Health(card, f"no answer from {card.admin}: {err}", {})


def _details(content: bytes) -> dict[str, Any]:
    try:
        details = json.loads(content)
    except ValueError:
        return {}
    return details if isinstance(details, dict) else {}


def _because(details: dict[str, Any]) -> str:
    """What a process tells beside its card, which is known."""
    told = [f"{name} {value}" for name, value in details.items() if name not in {"status", *Card.__struct_fields__} and value]
    return ": " + ", ".join(told) if told else ""


def missing(found: list[Health]) -> list[str]:
    """The roles nobody plays. One that retires takes no new clients."""
    return [role for role in ROLES if role not in {health.card.role for health in found if health.card.state != "retiring"}]


def works(found: list[Health]) -> bool:
    """Whether all four roles are there and every process works."""
    return not missing(found) and not any(health.problem for health in found)
